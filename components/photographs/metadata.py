"""What a picture file says about its picture: read as blocks, and written as the same blocks.

            JPEG    PNG                     WebP   TIFF        HEIC, AVIF, JPEG XL
EXIF        APP1    eXIf                    EXIF   its tags    Exif
XMP         APP1    iTXt                    XMP    tag 700     xml
IPTC        APP13   as ImageMagick's text   -      tag 33723   -
comment     COM     tEXt, iTXt              -      -           -
resolution  JFIF    pHYs                    -      its tags    -
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import PIL.Image

from components.image_files import kinds
from components.photographs import blocks, exif_block, tiff_tags, xmp
from components.photographs.blocks import Chunk, Segment

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_APP1, _APP2, _APP13, _COM = 0xE1, 0xE2, 0xED, 0xFE
# JFIF with its thumbnail, the profile and the list of further pictures (APP2), signatures of the
# bytes (APP11), the meaning of the colours (APP14): written anew, or no longer true.
_NOT_COPIED = (0xE0, _APP2, 0xEB, 0xEE)
_PNG_XMP = b"XML:com.adobe.xmp\0"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_PNG_COLOURS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_HEADER = 65_536  # bytes of an AVIF or HEIC within which its colours are described
# BT.709, BT.601, not specified; transfers of these and of sRGB.
_SRGB_PRIMARIES = (b"\x01", b"\x02", b"\x05", b"\x06")
_SRGB_TRANSFERS = (b"\x01", b"\x02", b"\x06", b"\x0d")
_MOST_TEXT = 16_000_000  # bytes of PNG text that are copied
_INCH = 0.0254  # metres


@dataclass(frozen=True)
class Metadata:
    """The blocks of a picture file, true for the upright picture."""

    exif: bytes | None = None  # a TIFF structure, without orientation, size and thumbnail
    xmp: bytes | None = None  # a packet
    iptc: bytes | None = None  # IPTC's own records
    photoshop: bytes | None = None  # Photoshop's resources, which hold IPTC's records
    comment: bytes | None = None
    segments: tuple[Segment, ...] = ()  # of a JPEG, which only a JPEG can hold
    texts: tuple[Chunk, ...] = ()  # of a PNG, which only a PNG can hold
    colours: tuple[Chunk, ...] = ()  # of a PNG, what its numbers mean where it has no profile
    resolution: tuple[float, float] | None = None  # dots per inch, across and down
    lost: tuple[str, ...] = ()  # what could not be read


def read(data: bytes, picture: PIL.Image.Image) -> Metadata:
    """Read the blocks of a picture file; `picture` is what Pillow opened of it."""
    kind = kinds.of(data[: kinds.START])
    found = {kinds.JPEG: _of_jpeg, kinds.PNG: _of_png}.get(kind) if kind else None
    taken = found(data) if found else _of_pillow(picture)
    if kind in (kinds.AVIF, kinds.HEIC):
        taken = replace(taken, colours=_nclx(data))
    if kind is kinds.TIFF:
        taken = _of_tiff(data)
    return replace(_upright(taken), resolution=_resolution(picture))


def marked(metadata: Metadata, restored_by: str) -> Metadata:
    """Say in XMP that faces were restored, and by which model."""
    try:
        return replace(metadata, xmp=xmp.marked(metadata.xmp, restored_by))
    except ValueError as error:
        lost = (*metadata.lost, f"the XMP data ({error})")
        return replace(metadata, xmp=xmp.marked(None, restored_by), lost=lost)


def segments(metadata: Metadata) -> tuple[list[Segment], list[str]]:
    """Return the segments of a JPEG, and what does not fit into one."""
    wanted = []
    if metadata.exif is not None:
        wanted.append(("the EXIF data", Segment(_APP1, _EXIF + metadata.exif)))
    if metadata.xmp is not None:
        wanted.append(("the XMP data", Segment(_APP1, _XMP + metadata.xmp)))
    wanted += [("a block", segment) for segment in metadata.segments]
    photoshop = metadata.photoshop
    if photoshop is None and metadata.iptc is not None:
        size = struct.pack(">I", len(metadata.iptc))
        even = b"\0" * (len(metadata.iptc) % 2)
        photoshop = b"8BIM\x04\x04\0\0" + size + metadata.iptc + even
    if photoshop is not None:
        wanted.append(("the IPTC data", Segment(_APP13, _PHOTOSHOP + photoshop)))
    if metadata.comment is not None:
        wanted.append(("the comment", Segment(_COM, metadata.comment)))
    lost = [what for what, one in wanted if len(one.payload) > blocks.LONGEST_SEGMENT]
    fitting = [one for _, one in wanted if len(one.payload) <= blocks.LONGEST_SEGMENT]
    lost += [*(["the text of the PNG"] if metadata.texts else []), *_lost_colours(metadata)]
    return fitting, [*metadata.lost, *lost]


def chunks(metadata: Metadata) -> tuple[list[Chunk], list[str]]:
    """Return the chunks of a PNG, and what does not fit into one."""
    made = list(metadata.colours)
    if metadata.resolution is not None:
        across, down = (round(dots / _INCH) for dots in metadata.resolution)
        made.append(Chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        made.append(Chunk(b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        made.append(Chunk(b"iTXt", _PNG_XMP + bytes(4) + metadata.xmp))
    if metadata.photoshop is not None:
        made.append(_raw_profile(b"8bim", metadata.photoshop))
    elif metadata.iptc is not None:
        made.append(_raw_profile(b"iptc", metadata.iptc))
    if metadata.comment is not None:
        text = metadata.comment.replace(b"\0", b"")
        made.append(Chunk(b"tEXt" if _is_latin(text) else b"iTXt", _comment(text)))
    made += metadata.texts
    extended = any(one.payload.startswith(_XMP_EXTENSION) for one in metadata.segments)
    return made, [*metadata.lost, *(["a part of the XMP data"] if extended else [])]


def lost_in_webp(metadata: Metadata) -> list[str]:
    """List what a WebP cannot hold."""
    lost = list(metadata.lost)
    if metadata.photoshop is not None or metadata.iptc is not None:
        lost.append("the IPTC data")
    if metadata.comment is not None:
        lost.append("the comment")
    if metadata.texts:
        lost.append("the text of the PNG")
    return lost + _lost_colours(metadata)


def _of_jpeg(data: bytes) -> Metadata:
    found = Metadata()
    others: list[Segment] = []
    photoshop = []
    for segment in blocks.segments(data):
        marker, payload = segment
        if marker == _APP1 and payload.startswith(_EXIF) and found.exif is None:
            found = replace(found, exif=payload)
        elif marker == _APP1 and payload.startswith(_XMP) and found.xmp is None:
            found = replace(found, xmp=payload.removeprefix(_XMP))
        elif marker == _APP13 and payload.startswith(_PHOTOSHOP):
            photoshop.append(payload.removeprefix(_PHOTOSHOP))
        elif marker == _COM and found.comment is None:
            found = replace(found, comment=payload)
        elif (0xE0 <= marker <= 0xEF and marker not in _NOT_COPIED) or marker == _COM:
            others.append(segment)
    joined = b"".join(photoshop)
    if len(joined) > blocks.LONGEST_SEGMENT - len(_PHOTOSHOP):  # in parts, as it was
        others += [Segment(_APP13, _PHOTOSHOP + part) for part in photoshop]
        joined = b""
    return replace(found, photoshop=joined or None, segments=tuple(others))


def _of_png(data: bytes) -> Metadata:
    exif = packet = None
    texts: list[Chunk] = []
    colours: list[Chunk] = []
    for chunk in blocks.chunks(data):
        if chunk.name == b"eXIf":
            exif = chunk.payload
        elif chunk.name == b"iTXt" and chunk.payload.startswith(_PNG_XMP):
            packet = _unpacked(chunk.payload.removeprefix(_PNG_XMP))
        elif chunk.name in _PNG_COLOURS:
            colours.append(chunk)
        elif chunk.name in _PNG_TEXTS and not _is_raw_exif(chunk):
            texts.append(chunk)
    too_much = sum(len(text.payload) for text in texts) > _MOST_TEXT
    return Metadata(
        exif,
        packet,
        texts=() if too_much else tuple(texts),
        colours=tuple(colours),
        lost=("the text of the PNG",) if too_much else (),
    )


def _unpacked(text: bytes) -> bytes | None:
    """Return the text of an iTXt after its keyword, which may be compressed."""
    _, _, text_with_name = text[2:].partition(b"\0")
    packet = text_with_name.partition(b"\0")[2]
    if text[:1] != b"\1":
        return packet
    try:
        return zlib.decompressobj().decompress(packet, _MOST_TEXT)
    except zlib.error:
        return None


def _is_raw_exif(chunk: Chunk) -> bool:
    """Return whether a text is ImageMagick's way to hold EXIF, whose orientation is untrue here."""
    return chunk.payload.startswith((b"Raw profile type exif", b"Raw profile type APP1"))


