"""Scoring shared among workers: what they open, and how a set of faces is divided among them.

The stage `evaluate` and the command `hdrface evaluate` share their faces in this way. Workers of a
cluster find models and networks in the data root; on this machine they lie where they are.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from components import cluster
from components.encoders.identity import find_network
from components.hashes import sha256_of
from components.metrics.catalogue import IDENTITY, Metric, open_metrics
from components.params import Compute
from components.progress import Progress
from components.restorers.catalogue import (
    adopt,
    fingerprint_of,
    is_of_others,
    open_of_others,
    path_of,
)
from components.restorers.folder import load_restorer
from components.restorers.protocol import RestoresFaces
from components.restorers.together import Together
from components.storage import data_root
from components.tracking.trained_models import locate
from components.weights.manifest import RESULTS, Description
from components.weights.shared import SharedFile, SharedFolder, share, share_file
from components.weights.store import find_need, open_model

Part = TypeVar("Part")
T = TypeVar("T")


@dataclass(frozen=True)
class SharedModel:
    """A restorer folder, with the first restorations that it names, if it names any."""

    folder: SharedFolder
    results: SharedFolder | None
    hints: Sequence[Path] = ()  # where what it names may lie, on this machine

    @classmethod
    def of(cls, folder: Path, hints: Sequence[Path] = ()) -> "SharedModel":
        """Share a folder that lies here. Raises: FileNotFoundError or ValueError."""
        hints = [hint.absolute() for hint in hints]
        need = open_model(folder).needs.get(RESULTS)
        results = None if need is None else _share(find_need(folder, need, hints))
        return cls(_share(folder, hints), results, hints)

    def open(self, device: torch.device, together: Together | None = None) -> RestoresFaces:
        """Load it on a worker. Raises: as `load_restorer`."""
        results = [] if self.results is None else [self.results.local()]
        hints = [*self.hints, *results]
        return load_restorer(self.folder.local(), hints, device=device, together=together)


@dataclass(frozen=True)
class SharedOther:
    """Another project's restorer by its name, such as `onnx:FILE`."""

    name: str  # with the absolute path on this machine
    title: str  # what its scores are called, wherever its files lie
    fingerprint: str
    folder: SharedFolder | None  # what `adopt` made of it, where workers are on other machines

    @classmethod
    def of(cls, name: str) -> "SharedOther":
        """Share what a name leads to. Raises: as `open_of_others`."""
        kind, path, fingerprint = name.partition(":")[0], path_of(name), fingerprint_of(name)
        name = f"{kind}:{path.absolute()}"
        if not _are_elsewhere():
            return cls(name, "", fingerprint, None)
        with tempfile.TemporaryDirectory() as beside:
            adopted = Path(beside) / "adopted"
            adopt(name, adopted)
            title = Description.read(adopted).content["name"]
            return cls(name, title, fingerprint, share(adopted))

    def open(self, device: torch.device, _together: Together | None = None) -> RestoresFaces:
        """Load it on a worker; models together have nothing of it. Raises: as `open_of_others`."""
        if self.folder is None:
            return open_of_others(self.name, device=device)
        folder = self.folder.local()
        path = folder / open_model(folder).content["path"]
        kind = self.name.partition(":")[0]
        restorer = open_of_others(f"{kind}:{path}", device=device, fingerprint=self.fingerprint)
        restorer.name = self.title
        return restorer


def share_restorer(name: str, downloads: Path) -> SharedModel | SharedOther:
    """Find a restorer by its name and share it with workers.

    Raises: as `components.tracking.trained_models.open_restorer`.
    """
    if is_of_others(name):
        return SharedOther.of(name)
    found = locate(name, downloads)
    return SharedModel.of(found.folder, found.hints)


@dataclass(frozen=True)
class SharedMetrics:
    """Metrics by name, and the identity network that one of them needs."""

    names: Sequence[str]
    identity_network: SharedFile | None

    @classmethod
    def of(cls, names: Sequence[str], identity_network: Path | None) -> "SharedMetrics":
        """Share an ONNX file, or the one in an InsightFace pack. Raises: as `find_network`."""
        if identity_network is None:
            return cls(names, None)
        return cls(names, share_single(find_network(identity_network)))

    def open(self, device: torch.device) -> tuple[dict[str, Metric], dict[str, str]]:
        """Open them on a worker. Returns and raises as `open_metrics`."""
        network = self.identity_network
        metrics, unavailable = open_metrics(
            self.names,
            identity_network=None if network is None else network.local(),
            device=device,
        )
        if network is not None and IDENTITY in metrics:
            # The copy in a data root is named by its hash; the protocol is the same everywhere.
            how = metrics[IDENTITY].how
            protocol = {**how.protocol, "files": {network.path.name: network.sha256}}
            metrics[IDENTITY].how = replace(how, protocol=protocol)
        return metrics, unavailable


def share_single(file: Path) -> SharedFile:
    """Share one file with workers. Raises: OSError."""
    if cluster.on_cluster():
        return share_file(file)
    return SharedFile(file.absolute(), sha256_of(file), None)


def score_parts(
    compute: Compute,
    parts: Sequence[Part],
    counts: Sequence[int],
    start: Callable[..., Callable[[Part], T]],
    task: Any,
) -> Iterator[T]:
    """Return what `start(task)` makes of each part, in order, and show how far it is.

    `counts` says how many faces are in each part. See `components.cluster.map_on_workers`.
    """
    done = 0
    with Progress("evaluate", "faces", sum(counts)) as progress:
        scored = cluster.map_on_workers(compute, parts, start, task)
        for count, part in zip(counts, scored, strict=True):
            yield part
            done += count
            progress.show(done)


def _share(folder: Path, hints: Sequence[Path] = ()) -> SharedFolder:
    if cluster.on_cluster():
        return share(folder, hints)
    return SharedFolder(folder.absolute(), Description.read(folder).fingerprint, None)


def _are_elsewhere() -> bool:
    """Return whether workers may be on machines that do not see this one's files."""
    return cluster.on_cluster() and data_root() is not None
