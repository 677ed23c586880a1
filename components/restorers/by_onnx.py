"""Face restorers of other projects as ONNX files: one square RGB picture in [-1, 1] in, one out.

So are the exports of GFPGAN, RestoreFormer and CodeFormer that circulate; CodeFormer's have a
second input, a number, which is its fidelity.

B batch, H and W of the face.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from components import images
from components.backbones.color_fix import ColorFix
from components.hashes import sha256_of
from components.restorers.protocol import Intermediates, Restoration, refuse_intermediates
from components.weights.precision import InferencePrecision

log = logging.getLogger(__name__)

FIDELITY = 0.5  # CodeFormer's authors'
_NUMBERS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}


class OnnxRestorer:
    """Restore aligned faces of the file's own size by ONNX Runtime."""

    precision: ClassVar[InferencePrecision] = "float32"
    is_preview: ClassVar[bool] = False
    color_fix: ClassVar[ColorFix] = "none"
    intermediates: ClassVar[Intermediates] = "unused"
    licence: ClassVar[str] = "unknown: see where the ONNX file came from"

    def __init__(self, file: Path, *, device: torch.device, fingerprint: str | None = None) -> None:
        """Open a file.

        Raises: FileNotFoundError; ValueError if the file is no such network, or ONNX Runtime
        cannot compute on `device`.
        """
        self._session = open_session(file, device)
        self._picture, self.size = _picture(file, self._session.get_inputs())
        self._number = next(
            (
                one
                for one in self._session.get_inputs()
                if one.type in _NUMBERS and one.name != self._picture
            ),
            None,
        )
        self.fidelity = None if self._number is None else FIDELITY
        self.name = file.stem
        self.fingerprint = fingerprint or sha256_of(file)
        self.device = device

    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
        intermediate_B3HW: Tensor | None = None,
    ) -> Restoration:
        """Restore aligned faces, RGB in [0, 1], one by one: a face's batch changes nothing."""
        del face_ids, variants  # nothing is drawn at random
        refuse_intermediates(self.name, intermediate_B3HW)
        given: dict[str, Any] = {}
        if self._number is not None:
            value = self.fidelity if fidelity is None else fidelity
            given[self._number.name] = np.asarray(value, _NUMBERS[self._number.type]).reshape(
                [1] * len(self._number.shape)
            )
        signed = 2 * lq_B3HW.cpu().numpy().astype(np.float32) - 1
        done = [self._session.run(None, {self._picture: face[None], **given})[0] for face in signed]
        restored_B3HW = torch.from_numpy(np.concatenate(done)).to(lq_B3HW)
        return Restoration(images.rounded((restored_B3HW + 1) / 2))


def open_session(file: Path, device: torch.device) -> Any:
    """Open an ONNX file to compute on a device, and log which provider does.

    Raises: FileNotFoundError; ValueError if ONNX Runtime cannot compute there.
    """
    import onnxruntime

    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: name an ONNX file")
    provider = _PROVIDERS[device.type]
    if provider not in (there := onnxruntime.get_available_providers()):
        raise ValueError(
            f"ONNX Runtime has no {provider} here, only {', '.join(there)}: install "
            "onnxruntime-gpu, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    session = onnxruntime.InferenceSession(str(file), providers=[provider])
    # It goes on with the CPU if a library of the provider is missing.
    if (first := session.get_providers()[0]) != provider:
        raise ValueError(
            f"ONNX Runtime could not start {provider} and computes by {first}: its log above names "
            "the library that is missing"
        )
    log.info("%s: ONNX Runtime, %s", file.name, provider)
    return session


def _picture(file: Path, inputs: Sequence[Any]) -> tuple[str, int]:
    """Return the name of the input that takes the picture, and the picture's side."""
    for one in inputs:
        is_square = len(one.shape) == 4 and one.shape[1] == 3 and one.shape[2] == one.shape[3]
        if is_square and isinstance(one.shape[2], int):
            return one.name, one.shape[2]
    found = "; ".join(f"{one.name}: {one.shape}" for one in inputs)
    raise ValueError(
        f"{file} takes no square RGB picture of a fixed size (1, 3, S, S), but {found}: export it "
        "for one size"
    )
