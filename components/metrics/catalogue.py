"""The metrics that are available here, each with its protocol; and why others are not.

Learned metrics need networks. Nothing is downloaded: a metric without its files is reported as
unavailable, with each file's name, size, licence and place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.hashes import sha256_of
from components.metrics.entries import CATALOGUE, Entry
from components.metrics.frechet import Gaussian
from components.metrics.identity import IdentityAngle
from components.metrics.still import still
from components.metrics.weight_files import CLIP_SHA256, WEIGHT_FILES

__all__ = ["CATALOGUE", "Entry", "How", "Metric", "missing_files", "open_metrics", "told_missing"]

IDENTITY = "identity_angle"


@dataclass(frozen=True)
class How:
    """How a metric was measured here. `reference` is what a set's metric compares with, if given.

    It can be sent to other processes.
    """

    protocol: dict[str, Any]
    reference: Gaussian | None = None


class Metric(Protocol):
    """Scores (B,) of faces (B, 3, H, W), RGB in [0, 1], given the true ones.

    NaN where the protocol leaves a face out. A metric of sets gives features (B, D).
    """

    entry: Entry
    how: How

    def __call__(
        self, images_B3HW: Tensor, hq_B3HW: Tensor | None
    ) -> npt.NDArray[np.floating[Any]]: ...


class OpenMetric:
    """A metric that is ready; scoring the same faces twice gives the same bytes."""

    def __init__(self, entry: Entry, compute: Any, how: How) -> None:
        self.entry, self.how, self._compute = entry, how, compute

    def __call__(
        self, images_B3HW: Tensor, hq_B3HW: Tensor | None
    ) -> npt.NDArray[np.floating[Any]]:
        with still():
            if self.entry.is_set:
                return np.asarray(self._compute(images_B3HW))
            return np.asarray(self._compute(images_B3HW, hq_B3HW))


def how_of(name: str) -> How:
    """Return a metric's protocol where no file of it is known, as for numbers made elsewhere."""
    return How(CATALOGUE[name].protocol.measured({}))


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
    if name not in CATALOGUE:
        raise ValueError(f"no metric is called {name!r}; known are {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    if entry.opens is None:
        if identity_network is None:
            raise MetricUnavailableError(
                "no identity network is configured: name an ONNX file or an InsightFace pack"
            )
        angle = IdentityAngle(identity_network)
        encoder = angle.encoder
        how = How(entry.protocol.measured({encoder.path.name: encoder.sha256}))
        return OpenMetric(entry, angle, how)
    hub = Path(torch.hub.get_dir())
    _check_files(hub, entry.files)
    try:
        compute = entry.opens(name, hub, device)
        reference = None if entry.statistics is None else Gaussian.read(hub / entry.statistics)
    except ModuleNotFoundError as error:
        raise MetricUnavailableError(
            f"the package {error.name} is missing: pip install {error.name}"
        ) from error
    except UnpicklingError as error:
        raise MetricUnavailableError(f"a file holds more than plain weights: {error}") from error
    except (ValueError, OSError) as error:
        raise MetricUnavailableError(str(error)) from error
    how = How(entry.protocol.measured(_hashes(hub, entry.files)), reference)
    return OpenMetric(entry, compute, how)


def _hashes(hub: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each file; of a folder, those of its weights."""
    found: dict[str, str] = {}
    for name in names:
        place = hub / name
        weights = [
            file
            for file in (sorted(place.iterdir()) if place.is_dir() else [place])
            if not place.is_dir() or file.suffix in (".safetensors", ".bin")
        ]
        found |= {file.relative_to(hub).as_posix(): sha256_of(file) for file in weights}
    return found


def missing_files(name: str) -> list[str]:
    """List the files of a metric that are not on this machine, below `torch.hub.get_dir()`."""
    return _missing(Path(torch.hub.get_dir()), CATALOGUE[name].files)


def told_missing(names: Iterable[str]) -> str:
    """Name files that are missing, each with its size, licence and source."""
    return (
        f"weights are missing under {torch.hub.get_dir()}: {'; '.join(map(_wanted, names))} "
        "(set TORCH_HOME to move it; nothing is downloaded)"
    )


def _missing(hub: Path, names: Iterable[str]) -> list[str]:
    return [file for file in names if not (hub / file).exists()]


def _check_files(hub: Path, names: Iterable[str]) -> None:
    """Refuse what is missing, and what is not plain data: pyiqa unpickles anything."""
    if missing := _missing(hub, names):
        raise MetricUnavailableError(told_missing(missing))
    for name in names:
        file = hub / name
        if name in CLIP_SHA256:
            if sha256_of(file) != CLIP_SHA256[name]:
                raise MetricUnavailableError(f"{file} is not the published file")
        elif name.startswith(("pyiqa/", "checkpoints/")) and file.suffix in (".pth", ".pt"):
            _check_weights(file)


def _check_weights(file: Path) -> None:
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise MetricUnavailableError(f"{file} holds more than plain weights: {error}") from error


def _wanted(name: str) -> str:
    file = WEIGHT_FILES[name]
    return f"{name} ({_size(file.megabytes)}, {file.licence}; {file.source})"


def _size(megabytes: float) -> str:
    if megabytes < 1:
        return f"{megabytes * 1000:.0f} kB"
    return f"{megabytes:g} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