def _of_pillow(picture: PIL.Image.Image) -> Metadata:
    exif, packet, comment = (picture.info.get(name) for name in ("exif", "xmp", "comment"))
    return Metadata(
        exif=exif if isinstance(exif, bytes) and exif else None,
        xmp=packet if isinstance(packet, bytes) and packet else None,
        comment=comment if isinstance(comment, bytes) and comment else None,
    )


def _nclx(data: bytes) -> tuple[Chunk, ...]:
    """Return what AVIF and HEIC say about their colours where these are not those of sRGB.

    A PNG says it with the same numbers (ITU-T H.273): primaries and transfer; then RGB, full range.
    """
    at = data.find(b"colrnclx", 0, _HEADER)
    if at < 0 or at + 12 > len(data):
        return ()
    primaries, transfer = struct.unpack(">HH", data[at + 8 : at + 12])
    if primaries > 255 or transfer > 255:
        return ()
    chunk = Chunk(b"cICP", bytes((primaries, transfer, 0, 1)))
    return (chunk,) if _is_special(chunk) else ()


def _is_special(chunk: Chunk) -> bool:
    """Return whether numbers with this meaning look wrong as sRGB."""
    if chunk.name == b"cICP":
        return chunk.payload[:1] not in _SRGB_PRIMARIES or chunk.payload[1:2] not in _SRGB_TRANSFERS
    if chunk.name == b"gAMA" and len(chunk.payload) == 4:
        return not 40_000 < int.from_bytes(chunk.payload, "big") < 50_000  # 1 / 2.2, in 100,000ths
    return False


