"""Restore aligned faces in batches on one device.

B batch, H and W of the face.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components import images
from components.backbones.catalogue import FAMILIES
from components.backbones.color_fix import ColorFix
from components.images import Image
from components.restorers.color_fix import fix_colors
from components.restorers.protocol import RestoresFaces


@dataclass(frozen=True)
class RestoredFace:
    """A restored face, uint8 (size, size, 3), and the gate of each patch, (h, w) in [0, 1].

    The gate is 1 where details come from the first restoration and 0 where structure comes from
    the degraded face. It is None if the model has no gate.
    """

    image: Image
    gate: npt.NDArray[np.float32] | None


class FaceRestorer:
    """Restore aligned faces of the model's own size, `size` pixels wide."""

    def __init__(self, restorer: RestoresFaces, *, batch_size: int = 8) -> None:
        """Use a restorer on the device where it is, with at most `batch_size` faces at once."""
        self._restorer, self._batch_size = restorer, batch_size
        self.size = restorer.size
        self.fingerprint = restorer.fingerprint
        self.model = f"{restorer.name} ({restorer.fingerprint[:12]})"  # for people
        self.intermediates = restorer.intermediates
        self.precision = restorer.precision

    def color_fix(self, asked: ColorFix | None) -> ColorFix:
        """Return the colour fix to use; None asks for the model's own."""
        return self._restorer.color_fix if asked is None else asked

    def check(self, fidelity: float | None, *, are_given: bool = False) -> None:
        """Raise ValueError if the model accepts no fidelity other than 1.

        Also if first restorations are given and it uses none, or they are not and it needs them.
        """
        name = self._restorer.name
        if are_given and self.intermediates == "unused":
            raise ValueError(f"{name} uses no first restorations: leave 'intermediate' out")
        if not are_given and self.intermediates == "given":
            raise ValueError(
                f"{name} has no first restorer: give the first restoration of each picture as "
                "'intermediate'"
            )
        if fidelity not in (None, 1) and self._restorer.fidelity is None:
            able = ", ".join(name for name, family in FAMILIES.items() if family.takes_noise)
            raise ValueError(
                f"fidelity = {fidelity}: {self._restorer.name} accepts only 1; models on {able} "
                "and CodeFormer accept values from 0 to 1"
            )

    def restore(
        self,
        faces: Sequence[Image],
        *,
        fidelity: float | None = None,
        color_fix: ColorFix | None = None,
        keys: Sequence[str] | None = None,
        intermediates: Sequence[Image] | None = None,
    ) -> list[RestoredFace]:
        """Restore faces, uint8 (size, size, 3) RGB; each result depends on its own face alone.

        The noise is keyed by `keys`, one for each face, or else by the face's pixels: then a face
        gets the same result in any file or batch. `intermediates` are first restorations that
        another program made, one for each face.

        Raises: ValueError if the faces do not have the model's size, or as `check`.
        """
        self.check(fidelity, are_given=intermediates is not None)
        if keys is None:
            keys = [hashlib.sha256(face.tobytes()).hexdigest() for face in faces]
        restored: list[RestoredFace] = []
        for start in range(0, len(faces), self._batch_size):
            batch = slice(start, start + self._batch_size)
            restored += self._restore(
                faces[batch],
                keys[batch],
                fidelity,
                self.color_fix(color_fix),
                None if intermediates is None else intermediates[batch],
            )
        return restored

    def _restore(
        self,
        faces: Sequence[Image],
        keys: Sequence[str],
        fidelity: float | None,
        color_fix: ColorFix,
        intermediates: Sequence[Image] | None,
    ) -> list[RestoredFace]:
        device = self._restorer.device
        lq_B3HW = images.to_tensor(faces).to(device)
        done = self._restorer.restore(
            lq_B3HW,
            keys,
            [0] * len(keys),
            fidelity=fidelity,
            intermediate_B3HW=(
                None if intermediates is None else images.to_tensor(intermediates).to(device)
            ),
        )
        reference = lq_B3HW if done.intermediate_B3HW is None else done.intermediate_B3HW
        fixed_B3HW = fix_colors(done.restored_B3HW, reference, color_fix)
        gates: list[npt.NDArray[np.float32] | None] = [None] * len(faces)
        if done.alpha_BHW is not None:
            gates = list(done.alpha_BHW.float().cpu().numpy())
        return [
            RestoredFace(image, gate)
            for image, gate in zip(images.from_tensor(fixed_B3HW), gates, strict=True)
        ]
