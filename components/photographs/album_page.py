"""A page of an album: each photograph and each of its faces, before and after.

It needs no server and no network: `page.html` shows small JPEGs of the folder `page-files`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import PIL.Image

from components import files, images
from components.console import printable
from components.image_files.colours import upright
from components.image_files.opening import open_picture
from components.photographs.photograph import MAX_PIXELS
from components.photographs.results import Result

log = logging.getLogger(__name__)

PAGE, PICTURES = "page.html", "page-files"
_SIDE, _FACE_SIDE = 640, 256  # pixels
_MOST_FACES = 12  # of one photograph that are shown
_MARGIN = 0.35  # on each side of a face, in sides of its box
_QUALITY = 88
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Restored photographs</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem }
section { border-top: 1px solid #8884; padding: 1rem 0 }
h2 { font-size: 1rem; overflow-wrap: anywhere }
div { display: flex; flex-wrap: wrap; gap: .5rem }
figure { margin: 0 } figcaption { color: #777 }
figure { flex: 0 1 auto; min-width: min(20rem, 100%); max-width: calc(50% - .5rem) }
figure img { display: block; max-width: 100%; height: auto }
div.faces figure { display: flex; min-width: 0; max-width: 100% }
div.faces img { height: 9rem; width: auto }
@media (max-width: 45rem) { figure { max-width: 100% } }
</style></head><body>
<h1>Restored photographs</h1>
"""


def write(out: Path, results: Sequence[Result]) -> None:
    """Write the page of a folder of results, and its pictures."""
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    sections = [_section(out, number, result) for number, result in enumerate(results, start=1)]
    files.write_text(out / PAGE, "".join([_HEAD, *sections, "</body></html>\n"]))


def _section(out: Path, number: int, result: Result) -> str:
    """Return the part of the page about one input."""
    parts = [f"<section><h2>{_text(result.input)}</h2>", f"<p>{_text(_said(result))}</p>"]
    record = result.record or {}
    if result.output is not None and "faces" in record:
        try:
            parts += _pictures(out, f"{PICTURES}/{number:05d}", result, record)
        except (OSError, ValueError) as error:  # a file that was moved meanwhile
            parts.append(f"<p>no picture: {_text(error)}</p>")
    elif result.output is not None:
        link = Path(result.output).relative_to(out).as_posix()
        address = quote(link.encode("utf-8", "surrogateescape"))
        parts.append(f'<p><a href="{escape(address)}">{_text(link)}</a></p>')
    return "\n".join([*parts, "</section>\n"])


def _pictures(out: Path, name: str, result: Result, record: Mapping[str, Any]) -> Iterator[str]:
    assert result.output is not None
    before, after = _open(Path(result.input)), _open(Path(result.output))
    yield "<div>"
    for side, picture in (("before", before), ("after", after)):
        small = picture.copy()
        small.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
        yield _figure(out, f"{name}-{side}.jpg", small, side)
    yield '</div><div class="faces">'
    restored = [face for face in record["faces"] if face["restored"]]
    for number, face in enumerate(restored[:_MOST_FACES], start=1):
        yield "<figure>"
        for side, picture in (("before", before), ("after", after)):
            crop = _face(picture, face["box"], picture.width / record["width"])
            yield _image(out, f"{name}-face{number}-{side}.jpg", crop)
        yield "</figure>"
    yield "</div>"


def _open(file: Path) -> PIL.Image.Image:
    """Return a picture upright in RGB, with its profile. Raises: ImageError, OSError."""
    read = open_picture(file.read_bytes(), max_pixels=MAX_PIXELS, min_side=1)
    turned = upright(read)
    picture = PIL.Image.fromarray(images.from_pil(read))
    if turned.profile is not None:
        picture.info["icc_profile"] = turned.profile
    return picture


def _face(picture: PIL.Image.Image, box: Sequence[float], scale: float) -> PIL.Image.Image:
    left, top, right, bottom = (number * scale for number in box)
    margin = _MARGIN * max(right - left, bottom - top)
    crop = picture.crop(
        (
            max(0, round(left - margin)),
            max(0, round(top - margin)),
            min(picture.width, max(round(right + margin), round(left) + 1)),
            min(picture.height, max(round(bottom + margin), round(top) + 1)),
        )
    )
    ratio = _FACE_SIDE / max(crop.size)
    size = (max(1, round(crop.width * ratio)), max(1, round(crop.height * ratio)))
    return crop.resize(size, PIL.Image.Resampling.BICUBIC)


def _figure(out: Path, name: str, picture: PIL.Image.Image, caption: str) -> str:
    return f"<figure>{_image(out, name, picture)}<figcaption>{caption}</figcaption></figure>"


def _image(out: Path, name: str, picture: PIL.Image.Image) -> str:
    profile = picture.info.get("icc_profile")
    picture.save(out / name, "JPEG", quality=_QUALITY, icc_profile=profile)
    return f'<img src="{name}" width="{picture.width}" height="{picture.height}" loading="lazy">'


def _said(result: Result) -> str:
    parts: list[str] = [result.status]
    if result.record is not None:
        parts.append(f"faces restored: {result.record['num_restored']}")
    return "; ".join([*parts, *([result.reason] if result.reason else [])])


def _text(value: object) -> str:
    return escape(printable(value))
