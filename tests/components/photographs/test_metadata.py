"""Metadata are copied as blocks: what other programs wrote is found again to the byte."""

import io
import struct
import zlib
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from components import images
from components.photographs import blocks, encoding, exif_block, photograph, xmp
from components.photographs.blocks import Chunk, Segment
from components.photographs.options import FileFormat

MAKER_NOTE = b"MAKER\0\x01\x02 points to byte 300"
THUMBNAIL = b"\xff\xd8 a thumbnail, which shows the face before \xff\xd9"
TEXT = "Großmutter, 1931, Łódź".encode()
PACKET = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" dc:source="box 7"/>'
    b"</rdf:RDF></x:xmpmeta>" + b" " * 2000 + b'<?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x05\0\x05title"


def pixels() -> images.Image:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def file(format_: str, **about: Any) -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(pixels()).save(data, format_, **about)
    return data.getvalue()


def exif(order: str) -> bytes:
    """Write EXIF data with text in UTF-8, a maker note, a size, an orientation and a thumbnail."""

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    def number(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    short = struct.pack(f"{order}H", 6)
    head = (b"II*\0" if order == "<" else b"MM\0*") + number(8)
    camera_at, text_at, note_at, second_at = 100, 200, 300, 400
    first = struct.pack(f"{order}H", 3)
    first += entry(0x010E, 2, len(TEXT) + 1, number(text_at))
    first += entry(0x0112, 3, 1, short)
    first += entry(0x8769, 4, 1, number(camera_at)) + number(second_at)
    camera = struct.pack(f"{order}H", 3)
    camera += entry(0x8827, 3, 1, short)
    camera += entry(0x927C, 7, len(MAKER_NOTE), number(note_at))
    camera += entry(0xA002, 4, 1, number(60)) + number(0)
    second = struct.pack(f"{order}H", 2) + entry(0x0201, 4, 1, number(500))
    second += entry(0x0202, 4, 1, number(len(THUMBNAIL))) + number(0)
    whole = bytearray(600)
    for at, part in (
        (0, head + first),
        (camera_at, camera),
        (text_at, TEXT),
        (note_at, MAKER_NOTE),
        (second_at, second),
        (500, THUMBNAIL),
    ):
        whole[at : at + len(part)] = part
    return bytes(whole)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_loses_only_what_is_no_longer_true(order: str) -> None:
    before, after = exif(order), exif_block.upright(b"Exif\0\0" + exif(order))
    read = PIL.Image.Exif()
    read.load(after)
    assert read.keys() == {0x010E, 0x8769}
    camera = read.get_ifd(PIL.ExifTags.IFD.Exif)
    assert camera == {0x8827: 6, 0x927C: MAKER_NOTE}
    assert not read.get_ifd(PIL.ExifTags.IFD.IFD1)
    assert b"thumbnail" not in after
    # What is kept lies where it lay: maker notes point into the block.
    for part in (TEXT, MAKER_NOTE):
        assert after.index(part) == before.index(part)


@pytest.mark.parametrize("damage", range(0, 60, 3))
def test_broken_exif_is_left_out_and_said_or_kept(damage: int) -> None:
    broken = bytearray(exif("<"))
    broken[damage] = 0xFF
    taken = photograph.read(file("JPEG", exif=b"Exif\0\0" + bytes(broken)))
    written = encoding.write(taken, format="jpeg")
    said = "left out: the EXIF data, which cannot be read"
    assert (taken.metadata.exif is None) == (said in written.notes)


def segments_of(jpeg: bytes) -> list[Segment]:
    return list(blocks.segments(jpeg))


def test_a_jpeg_keeps_its_blocks() -> None:
    photoshop = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    given = [
        Segment(0xE1, b"Exif\0\0" + exif(">")),
        Segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET),
        Segment(0xED, photoshop),
        Segment(0xFE, TEXT),
        Segment(0xFE, b"a second comment"),
        Segment(0xEC, b"Ducky of its own"),
        Segment(0xE2, b"MPF\0 a list of pictures that are not copied"),
    ]
    source = blocks.with_segments(file("JPEG", dpi=(240, 240)), given)
    written = encoding.write(photograph.read(source), format="jpeg")
    after = segments_of(written.data)
    for one in given[2:6]:
        assert one in after
    assert [one for one in after if b"MPF\0" in one.payload] == []
    kept = PIL.Image.open(io.BytesIO(written.data))
    assert kept.info["dpi"] == (240, 240)
    assert TEXT in kept.info["exif"]
    assert kept.info["xmp"] == PACKET.replace(b'Orientation="6"', b'Orientation="1"')
    assert written.notes == []
    bare = encoding.encode(photograph.read(source), format="jpeg", strip_metadata=True)
    assert {one.marker for one in segments_of(bare)} & {0xE1, 0xED, 0xEC, 0xFE} == set()


