"""Pictures for a first run without a download: from installed packages, and drawn portraits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from components import images
from components.faces.landmarks import Landmarks
from components.portraits import drawing

LICENCES = """\
portrait-*.png   drawn by this project (components/portraits); they show nobody; Apache-2.0
astronaut.png    from scikit-image: Eileen Collins, photographed by NASA; public domain
t1.jpg           from insightface, whose code is MIT; it states no licence for the picture itself:
                 use it to try things out, do not publish it
"""


class Sample(NamedTuple):
    """One picture file and the faces in it."""

    name: str
    data: bytes
    landmarks: list[Landmarks]


class _Carried(NamedTuple):
    """A picture in an installed package.

    Its landmarks are the mean of those of three detectors (SCRFD-2.5G, SCRFD-500M, YuNet), which
    differ by 2 pixels on average.
    """

    package: str
    path: str
    sha256: str
    landmarks: tuple[tuple[float, ...], ...]  # ten numbers per face


# insightface's Tom_Hanks_54745.png is left out: a crop so tight that a third of its aligned square
# would be mirror image.
_CARRIED = (
    _Carried(
        "skimage",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        ((202.8, 101.9, 246.5, 103.1, 222.5, 125.2, 203.3, 142.7, 241.2, 143.7),),
    ),
    _Carried(
        "insightface",
        "data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
        (
            (85.6, 326.5, 130.3, 306.7, 118.7, 337.3, 110.0, 367.5, 148.0, 350.9),
            (285.1, 207.9, 320.5, 192.7, 302.4, 227.4, 309.8, 247.5, 338.6, 234.3),
            (491.9, 321.1, 542.2, 332.4, 509.3, 359.1, 484.2, 369.1, 530.5, 379.1),
            (762.6, 399.1, 805.0, 401.5, 774.0, 429.2, 766.4, 442.8, 805.4, 444.2),
            (918.0, 119.8, 946.4, 115.4, 920.1, 150.3, 935.6, 171.0, 959.7, 166.3),
            (1146.8, 324.2, 1192.4, 320.7, 1166.3, 344.9, 1153.5, 365.6, 1194.3, 362.6),
        ),
    ),
)


def carried() -> Iterator[Sample]:
    """Read the pictures of installed packages.

    Raises: FileNotFoundError without the package; ValueError if its picture has changed.
    """
    for picture in _CARRIED:
        spec = find_spec(picture.package)
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise FileNotFoundError(f"the package {picture.package} is not installed")
        file = Path(folders[0]) / picture.path
        data = file.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != picture.sha256:
            raise ValueError(
                f"{file} has SHA-256 {found}, its landmarks were measured on {picture.sha256}: "
                f"install the version of {picture.package} in requirements.lock"
            )
        faces = [np.array(points).reshape(5, 2) for points in picture.landmarks]
        yield Sample(file.name, data, faces)


def drawn(seed: int, count: int) -> Iterator[Sample]:
    """Draw `count` portraits; the first ones stay the same when there are more.

    It leaves OpenCV with one thread. With more, other work decides which rows a thread gets, and
    some functions round differently there.
    """
    cv2.setNumThreads(1)

    def draw(number: int) -> Sample:
        portrait = drawing.draw(seed, number)
        name = f"portrait-{number:04d}.png"
        return Sample(name, images.encode_png(portrait.image), [portrait.landmarks])

    with ThreadPoolExecutor() as pool:  # NumPy and OpenCV do most of the work, and release the GIL
        yield from pool.map(draw, range(count))
