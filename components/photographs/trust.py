"""Whether a restored face may be laid over the face that it came from."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from components.images import Image

ONE_COLOR = 2.0  # levels of 255: what deviates less from its mean shows nothing
# How like its input a result is, of 8 x 8 means of its lightness: their correlation, and by how
# many levels they differ, brightness aside. Even faces degraded to 12 pixels and noise have 0.93
# and 12 with the true face; two aligned portraits have 0.2 in the median: this finds what is no
# restoration, not a face that became another one, which the identity's angle is for.
LEAST_ALIKE, MOST_APART = 0.3, 15.0
_LUMA = np.array([0.299, 0.587, 0.114])


def distrust(face: Image, restored: Image) -> str | None:
    """Return why a restored face is not to be shown; None: nothing is wrong with it.

    Shape: both uint8 (size, size, 3), of the same aligned square.
    """
    if float(restored.std(axis=(0, 1)).max()) < ONE_COLOR:
        return "the model's result is of one colour"
    before, after = _coarse(face), _coarse(restored)
    apart = float(np.abs(before - after).mean())
    product = float(np.linalg.norm(before) * np.linalg.norm(after))
    alike = float((before * after).sum()) / max(product, 1e-6)
    if apart > MOST_APART and alike < LEAST_ALIKE:
        return (
            f"the model's result is another picture: its coarse structure agrees by {alike:.2f} "
            f"with the face, at least {LEAST_ALIKE} is needed"
        )
    return None


def _coarse(face: Image) -> npt.NDArray[np.float64]:
    """Return the mean lightness of 8 x 8 cells, less that of the whole."""
    cells = cv2.resize(face @ _LUMA, (8, 8), interpolation=cv2.INTER_AREA)
    return np.asarray(cells - cells.mean())
