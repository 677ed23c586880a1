"""The metrics: which direction is better, by which protocol, and which are available here.

Learned metrics need networks. Nothing is downloaded: a metric without its files is reported as
unavailable, with the reason and the place where they should be.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.metrics.full_reference import FullReference, NoReference
from components.metrics.identity import IdentityAngle


class Metric(Protocol):
    """Scores (B,) of faces (B, 3, H, W), RGB in [0, 1], given the true ones."""

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class Entry:
    """One metric: what a reader must know, and what is needed to open it.

    `files` lie under `torch.hub.get_dir()`, which the environment's TORCH_HOME moves.
    """

    title: str
    unit: str
    direction: Literal["higher", "lower"]  # is better
    protocol: str
    kind: type[FullReference] | type[IdentityAngle]
    files: tuple[str, ...] = ()
    options: tuple[tuple[str, object], ...] = ()


_ALEX = "checkpoints/alexnet-owt-7be5be79.pth"
_VGG = "checkpoints/vgg16-397923af.pth"
# TorchScript; pyiqa would download a file with another SHA-256 again.
CLIP_SHA256 = {
    "clip/RN50.pt": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "clip/ViT-B-32.pt": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
}

CATALOGUE: dict[str, Entry] = {
    "psnr": Entry(
        "PSNR", "dB", "higher", "pyiqa psnr: RGB, 8 bits; equal pictures 80 dB", FullReference
    ),
    "ssim": Entry("SSIM", "", "higher", "pyiqa ssim: Y channel, 8 bits", FullReference),
    "identity_angle": Entry(
        "Identity angle",
        "°",
        "lower",
        "angle between identity embeddings; not VQFR's grey network; InsightFace alignment "
        "from the FFHQ template, antialiased",
        IdentityAngle,
    ),
    "lpips": Entry(
        "LPIPS",
        "",
        "lower",
        "pyiqa lpips: AlexNet, v0.1",
        FullReference,
        (_ALEX, "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    ),
    "dists": Entry(
        "DISTS",
        "",
        "lower",
        "pyiqa dists",
        FullReference,
        (_VGG, "pyiqa/DISTS_weights-f5e65c96.pth"),
    ),
    "topiq_fr": Entry(
        "TOPIQ",
        "",
        "higher",
        "pyiqa topiq_fr: KADID, ResNet-50",
        FullReference,
        ("pyiqa/cfanet_fr_kadid_res50-2c4cc61d.pth",),
        # The checkpoint holds the backbone too; without this option timm would download one first.
        (("backbone_pretrain", False),),
    ),
    "clipiqa": Entry(
        "CLIP-IQA", "", "higher", "pyiqa clipiqa: no reference", NoReference, ("clip/RN50.pt",)
    ),
    "musiq": Entry(
        "MUSIQ",
        "",
        "higher",
        "pyiqa musiq: no reference, KonIQ-10k",
        NoReference,
        ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    ),
    "liqe": Entry(
        "LIQE",
        "",
        "higher",
        "pyiqa liqe: no reference, KonIQ-10k",
        NoReference,
        ("clip/ViT-B-32.pt", "pyiqa/liqe_koniq.pt"),
    ),
}

# METHOD, section 7, lists these too.
NOT_SUPPORTED = {
    "qalign": "not supported: pyiqa fetches its 16 GB network from the hub by itself",
    "fid": "not supported yet: it needs the statistics of a set of faces",
    "lmd": "not supported yet: it needs a landmark network",
}


def open_metrics(
    names: Iterable[str],
    *,
    identity_network: Path | None,
    device: torch.device | None = None,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Open metrics by name; return those that are available, and why others are not.

    Raises: ValueError for a name that is not a metric.
    """
    metrics: dict[str, Metric] = {}
    unavailable: dict[str, str] = {}
    for name in names:
        try:
            metrics[name] = _open(name, identity_network, device or torch.device("cpu"))
        except MetricUnavailableError as error:
            unavailable[name] = str(error)
    return metrics, unavailable


class MetricUnavailableError(RuntimeError):
    """A metric cannot be computed here; the message is the reason."""


def _open(name: str, identity_network: Path | None, device: torch.device) -> Metric:
    if name in NOT_SUPPORTED:
        raise MetricUnavailableError(NOT_SUPPORTED[name])
    if name not in CATALOGUE:
        raise ValueError(f"no metric is called {name!r}; known are {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    if issubclass(entry.kind, IdentityAngle):
        if identity_network is None:
            raise MetricUnavailableError(
                "no identity network is configured: name an ONNX file or an InsightFace pack"
            )
        return entry.kind(identity_network)
    _check_files(Path(torch.hub.get_dir()), entry.files)
    return entry.kind(name, device=device, **dict(entry.options))


def _check_files(folder: Path, files: Iterable[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise MetricUnavailableError(
            f"weights are missing under {folder}: {', '.join(missing)} "
            "(set TORCH_HOME to move it; nothing is downloaded)"
        )
    for file in files:
        if file in CLIP_SHA256:
            if sha256((folder / file).read_bytes()).hexdigest() != CLIP_SHA256[file]:
                raise MetricUnavailableError(f"{folder / file} is not the published file")
            continue
        # pyiqa unpickles anything, so a file must first load with `weights_only`.
        try:
            torch.load(folder / file, map_location="meta", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            raise MetricUnavailableError(
                f"{folder / file} holds more than plain weights: {error}"
            ) from error
