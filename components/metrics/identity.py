"""How much the person was changed: the angle between two faces' identity embeddings.

B batch. Images are RGB in [0, 1].
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from components import images
from components.encoders.identity import IdentityEncoder


class IdentityAngle:
    """Return the angle in degrees between the identities of restored and true face; 0 if equal."""

    def __init__(self, network: Path) -> None:
        self.encoder = IdentityEncoder(network)
        self._hq_B3HW: Tensor | None = None

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        """Return an angle per face, (B,)."""
        if hq_B3HW is not self._hq_B3HW:  # several roles are compared with one truth: embed it once
            self._hq_B3HW = hq_B3HW
            self._hq_embeddings = self.encoder.embed(images.from_tensor(hq_B3HW))
        embeddings = self.encoder.embed(images.from_tensor(images_B3HW))
        cosines = np.einsum("bd,bd->b", embeddings, self._hq_embeddings, dtype=np.float64)
        return np.asarray(np.degrees(np.arccos(cosines.clip(-1, 1))), dtype=np.float64)
