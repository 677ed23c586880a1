"""Check a loaded model: it must restore one drawn face that was degraded in a known way.

A model from a damaged file or a failed training returns noise, one colour, or NaN. The test finds
that; it does not measure quality, which the registry's gate checks.
"""

from __future__ import annotations

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from components.faces import align
from components.images import Image
from components.photographs.face_restorer import FaceRestorer
from components.portraits import drawing

SEED = 20_260_131
BLUR = 0.02  # standard deviation, in widths of the face


def draw_test_face(size: int) -> Image:
    """Draw the test face, aligned, `size` pixels wide; it is always the same."""
    drawn = drawing.draw(SEED, 0)
    return align.cut(drawn.image, align.fit(drawn.landmarks), size)


def failure(restorer: FaceRestorer, min_psnr: float) -> str | None:
    """Restore the test face; return what is wrong, or None.

    `min_psnr` is the lowest accepted PSNR between the restored and the true face, in dB. One colour
    gives about 12, noise 8, the demo's models more than 20.
    """
    true = draw_test_face(restorer.size)
    blurred = cv2.GaussianBlur(true, (0, 0), BLUR * restorer.size)
    degraded = np.asarray(blurred, dtype=np.uint8)
    try:
        # No colour fix: it would copy the degraded face's colours and hide that the model has none.
        [restored] = restorer.restore(
            [degraded],
            color_fix="none",
            intermediates=[degraded] if restorer.intermediates == "given" else None,
        )
    except (RuntimeError, ValueError, FloatingPointError) as error:
        return f"it could not restore the test face: {error}"
    found = float(peak_signal_noise_ratio(true, restored.image))  # type: ignore[no-untyped-call]
    if found < min_psnr:
        return f"the PSNR of the restored test face is {found:.1f} dB, below {min_psnr:g} dB"
    return restored.problem