def test_a_png_keeps_its_text_its_gamma_and_its_resolution() -> None:
    given = [
        Chunk(b"gAMA", struct.pack(">I", 55_556)),
        Chunk(b"tEXt", b"Author\0Mar\xeda"),
        Chunk(b"zTXt", b"Note\0\0" + zlib.compress(b"behind the picture")),
        Chunk(b"iTXt", b"Title\0\0\0de\0\0" + TEXT),
        Chunk(b"eXIf", exif("<")),
        Chunk(b"pHYs", struct.pack(">IIB", 23_622, 23_622, 1)),  # 600 dots per inch
        Chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(PACKET)),
    ]
    source = blocks.with_chunks(file("PNG"), given)
    written = encoding.write(photograph.read(source), format="png", restored_by="m")
    after = list(blocks.chunks(written.data))
    assert [one for one in given if one in after] == [*given[:4], given[5]]
    names = [one.name for one in after]
    assert names.count(b"gAMA") == names.count(b"pHYs") == names.count(b"eXIf") == 1
    [packet] = [one.payload for one in after if b"adobe.xmp" in one.payload]
    assert b'dc:source="box 7"' in packet
    lost = encoding.write(photograph.read(source), format="jpeg").notes
    assert lost == ["left out: the text of the PNG, what the file says about its colours"]


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_the_tags_of_a_tiff_become_blocks(format_: FileFormat) -> None:
    tags = PIL.Image.Exif()
    tags[PIL.ExifTags.Base.Artist] = "A. Artist"
    tags[PIL.ExifTags.Base.Orientation] = 6
    tags.get_ifd(PIL.ExifTags.IFD.Exif)[0x9003] = "1931:05:01 12:00:00"
    tags.get_ifd(PIL.ExifTags.IFD.Exif)[0x927C] = MAKER_NOTE
    tags.get_ifd(PIL.ExifTags.IFD.GPSInfo).update({1: "N", 2: (51.0, 46.0, 0.5)})
    loaded = PIL.Image.Exif()
    loaded.load(tags.tobytes())
    info = PIL.TiffImagePlugin.ImageFileDirectory_v2()
    info[700], info[33723] = PACKET, IPTC
    info.tagtype.update({700: 1, 33723: 7})
    for key in (315, 274):
        info[key] = loaded[key]
    for key in (0x8769, 0x8825):
        info[key] = loaded.get_ifd(key)
    source = file("TIFF", tiffinfo=info, dpi=(600, 600))
    taken = photograph.read(source)
    assert taken.pixels.shape == (60, 40, 3)  # turned
    written = encoding.write(taken, format=format_)
    kept = PIL.Image.open(io.BytesIO(written.data))
    found = kept.getexif()
    assert found[PIL.ExifTags.Base.Artist] == "A. Artist"
    assert found.get(PIL.ExifTags.Base.Orientation, 1) == 1  # Pillow takes it from XMP too
    assert PIL.ExifTags.Base.StripOffsets not in found
    camera = dict(found.get_ifd(PIL.ExifTags.IFD.Exif))
    assert camera == {0x9003: "1931:05:01 12:00:00", 0x927C: MAKER_NOTE}
    assert found.get_ifd(PIL.ExifTags.IFD.GPSInfo)[2] == (51.0, 46.0, 0.5)
    assert kept.info["xmp"] == PACKET.replace(b'Orientation="6"', b'Orientation="1"')
    if format_ == "webp":
        assert written.notes == ["left out: the IPTC data"]
        return
    assert [round(dots) for dots in kept.info["dpi"]] == [600, 600]
    held = IPTC if format_ == "jpeg" else IPTC.hex().encode()
    assert held in written.data
    assert written.notes == []


DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"


@pytest.mark.parametrize("packet", [None, PACKET, xmp.marked(PACKET, "an earlier model")])
def test_xmp_says_which_model_restored_the_faces(packet: bytes | None) -> None:
    marked = xmp.marked(packet, 'sd21 & "sdfm" (0a1b)')
    properties: dict[str, str] = {}
    for one in ElementTree.fromstring(marked).iter(DESCRIPTION):
        properties |= one.attrib
    said = properties["{urn:hdrface:xmp:1.0#}RestoredBy"]
    assert said == 'faces restored by HDRFace, model sd21 & "sdfm" (0a1b)'
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert properties[iptc].endswith("/compositeWithTrainedAlgorithmicMedia")
    if packet is not None:
        assert properties["{http://purl.org/dc/elements/1.1/}source"] == "box 7"
        assert len(marked) < len(PACKET)  # the room that a packet keeps is used first


@pytest.mark.parametrize("packet", [b"no packet", b'<!DOCTYPE a [<!ENTITY b "c">]></rdf:RDF>'])
def test_xmp_that_cannot_be_read_is_replaced_and_that_is_said(packet: bytes) -> None:
    taken = photograph.read(file("WEBP", xmp=packet))
    written = encoding.write(replace(taken), format="webp", restored_by="m")
    assert b"model m" in written.data
    [note] = written.notes
    assert note.startswith("left out: the XMP data (it ")


def test_the_colours_of_an_avif_without_a_profile_are_told_to_the_png() -> None:
    """ISO/IEC 23091-2: primaries 12 are Display P3's, 9 BT.2020's; transfer 16 is PQ."""
    avif = bytearray(file("AVIF"))
    at = avif.index(b"colrnclx") + 8
    for primaries, transfer, is_told in ((1, 13, False), (12, 13, True), (9, 16, True)):
        avif[at : at + 4] = struct.pack(">HH", primaries, transfer)
        taken = photograph.read(bytes(avif))
        told = [
            one
            for one in blocks.chunks(encoding.encode(taken, format="png"))
            if one.name == b"cICP"
        ]
        assert told == [Chunk(b"cICP", bytes((primaries, transfer, 0, 1)))] * is_told
        lost = encoding.write(taken, format="jpeg").notes
        assert lost == ["left out: what the file says about its colours"] * is_told
