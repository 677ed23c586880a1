"""Q-Align from a local folder: pyiqa's own network, which it would fetch from the hub by itself.

B batch. Images are RGB in [0, 1].
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components.metrics.pyiqa_files import replaced


class QAlign:
    """Score faces from 1 (bad) to 5 (excellent) with `q-future/one-align`, in float16 as published.

    Raises: OSError if the folder lacks a file.
    """

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        with _debugging_absent():
            from pyiqa.archs.q_align import modeling_mplug_owl2 as published
            from pyiqa.archs.q_align.visual_encoder import MplugOwlVisualAbstractorModel
            from pyiqa.archs.qalign_arch import QAlign as Published
        if not hasattr(MplugOwlVisualAbstractorModel, "invert_attention_mask"):
            # transformers 5 has it no longer, and pyiqa 0.1.16 still calls it.
            MplugOwlVisualAbstractorModel.invert_attention_mask = _inverted

        with (
            replaced(published, "LlamaTokenizer", _From(folder, published.LlamaTokenizer)),
            replaced(published, "CLIPImageProcessor", _From(folder, published.CLIPImageProcessor)),
        ):
            model = published.MPLUGOwl2LlamaForCausalLM.from_pretrained(
                folder, dtype=torch.float16, local_files_only=True
            )
        # Its own constructor names the hub.
        self.network = Published.__new__(Published)
        nn.Module.__init__(self.network)
        self.network.model, self.network.model_dtype = model, torch.float16
        self.network.image_processor = model.image_processor
        self.network.to(device).eval()
        self.device = device

    def __call__(
        self,
        images_B3HW: Tensor,
        hq_B3HW: Tensor | None,  # noqa: ARG002
    ) -> npt.NDArray[np.float64]:
        """Return a score per face, (B,); the true faces are not used."""
        scores = [self.network(one.to(self.device)) for one in torch.split(images_B3HW, 1)]
        return np.asarray(torch.cat([score.reshape(-1) for score in scores]).double().cpu())


def _inverted(model: Any, mask: Tensor) -> Tensor:
    """Return what is added to attention: 0 where a mask is 1, the lowest number where it is 0."""
    wide = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
    return (1 - wide.to(model.dtype)) * torch.finfo(model.dtype).min


@contextmanager
def _debugging_absent() -> Iterator[None]:
    """Let pyiqa import `icecream`, which prints for debugging; it neither installs nor uses it."""
    if "icecream" in sys.modules or find_spec("icecream") is not None:
        yield
        return
    stand_in = ModuleType("icecream")
    stand_in.ic = lambda *values: values  # type: ignore[attr-defined]
    sys.modules["icecream"] = stand_in
    try:
        yield
    finally:
        del sys.modules["icecream"]


class _From:
    """Load with a class of transformers from a folder, whatever name is asked for."""

    def __init__(self, folder: Path, loaded: Any) -> None:
        self._folder, self._loaded = folder, loaded

    def from_pretrained(self, name: str, **options: Any) -> Any:
        del name, options
        return self._loaded.from_pretrained(self._folder, local_files_only=True)
