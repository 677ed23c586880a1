"""XMP packets: a packet is copied as it is, with what was done to the picture put in."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

_NAMESPACE = "urn:hdrface:xmp:1.0#"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b"</rdf:RDF></x:xmpmeta>\n"
    b'<?xpacket end="w"?>'
)
_END = re.compile(rb"</([A-Za-z_][\w.-]*:)?RDF\s*>")
_OURS = re.compile(rb"<[\w.-]+:Description[^<>]*xmlns:hdrface=[^<>]*/>")
_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>\s*))[2-8]")
_PADDING = re.compile(rb"\s{64,}(<\?xpacket end)")


def upright(packet: bytes) -> bytes:
    """Say in a packet that its picture lies the right way up."""
    return _ORIENTATION.sub(rb"\g<1>1", packet)


def marked(packet: bytes | None, restored_by: str) -> bytes:
    """Say in a packet, or in a new one, that faces were restored by which model.

    It is said in our own words, and in IPTC's: a composite with what a trained model made.

    Raises: ValueError if the packet is no XMP in UTF-8.
    """
    packet = _PADDING.sub(rb"\n\1", _OURS.sub(b"", _EMPTY if packet is None else packet))
    ends = list(_END.finditer(packet))
    if not ends:
        raise ValueError("it is no XMP in UTF-8")
    properties = (
        f"hdrface:RestoredBy={quoteattr(f'faces restored by HDRFace, model {restored_by}')}"
    )
    if b"DigitalSourceType" not in packet:
        properties += (
            f' xmlns:iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
            f' iptc:DigitalSourceType="{_SOURCE}"'
        )
    prefix = (ends[-1][1] or b"r:").decode()
    about = f'{prefix}about=""' if ends[-1][1] else f'xmlns:r="{_RDF}" r:about=""'
    added = f'<{prefix}Description {about} xmlns:hdrface="{_NAMESPACE}" {properties}/>'
    at = ends[-1].start()
    packet = packet[:at] + added.encode("utf-8", "replace") + packet[at:]
    if b"<!" in packet.replace(b"<!--", b""):  # an entity could grow without end
        raise ValueError("it declares its own entities")
    try:
        ElementTree.fromstring(packet.strip(b"\0"))
    except ElementTree.ParseError as error:
        raise ValueError(f"it cannot be read: {error}") from error
    return packet