def _lost_colours(metadata: Metadata) -> list[str]:
    return ["what the file says about its colours"] * any(map(_is_special, metadata.colours))


def _of_tiff(data: bytes) -> Metadata:
    try:
        tags = tiff_tags.read(data)
    except ValueError:
        return Metadata(lost=("the tags of the TIFF, which cannot be read",))
    lost = ("Photoshop's layers",) if tags.has_layers else ()
    return Metadata(tags.exif, tags.xmp, tags.iptc, tags.photoshop, lost=lost)


def _upright(metadata: Metadata) -> Metadata:
    """Take what is untrue of an upright picture out of EXIF and XMP."""
    packet = None if metadata.xmp is None else xmp.upright(metadata.xmp)
    if metadata.exif is None:
        return replace(metadata, xmp=packet)
    try:
        return replace(metadata, xmp=packet, exif=exif_block.upright(metadata.exif))
    except ValueError:
        lost = (*metadata.lost, "the EXIF data, which cannot be read")
        return replace(metadata, xmp=packet, exif=None, lost=lost)


def _resolution(picture: PIL.Image.Image) -> tuple[float, float] | None:
    dots = picture.info.get("dpi")
    try:
        across, down = (float(one) for one in dots or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    usable = 1 <= across <= 65_535 and 1 <= down <= 65_535
    return (across, down) if usable else None


def _raw_profile(name: bytes, block: bytes) -> Chunk:
    """Write a block as text of a PNG, in the way of ImageMagick, which exiftool reads too."""
    digits = block.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (name, len(block), lines)
    return Chunk(b"tEXt", b"Raw profile type %s\0" % name + text)


def _comment(text: bytes) -> bytes:
    return b"Comment\0" + text if _is_latin(text) else b"Comment\0" + bytes(4) + text


def _is_latin(text: bytes) -> bool:
    """Return whether a text is not UTF-8 beyond ASCII, and so belongs into tEXt."""
    try:
        return text.decode().isascii()
    except UnicodeDecodeError:
        return True


def words_of(lost: Sequence[str]) -> Iterator[str]:
    """Give a note on what was left out, if anything was."""
    if lost:
        yield f"left out: {', '.join(dict.fromkeys(lost))}"
