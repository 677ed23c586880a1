"""How much a still face changes from frame to frame."""

from collections.abc import Sequence

import numpy as np

from components.images import Image


def flicker(faces: Sequence[Image]) -> float:
    """Return how far a face is from the one before, the mean over frames and pixels.

    In levels of 255; lower is better, and 0 is a still picture. It means something only for a face
    that does not change, cut out of each frame at its true place: then any change is the
    restoration's, or the noise of what was restored.

    Shape: faces, uint8 (H, W, 3), all of one size.

    Raises: ValueError if there are fewer than two.
    """
    if len(faces) < 2:
        raise ValueError(f"{len(faces)} frames: flicker needs two or more")
    frames = np.stack(faces).astype(np.float64)
    return float(np.abs(np.diff(frames, axis=0)).mean())
