"""Metrics of pyiqa that compare a face with the true one.

B batch. Images are RGB in [0, 1].
"""

import contextlib
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import packaging.version
import torch
from torch import Tensor


class FullReference:
    """Score restored faces against the true ones with a metric of pyiqa, by its name there.

    pyiqa's PSNR adds 1e-8 to the squared error: two equal pictures score 80 dB, not infinity, and
    so a mean exists.
    """

    def __init__(self, name: str, *, device: torch.device, **options: Any) -> None:
        import pyiqa

        # pyiqa prints what it loads.
        with contextlib.redirect_stdout(io.StringIO()), importable_clip():
            self._network = pyiqa.create_metric(name, device=device, **options)
        self.device = device

    @torch.no_grad()
    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        """Return a score per face, (B,)."""
        scores: Tensor = self._network(images_B3HW.to(self.device), hq_B3HW.to(self.device))
        return np.asarray(scores.reshape(-1).double().cpu().numpy())


class NoReference(FullReference):
    """Score faces with a metric of pyiqa that needs no true face; `hq_B3HW` is not used."""

    @torch.no_grad()
    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:  # noqa: ARG002
        scores: Tensor = self._network(images_B3HW.to(self.device))
        return np.asarray(scores.reshape(-1).double().cpu().numpy())


@contextlib.contextmanager
def importable_clip() -> Iterator[None]:
    """Let OpenAI's clip be imported, which pyiqa's CLIP metrics use.

    It takes `packaging` from pkg_resources, which setuptools has no more.
    """
    stand_in = ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    before = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
        if before is not None:
            sys.modules["pkg_resources"] = before
