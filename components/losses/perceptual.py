"""How similar two pictures look: DISTS with edges (METHOD, section 3), LPIPS (section 4), by pyiqa.

pyiqa would download missing files without asking; here a missing file is an error that names it.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from components.losses.pixel import in_range, sobel

log = logging.getLogger(__name__)

PyiqaName = Literal["dists", "lpips-vgg"]
PerceptualName = Literal["dists", "lpips"]
PYIQA_NAMES: Mapping[PerceptualName, PyiqaName] = {"dists": "dists", "lpips": "lpips-vgg"}

# What pyiqa 0.1.16 loads: its own file, and torchvision's ImageNet VGG-16.
_OWN_FILE: Mapping[PyiqaName, str] = {
    "dists": "DISTS_weights-f5e65c96.pth",
    "lpips-vgg": "LPIPS_v0.1_vgg-a78928a0.pth",
}
_VGG_FILE = "vgg16-397923af.pth"


def needed_files(name: PyiqaName) -> list[Path]:
    """Return the files that pyiqa loads for a network, in the places where it looks."""
    hub = Path(torch.hub.get_dir())  # where pyiqa looks too; to import it takes seconds
    return [hub / "pyiqa" / _OWN_FILE[name], hub / "checkpoints" / _VGG_FILE]


def pyiqa_network(name: PyiqaName) -> nn.Module:
    """Load a pyiqa network as a loss, frozen: (B, 3, H, W) twice, in [0, 1] -> mean distance.

    Raises: FileNotFoundError naming each missing file; an unpickling error if one holds more than
    tensors (pyiqa itself would run its code).
    """
    if missing := [file for file in needed_files(name) if not file.is_file()]:
        listed = "".join(f"\n  {file}" for file in missing)
        raise FileNotFoundError(
            f"the perceptual loss {name!r} lacks{listed}\nput the files there (TORCH_HOME "
            "moves the folders), or set losses.perceptual to null"
        )
    for file in needed_files(name):
        torch.load(file, map_location="cpu", weights_only=True)
    import pyiqa

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # pyiqa prints
        network: nn.Module = pyiqa.create_metric(name, as_loss=True, device=torch.device("cpu"))
    log.debug("pyiqa: %s", said.getvalue().strip())
    return network


class DistsLoss(nn.Module):
    """L_per = DISTS(restored, hq) + DISTS(Sobel(restored), Sobel(hq)), on [0, 1] after clamping.

    The edge map has one channel; the network gets it three times.
    """

    def __init__(self, dists: nn.Module) -> None:
        super().__init__()
        self.dists = dists.eval().requires_grad_(requires_grad=False)

    @classmethod
    def load(cls) -> Self:
        """Load the published DISTS. Raises: FileNotFoundError, see `pyiqa_network`."""
        return cls(pyiqa_network("dists"))

    def forward(self, restored_B3HW: Tensor, hq_B3HW: Tensor) -> Tensor:
        restored, hq = in_range(restored_B3HW, "unit"), in_range(hq_B3HW, "unit")
        picture: Tensor = self.dists(restored, hq)
        edges: Tensor = self.dists(sobel(restored).expand_as(restored), sobel(hq).expand_as(hq))
        return picture + edges

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the network is never trained."""
        del mode
        return super().train(mode=False)


class LpipsLoss(nn.Module):
    """LPIPS with VGG-16, version 0.1, on [-1, 1] and not clamped; 0 for equal pictures."""

    def __init__(self, lpips: nn.Module) -> None:
        super().__init__()
        self.lpips = lpips.eval().requires_grad_(requires_grad=False)

    @classmethod
    def load(cls) -> Self:
        """Load the published LPIPS. Raises: FileNotFoundError, see `pyiqa_network`."""
        return cls(pyiqa_network("lpips-vgg"))

    def forward(self, restored_B3HW: Tensor, hq_B3HW: Tensor) -> Tensor:
        # pyiqa itself maps [0, 1] to [-1, 1].
        distance: Tensor = self.lpips(restored_B3HW, hq_B3HW)
        return distance

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: pyiqa's LPIPS has dropout, which would make the loss random."""
        del mode
        return super().train(mode=False)


PERCEPTUAL: Mapping[PerceptualName, Callable[[], nn.Module]] = {
    "dists": DistsLoss.load,
    "lpips": LpipsLoss.load,
}
