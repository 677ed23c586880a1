"""The faces that models and results are scored on: in folders or tables, degraded here or given."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from components import cluster
from components.degradation import recipe as degrading
from components.degradation.recipe import DegradationParams
from components.faces.cutter import CANDIDATE_SCORE, Face
from components.faces.detect import open_detector
from components.reporting import groups
from components.reporting.evaluation import Case, alone, pairs
from components.reporting.face_sets import (
    FaceSet,
    Rejection,
    is_table,
    open_set,
    row_name,
)
from components.reporting.photographs import Photographs
from components.reporting.sharing import share_single
from components.storage import data_root

METRICS = ("psnr", "ssim", "identity_angle")
METRICS_WITHOUT_TRUTH = ("niqe", "musiq", "clipiqa", "fid_vqfr")


@dataclass(frozen=True)
class Wanted:
    """What is scored, on which faces. Without models and results, the degraded faces are.

    `hq` and `lq` are folders or tables; `reference` is a set that FID compares with; `endings` are
    left out of names before they are matched.
    """

    hq: Path | None = None
    lq: Path | None = None
    models: tuple[str, ...] = ()
    results: tuple[Path, ...] = ()
    reference: Path | None = None
    detector: Path | None = None
    endings: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    groups: Path | None = None  # a groups.csv

    def __post_init__(self) -> None:
        if self.hq is None and self.lq is None:
            raise ValueError("name the faces: --hq, --lq or both")
        if self.lq is None and not self.models and not self.results:
            raise ValueError("there is nothing to score: name a model, results or degraded faces")
        if self.detector is not None and self.hq is not None and self.lq is not None:
            raise ValueError("pairs must be aligned already: a detector cuts two pictures apart")
        if self.detector is not None and not self.models:
            raise ValueError("a detector cuts faces to the size of a model: name one")

    @property
    def is_degraded_here(self) -> bool:
        return self.lq is None and bool(self.models)

    def chosen_metrics(self) -> tuple[str, ...]:
        return self.metrics or (METRICS if self.hq is not None else METRICS_WITHOUT_TRUTH)


@dataclass
class Met:
    """What was found while faces were given, beside their pictures."""

    names: list[str] = field(default_factory=list)  # by which pictures of other sets are matched
    rejected: list[Rejection] = field(default_factory=list)
    sides: set[int] = field(default_factory=set)  # in pixels
    drawn: dict[str, dict[str, float]] = field(default_factory=dict)  # how much each was degraded

    def add(self, other: "Met") -> None:
        """Add what was found in the faces that follow."""
        self.names += other.names
        self.rejected += other.rejected
        self.sides |= other.sides
        self.drawn |= other.drawn


class GivenFaces:
    """All faces by the names of their pictures; it can be sent to workers.

    `recipe` and `seed` degrade them, if there are no degraded ones.
    """

    def __init__(self, wanted: Wanted, recipe: DegradationParams | None, seed: int) -> None:
        """List what is wanted. Raises: SourceError or ValueError."""
        self.wanted, self.seed, self._endings = wanted, seed, wanted.endings
        self.recipe = recipe if wanted.is_degraded_here else None
        self._photographs: Photographs | None = None
        self._hq: FaceSet | None = None
        self._lq: FaceSet | None = None
        if self.recipe is not None and wanted.hq is not None and not is_table(wanted.hq):
            self._photographs = _photographs(wanted.hq, wanted.detector)
        elif wanted.hq is not None:
            self._hq = open_set(wanted.hq, column="hq_png", endings=wanted.endings)
        elif wanted.lq is not None and wanted.detector is not None:
            self._photographs = _photographs(wanted.lq, wanted.detector)
            return
        if wanted.lq is not None:
            self._lq = open_set(wanted.lq, column="lq_png", endings=wanted.endings)

    def names(self) -> list[str]:
        """List the pictures in order."""
        first = self._photographs or self._hq or self._lq
        assert first is not None
        return first.names()

    def shared(self) -> Self:
        """Return the same for workers, which read it in the data root, or where it lies."""
        root = data_root() if cluster.on_cluster() else None
        found = copy.copy(self)
        found._photographs = self._photographs and self._photographs.shared(root)
        found._hq = self._hq and self._hq.shared(root)
        found._lq = self._lq and self._lq.shared(root)
        return found

    def protocol(self, met: Met) -> dict[str, Any]:
        """Return what scores depend on beside the competitor."""
        wanted = self.wanted
        sides = {"faces": str(wanted.hq or wanted.lq)}
        if wanted.hq is not None and wanted.lq is not None:
            sides["degraded"] = str(wanted.lq)
        made: dict[str, Any] = {"sizes": sorted(met.sides)}
        if len(met.sides) == 1:
            made = {"size": next(iter(met.sides))}
        if self.recipe is None:
            return {**sides, **made}
        degradation = self.recipe.model_dump(mode="json")
        return {**sides, **made, "degradation": degradation, "degradation_seed": self.seed}

    def cases(self, names: Sequence[str], size: int | None, met: Met) -> Iterator[Case]:
        """Read the faces of some pictures; `size` is that of the models, if there are any."""
        for case in self._cases(names, size, met):
            met.names.append(case.name)
            met.sides.add(case.side)
            yield case

    def _cases(self, names: Sequence[str], size: int | None, met: Met) -> Iterator[Case]:
        if self.recipe is not None:
            assert size is not None
            yield from self._degraded(names, size, self.recipe, met)
        elif self._photographs is not None:
            assert size is not None
            for face in self._photographs.faces(names, size, met.rejected):
                name = row_name(face.face_id, 0, self._endings)
                yield Case(name, face.face_id, 0, None, face.hq, size)
        elif self._hq is not None:
            yield from pairs(self._hq, self._lq, names, met.rejected, size=size)
        elif self._lq is not None:
            yield from alone(self._lq, names, met.rejected, size=size)

    def _degraded(
        self, names: Sequence[str], size: int, recipe: DegradationParams, met: Met
    ) -> Iterator[Case]:
        """Degrade each face once, as the stage `degrade` makes its first variant."""
        for face in self._true_faces(names, size, met):
            drawn = degrading.draw(
                recipe, face.hq.shape[:2], seed=self.seed, face_id=face.face_id, variant=0
            )
            target, lq = degrading.make_pair(face.hq, drawn, recipe)
            name = row_name(face.face_id, 0, self._endings)
            met.drawn[row_name(face.face_id, 0)] = groups.severity_of(drawn.record())
            yield Case(name, face.face_id, 0, target, lq, size)

    def _true_faces(self, names: Sequence[str], size: int, met: Met) -> Iterator[Face]:
        if self._photographs is not None:
            yield from self._photographs.faces(names, size, met.rejected)
            return
        assert self._hq is not None
        for case in pairs(self._hq, None, names, met.rejected, size=size):
            assert case.hq is not None
            yield Face(case.face_id, case.hq)


def _photographs(place: Path, detector: Path | None) -> Photographs:
    if detector is None:
        return Photographs(place, None)
    open_detector(detector, min_score=CANDIDATE_SCORE)  # a file that is none is refused here
    return Photographs(place, share_single(detector))
