"""Restore aligned faces in batches on one device.

B batch, H and W of the face.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from components import images
from components.backbones.catalogue import FAMILIES
from components.backbones.color_fix import ColorFix
from components.images import Image
from components.photographs.tone import in_tone, tone_of
from components.photographs.trust import distrust
from components.restorers.color_fix import fix_colors
from components.restorers.protocol import RestoresFaces

NOT_FINITE = "the model's result is not finite"


@dataclass(frozen=True)
class RestoredFace:
    """A restored face, uint8 (size, size, 3), and the gate of each patch, (h, w) in [0, 1].

    The gate is 1 where details come from the first restoration and 0 where structure comes from
    the degraded face. It is None if the model has no gate. With a problem, the face is to be left
    as it was.
    """

    image: Image
    gate: npt.NDArray[np.float32] | None
    problem: str | None = None


class FaceRestorer:
    """Restore aligned faces of the model's own size, `size` pixels wide."""

    def __init__(self, restorer: RestoresFaces, *, batch_size: int = 8) -> None:
        """Use a restorer on the device where it is, with at most `batch_size` faces at once."""
        self._restorer, self._batch_size = restorer, batch_size
        self.size = restorer.size
        self.fingerprint = restorer.fingerprint
        self.is_preview = restorer.is_preview
        self.model = f"{restorer.name} ({restorer.fingerprint[:12]})"  # for people
        if self.is_preview:
            self.model += ", only a preview"
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
        colorize: bool = False,
    ) -> list[RestoredFace]:
        """Restore faces, uint8 (size, size, 3) RGB.

        The noise is keyed by `keys`, one for each face, or else by the face's pixels: a face has
        the same noise in any file or batch. Its result is then the same but for rounding: libraries
        add in another order for another size of batch, which changes levels of 255 by one or two.
        With `batch_size` 1, it is the same to the last bit.

        `intermediates` are first restorations that another program made, one for each face. Unless
        `colorize` is set, a grey or toned face keeps its toning (`components.photographs.tone`). A
        result that cannot be right has a `problem`.

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
        pairs = list(zip(faces, restored, strict=True))
        if not colorize:
            pairs = [(face, _keep_tone(face, done)) for face, done in pairs]
        return [_check(face, done) for face, done in pairs]

    def _restore(
        self,
        faces: Sequence[Image],
        keys: Sequence[str],
        fidelity: float | None,
        color_fix: ColorFix,
        intermediates: Sequence[Image] | None,
    ) -> list[RestoredFace]:
        device = self._restorer.device
        lq_B3HW = images.to_tensor(faces, device)
        try:
            done = self._restorer.restore(
                lq_B3HW,
                keys,
                [0] * len(keys),
                fidelity=fidelity,
                intermediate_B3HW=(
                    None if intermediates is None else images.to_tensor(intermediates, device)
                ),
            )
        except ArithmeticError as error:  # bfloat16 was not enough for one of them
            if len(faces) == 1:
                return [RestoredFace(faces[0], None, str(error))]
            return self._restore_each(faces, keys, fidelity, color_fix, intermediates)
        reference = lq_B3HW if done.intermediate_B3HW is None else done.intermediate_B3HW
        fixed_B3HW = fix_colors(done.restored_B3HW, reference, color_fix)
        gates: list[npt.NDArray[np.float32] | None] = [None] * len(faces)
        if done.alpha_BHW is not None:
            gates = list(done.alpha_BHW.float().cpu().numpy())
        are_finite = fixed_B3HW.isfinite().flatten(1).all(dim=1).tolist()
        return [
            RestoredFace(image, gate, None if is_finite else NOT_FINITE)
            for image, gate, is_finite in zip(
                images.from_tensor(fixed_B3HW), gates, are_finite, strict=True
            )
        ]

    def _restore_each(
        self,
        faces: Sequence[Image],
        keys: Sequence[str],
        fidelity: float | None,
        color_fix: ColorFix,
        intermediates: Sequence[Image] | None,
    ) -> list[RestoredFace]:
        """Restore faces one by one: a face that fails is then the only one."""
        restored: list[RestoredFace] = []
        for index in range(len(faces)):
            one = slice(index, index + 1)
            first = None if intermediates is None else intermediates[one]
            restored += self._restore(faces[one], keys[one], fidelity, color_fix, first)
        return restored


def _keep_tone(face: Image, restored: RestoredFace) -> RestoredFace:
    return replace(restored, image=in_tone(restored.image, tone_of(face)))


def _check(face: Image, restored: RestoredFace) -> RestoredFace:
    return replace(restored, problem=restored.problem or distrust(face, restored.image))
