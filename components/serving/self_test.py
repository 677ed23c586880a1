"""Is a loaded model sound? One drawn face, degraded in a known way, must come back as a face.

A model that was cut short, mixed up or trained to nothing gives noise, one colour, or no numbers.
The test is about that, not about quality, which the gate of the registry judges.
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


def fixed_face(size: int) -> Image:
    """Draw the face, aligned, `size` pixels wide; always the same one."""
    drawn = drawing.draw(SEED, 0)
    return align.cut(drawn.image, align.fit(drawn.landmarks), size)


def failure(restorer: FaceRestorer, min_psnr: float) -> str | None:
    """Restore the fixed face; return what is wrong, or None.

    `min_psnr` is that of the restored face to the true one, in dB. One colour gives about 12, noise
    8, the demo's models more than 20.
    """
    true = fixed_face(restorer.size)
    degraded = cv2.GaussianBlur(true, (0, 0), BLUR * restorer.size)
    try:
        # Its own colours: a fix takes the degraded face's, and hides that there are none.
        [restored] = restorer.restore([np.asarray(degraded)], color_fix="none")
    except (RuntimeError, ValueError, FloatingPointError) as error:
        return f"it could not restore the fixed face: {error}"
    found = float(peak_signal_noise_ratio(true, restored.image))  # type: ignore[no-untyped-call]
    if found < min_psnr:
        return f"the fixed face comes back with {found:.1f} dB, less than {min_psnr:g} dB"
    return None
