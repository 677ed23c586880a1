"""Metrics of pyiqa, by their name there: against the true face, or without one.

B batch. Images are RGB in [0, 1].
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import packaging.version
import torch
from torch import Tensor

from components.metrics.pyiqa_files import offline, replaced

NIQE_BLOCK = 96  # pixels: a smaller picture has no block


class FullReference:
    """Score restored faces against the true ones.

    pyiqa's PSNR adds 1e-8 to the squared error: two equal pictures score 80 dB, not infinity, and
    so a mean exists.
    """

    def __init__(self, name: str, *, device: torch.device, hub: Path, **options: Any) -> None:
        import pyiqa

        with offline(hub), importable_clip():
            metric = pyiqa.create_metric(name, device=device, **options)
        # Its outer module would set cuDNN's precision to TF32 again.
        self.network, self.device = metric.net, device

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        """Return a score per face, (B,)."""
        return _scores(self.network(images_B3HW.to(self.device), hq_B3HW.to(self.device)))


class NoReference(FullReference):
    """Score faces with a metric that needs no true face; `hq_B3HW` is not used."""

    def __call__(
        self,
        images_B3HW: Tensor,
        hq_B3HW: Tensor | None,  # noqa: ARG002
    ) -> npt.NDArray[np.float64]:
        return _scores(self.network(images_B3HW.to(self.device)))


class Niqe(NoReference):
    """Score faces with NIQE; NaN for pictures that are smaller than one of its blocks."""

    def __call__(
        self,
        images_B3HW: Tensor,
        hq_B3HW: Tensor | None,  # noqa: ARG002
    ) -> npt.NDArray[np.float64]:
        if min(images_B3HW.shape[2:]) < NIQE_BLOCK:
            return np.full(len(images_B3HW), np.nan)
        # One by one: a picture's score must not depend on which others are in its batch.
        one_by_one = [super(Niqe, self).__call__(one, None) for one in torch.split(images_B3HW, 1)]
        return np.concatenate(one_by_one)


class Liqe(NoReference):
    """Score faces with LIQE, whose texts are encoded anew.

    pyiqa keeps them in a file that does not say of which weights they are, and would unpickle
    whatever lies there. It also needs a folder of weights that it can write to.
    """

    def __init__(self, name: str, *, device: torch.device, hub: Path) -> None:
        with importable_clip():
            from pyiqa.archs import liqe_arch
        with TemporaryDirectory() as folder, replaced(liqe_arch, "DEFAULT_CACHE_DIR", folder):
            super().__init__(name, device=device, hub=hub)


def _scores(scores: Tensor) -> npt.NDArray[np.float64]:
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
