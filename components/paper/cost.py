"""What restoring one face costs: steps, seconds, parameters and multiply-adds (paper, Tab. 6)."""

import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from components.paper.published import Row
from components.paper.scores import (
    Missing,
    Project,
    Refusals,
    fingerprint_of_restorer,
    is_restorer,
    kept,
    said,
    slug,
)
from components.paper.sources import Sources
from components.restorers.catalogue import is_of_others, path_of
from components.restorers.protocol import RestoresFaces
from components.tracking.trained_models import open_restorer
from components.training.cost import forward_cost, numbers
from components.weights.manifest import RESTORER

_ROUNDS = 5
_ENOUGH_S = 20.0  # no round begins after this


@dataclass(frozen=True)
class Cost:
    """The cost of one face. A number that cannot be had is None, and `why` says why."""

    steps: int
    seconds: float  # the median of the rounds, after one that is not counted
    parameters_m: float | None  # of all networks, the first restorer's included, in millions
    macs_g: float | None  # of matrix products, convolutions and attention, in thousand millions
    size: int  # pixels of the face
    machine: str
    rounds: int
    why: str = ""

    def value(self, column: str) -> float | None:
        """Return the number of a column of the table."""
        known = {
            "steps": float(self.steps),
            "seconds": self.seconds,
            "parameters_m": self.parameters_m,
            "macs_g": self.macs_g,
        }
        return known[column]

    @property
    def told(self) -> str:
        """Return how it was measured."""
        return f"one face of {self.size} pixels, median of {self.rounds} on {self.machine}"


class Costs:
    """Measures what methods cost, and keeps it in a folder."""

    def __init__(self, sources: Sources, project: Project, kept: Path) -> None:
        self._sources, self._project, self._kept = sources, project, kept
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: Row) -> Cost | Missing:
        """Return the cost of a row's method, or why there is none."""
        place = self._sources.restorer(row.method)
        if place is None and row.model is not None:
            folder = self._project.models / row.model
            if not (folder / RESTORER).is_file():
                return Missing("not trained", f"{folder} is not there: train it with 'dvc repro'")
            place = str(folder)
        if place is None or not is_restorer(place):
            return Missing(
                "no restorer",
                "a cost needs a restorer, not results: name the method's under methods",
            )
        try:
            return self._measured(row.method, place)
        except Refusals as error:
            return Missing("failed", f"{row.method}: {said(error)}")

    def _measured(self, method: str, place: str) -> Cost:
        key = {
            "place": fingerprint_of_restorer(place),
            "machine": machine(self._device),
            "torch": torch.__version__,
        }
        file = self._kept / f"cost-{slug(method)}.json"
        found = kept(file, key, lambda: asdict(measure(place, self._device)))
        return Cost(**{name: value for name, value in found.items() if name != "made_from"})


def measure(place: str, device: torch.device) -> Cost:
    """Restore one face several times, and count.

    Raises: as `components.tracking.trained_models.open_restorer`; ValueError if the restorer needs
    first restorations that another program makes.
    """
    with tempfile.TemporaryDirectory() as downloads:
        restorer = open_restorer(place, Path(downloads), device=device)
    if restorer.intermediates == "given":
        raise ValueError(
            f"{restorer.name} does not restore alone: its first restorations are given"
        )
    drawn = torch.Generator().manual_seed(0)
    face_13HW = torch.rand(1, 3, restorer.size, restorer.size, generator=drawn).to(device)
    seconds = list(_rounds(restorer, face_13HW))
    parameters, macs, why = _counts(restorer, face_13HW, place)
    return Cost(
        steps=1,  # all restorers that can be opened here take one pass through their networks
        seconds=statistics.median(seconds),
        parameters_m=parameters,
        macs_g=macs,
        size=restorer.size,
        machine=machine(device),
        rounds=len(seconds),
        why=why,
    )


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _rounds(restorer: RestoresFaces, face_13HW: Tensor) -> Iterator[float]:
    """Give the seconds of each round; the first of all is not given: kernels are chosen in it."""
    begun = time.perf_counter()
    for number in range(_ROUNDS + 1):
        start = time.perf_counter()
        restorer.restore(face_13HW, ["face"], [0])
        if face_13HW.is_cuda:
            torch.cuda.synchronize(face_13HW.device)
        end = time.perf_counter()
        if number:
            yield end - start
            if end - begun > _ENOUGH_S:
                return


def _counts(
    restorer: RestoresFaces, face_13HW: Tensor, place: str
) -> tuple[float | None, float | None, str]:
    """Return millions of parameters, thousand millions of multiply-adds, and what is not there."""
    first = getattr(restorer, "intermediate", None)
    if isinstance(restorer, nn.Module) and (first is None or isinstance(first, nn.Module)):
        cost = forward_cost(lambda: restorer.restore(face_13HW, ["face"], [0]))
        return numbers(restorer) / 1e6, cost.forward / 2 / 1e9, ""
    if is_of_others(place) and first is None:
        why = "the operations of ONNX files are not counted here"
        return _onnx_parameters(path_of(place)) / 1e6, None, why
    return None, None, "a network inside is an ONNX file: neither is counted as a whole"


def _onnx_parameters(place: Path) -> int:
    """Count the numbers in the constants of ONNX files."""
    import onnx

    files = sorted(place.glob("*.onnx")) if place.is_dir() else [place]
    return sum(
        prod(tensor.dims)
        for file in files
        for tensor in onnx.load(str(file), load_external_data=False).graph.initializer
    )
