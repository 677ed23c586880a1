"""How much a restored video flickers, with smoothing over time and frame by frame.

    python -m benchmarks.flicker [--model models/sd21-sdfm] [--faces 4] [--frames 24]

It needs a finished run (`make demo`, or `dvc repro` of any profile). A camera pans over a drawn
face that does not move; each frame is degraded anew by blur, noise and JPEG, and the landmarks
tremble as a detector's do. Flicker is the mean step of the face's pixels from frame to frame, in
levels of 255, cut out at its true place: of a still face it should be 0.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import machine
from components.faces import align
from components.faces.detect import Detection
from components.faces.landmarks import Landmarks
from components.images import Image
from components.metrics.flicker import flicker
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRestorer
from components.photographs.video_frames import VideoRestoration
from components.photographs.video_restoration import GROUP
from components.portraits import drawing
from components.restorers.folder import load_restorer

STEP = 2  # pixels that the camera moves a frame
TREMBLE = 0.7  # pixels, standard deviation, of a landmark
BLUR, NOISE, JPEG = 1.5, 6.0, 60  # pixels, levels, quality
SIDE = 128  # pixels of the squares that are compared


@dataclass
class Clip:
    """Degraded frames, and where the face's landmarks truly are in each."""

    frames: list[Image] = field(default_factory=list)
    landmarks: list[Landmarks] = field(default_factory=list)


def clip(number: int, num_frames: int) -> Clip:
    """Pan over a drawn portrait, and degrade each frame anew."""
    drawn, draw, made = drawing.draw(1, number), np.random.default_rng(number), Clip()
    width = drawn.image.shape[1] - STEP * num_frames
    for i in range(num_frames):
        frame = cv2.GaussianBlur(drawn.image[:, STEP * i : STEP * i + width], (0, 0), BLUR)
        noisy = np.clip(frame + draw.normal(scale=NOISE, size=frame.shape), 0, 255)
        _, data = cv2.imencode(".jpg", noisy.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG])
        made.frames.append(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8))
        made.landmarks.append(drawn.landmarks - (STEP * i, 0))
    return made


class Trembling:
    """A detector that finds the face of each frame in turn, a little off."""

    def __init__(self, landmarks: Sequence[Landmarks]) -> None:
        self._landmarks = iter(landmarks)
        self._draw = np.random.default_rng(0)

    def detect(self, image: Image) -> list[Detection]:
        """Find the next face."""
        del image
        points = next(self._landmarks)
        found = points + self._draw.normal(scale=TREMBLE, size=points.shape)
        (left, top), (right, bottom) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        return [Detection(found, 0.9, (left, top, right, bottom))]


def smoothed(restorer: PhotographRestorer, frames: Sequence[Image]) -> list[Image]:
    """Restore as `hdrface restore` does."""
    restoration = VideoRestoration(restorer, RestoreOptions())
    groups = [frames[start : start + GROUP] for start in range(0, len(frames), GROUP)]
    return [frame for group in groups for frame in restoration.restore(group)]


def one_by_one(restorer: PhotographRestorer, frames: Sequence[Image]) -> list[Image]:
    """Restore each frame as a photograph of its own."""
    options = RestoreOptions()
    photographs = [Photograph(frame, "png") for frame in frames]
    return [restorer.restore(one, options).photograph.pixels for one in photographs]


def measure(faces: FaceRestorer, num_faces: int, num_frames: int) -> dict[str, float]:
    """Return the flicker of the degraded frames and of both restorations, the mean of the clips."""
    ways: dict[str, Callable[[PhotographRestorer, Sequence[Image]], Sequence[Image]]] = {
        "degraded": lambda _, frames: frames,
        "frame by frame": one_by_one,
        "smoothed": smoothed,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_faces):
        made = clip(number, num_frames)
        for name, way in ways.items():
            restorer = PhotographRestorer(faces, detector=Trembling(made.landmarks))
            done = way(restorer, made.frames)
            places = [align.fit(points) for points in made.landmarks]
            pairs = zip(done, places, strict=True)
            found[name].append(flicker([align.cut(frame, place, SIDE) for frame, place in pairs]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("models/sd21-sdfm"))
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    args = parser.parse_args()
    before = machine.facts()
    found = measure(FaceRestorer(load_restorer(args.model)), args.faces, args.frames)
    for name, value in found.items():
        print(f"{name}: {value:.2f} levels a frame")
    about: dict[str, Any] = {"model": str(args.model), "faces": args.faces, "frames": args.frames}
    print(machine.save("flicker", before, {**about, "flicker": found}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
