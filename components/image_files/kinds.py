"""Which kinds of picture files there are: those that are read, and those that are refused by name.

The first bytes of a file say what it is; its suffix says what its owner takes it for.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of picture file that is read."""

    name: str
    suffixes: tuple[str, ...]
    pillow: tuple[str, ...]  # the formats that Pillow tries for it


JPEG = Kind("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), ("JPEG", "MPO"))
PNG = Kind("PNG", (".png", ".apng"), ("PNG",))
WEBP = Kind("WebP", (".webp",), ("WEBP",))
BMP = Kind("BMP", (".bmp",), ("BMP",))
TIFF = Kind("TIFF", (".tif", ".tiff"), ("TIFF",))
GIF = Kind("GIF", (".gif",), ("GIF",))
PNM = Kind("PNM", (".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",))
AVIF = Kind("AVIF", (".avif",), ("AVIF",))
JPEG_2000 = Kind("JPEG 2000", (".jp2", ".j2k", ".j2c", ".jpx", ".jpf"), ("JPEG2000",))
HEIC = Kind("HEIC", (".heic", ".heif", ".hif"), ("HEIF",))  # by pillow-heif
JPEG_XL = Kind("JPEG XL", (".jxl",), ("JXL",))  # by pillow-jxl-plugin
KINDS = (JPEG, PNG, WEBP, BMP, TIFF, GIF, PNM, AVIF, JPEG_2000, HEIC, JPEG_XL)

READABLE = tuple(suffix for kind in KINDS for suffix in kind.suffixes)

_RAW = "a raw file of a camera: develop it to TIFF or JPEG first"
_DRAWING = "a drawing: export it as PNG first"
_OTHER = "not a kind of picture that is read: save it as TIFF or PNG first"
_RAW_SUFFIXES = (
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .raf .orf .rw2 .pef .srw .3fr .iiq .x3f "
    ".mrw .dcr .kdc .erf .raw"
)
_OTHER_SUFFIXES = (
    ".tga .pcx .ico .cur .dds .exr .hdr .jxr .wdp .pict .pct .sgi .ras .xbm .xpm "
    ".fits .fit .djvu .flif .bpg .qoi .jng .mng .jls .jpm .dcm .icns"
)
# What else holds pictures: it is listed, so that it is refused, not overlooked.
REFUSED: dict[str, str] = {
    **dict.fromkeys((".psd", ".psb"), "a Photoshop document: save it as TIFF or PNG first"),
    ".xcf": "a GIMP document: export it as TIFF or PNG first",
    ".pdf": "a PDF: export its pages as PNG first",
    **dict.fromkeys(_RAW_SUFFIXES.split(), _RAW),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ai", ".wmf", ".emf", ".cdr"), _DRAWING),
    **dict.fromkeys(_OTHER_SUFFIXES.split(), _OTHER),
}

START = 64  # bytes of a file that tell its kind
_SIGNS: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"BM", BMP),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II\0*", TIFF),  # in the wrong order, which Pillow forgives
    (b"MM*\0", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"\xff\x4f\xff\x51", JPEG_2000),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JPEG_2000),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    *((b"P%d" % number, PNM) for number in range(1, 7)),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"}
_HEIC_BRANDS |= {b"msf1", b"heif", b"miaf"}


def of(start: bytes) -> Kind | None:
    """Return the kind of a file by its first `START` bytes; None: it is none that is read."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return WEBP
    if start[4:8] == b"ftyp":
        return _of_brands(start)
    for sign, kind in _SIGNS:
        if start.startswith(sign):
            if kind is PNM and start[2:3] not in (b" ", b"\n", b"\t", b"\r"):
                return None
            return kind
    return None


def named() -> str:
    """List what is read, for a message."""
    *most, last = [kind.name for kind in KINDS]
    return f"{', '.join(most)} or {last}"


def _of_brands(start: bytes) -> Kind | None:
    size = int.from_bytes(start[:4], "big")
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, min(size, len(start)), 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    return HEIC if brands & _HEIC_BRANDS and start[8:12] != b"crx " else None
