"""Score models and folders of results on the same faces, with or without true faces.

Faces stream: of each, only its scores are kept, and 8 kB per metric of sets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from components import images
from components.images import Image, ImageError
from components.metrics import bootstrap
from components.metrics.catalogue import Metric
from components.metrics.protocol import told
from components.reporting import comparison, scoring
from components.reporting.face_sets import FaceSet, Rejection
from components.reporting.scoring import FaceScores, Failures
from components.restorers.protocol import RestoresFaces


@dataclass(frozen=True)
class Case:
    """A face that is scored: its true and its degraded picture, of one size, if there are.

    `name` is the one that pictures of other sets are matched by.
    """

    name: str
    face_id: str
    variant: int
    hq: Image | None
    lq: Image | None
    side_there: int  # pixels of the face before it was made as small as the models' faces

    @property
    def side(self) -> int:
        shown = self.hq if self.hq is not None else self.lq
        assert shown is not None
        return int(shown.shape[0])


Pictures = dict[str, list[Image | None]]  # by role


class Competitor(Protocol):
    """Who gives restored pictures."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return which model or folder it is, for a metrics file."""
        ...

    def pictures(self, batch: Sequence[Case]) -> tuple[Pictures, list[Failures]]:
        """Return pictures by role of a batch of one size, and why some are not there."""
        ...


class Model:
    """A restorer, which needs degraded faces."""

    def __init__(self, restorer: RestoresFaces) -> None:
        self._restorer = restorer
        self.facts = {"name": restorer.name, "fingerprint": restorer.fingerprint}

    def pictures(self, batch: Sequence[Case]) -> tuple[Pictures, list[Failures]]:
        lqs = [case.lq for case in batch if case.lq is not None]
        faces = [(case.face_id, case.variant) for case in batch]
        made = comparison.restore(self._restorer, lqs, faces, device=self._restorer.device)
        return {role: list(shown) for role, shown in made.pictures.items()}, made.failures


class Results:
    """Pictures that any program has restored, in the size of the face or of the models."""

    def __init__(self, name: str, results: FaceSet) -> None:
        self._results = results
        self.facts = {"name": name, "fingerprint": results.fingerprint}

    def pictures(self, batch: Sequence[Case]) -> tuple[Pictures, list[Failures]]:
        failures: list[Failures] = [{} for _ in batch]
        shown: list[Image | None] = []
        for case, why in zip(batch, failures, strict=True):
            try:
                shown.append(self._read(case))
            except ImageError as error:
                shown.append(None)
                why["restored"] = str(error)
        return {"restored": shown}, failures

    def _read(self, case: Case) -> Image:
        if case.name not in self._results:
            raise ImageError("missing")
        picture = self._results.read(case.name)
        height, width = picture.shape[:2]
        if height != width or width not in (case.side, case.side_there):
            raise ImageError(f"of another size, {width} x {height}, not {case.side}")
        return images.resize(picture, case.side)


class Degraded:
    """Nobody: the degraded faces themselves are scored."""

    facts: Mapping[str, Any] = {"name": "degraded"}

    def pictures(self, batch: Sequence[Case]) -> tuple[Pictures, list[Failures]]:
        return {}, [{} for _ in batch]


def score_all(
    cases: Iterable[Case],
    competitors: Sequence[Competitor],
    metrics: Mapping[str, Metric],
    *,
    batch_size: int,
) -> list[list[FaceScores]]:
    """Score each competitor on every case, in batches of one size; the cases are read once."""
    rows: list[list[FaceScores]] = [[] for _ in competitors]
    for batch in batches(cases, batch_size):
        for competitor, scored in zip(competitors, rows, strict=True):
            scored += _score(batch, competitor, metrics)
    return rows


def _score(
    batch: Sequence[Case], competitor: Competitor, metrics: Mapping[str, Metric]
) -> list[FaceScores]:
    shown, failures = competitor.pictures(batch)
    if batch[0].lq is not None:
        shown["degraded"] = [case.lq for case in batch]
    hqs = [case.hq for case in batch if case.hq is not None]
    return scoring.score(
        [(case.face_id, case.variant) for case in batch],
        {role: shown[role] for role in comparison.ROLES if role in shown},
        hqs or None,
        metrics,
        failures,
    )


def batches(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    """Give batches of at most `size` cases whose pictures are of one size."""
    batch: list[Case] = []
    for case in cases:
        if batch and (len(batch) == size or case.side != batch[0].side):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


def pairs(
    hq: FaceSet,
    lq: FaceSet | None,
    names: Sequence[str],
    rejected: list[Rejection],
    *,
    size: int | None,
) -> Iterator[Case]:
    """Give the named faces of a set of true ones, with the degraded ones of the same names.

    `size` is that of the models; larger faces are made smaller. Without it a face keeps its size,
    and a degraded one must have the same.
    """
    for name in names:
        try:
            if lq is not None and name not in lq:
                raise ImageError("there is no degraded face of this name")
            whole = hq.read(name)
            true = _square(whole, size)
            degraded = None if lq is None else _square(lq.read(name), size, lower=True)
            if degraded is not None and degraded.shape != true.shape:
                raise ImageError(
                    f"the degraded face is {degraded.shape[0]} pixels wide, the true one "
                    f"{true.shape[0]}"
                )
        except ImageError as error:
            rejected.append((name, str(error)))
            continue
        yield Case(name, *hq.face(name), true, degraded, whole.shape[0])


def alone(
    lq: FaceSet, names: Sequence[str], rejected: list[Rejection], *, size: int | None
) -> Iterator[Case]:
    """Give the named faces of a set of degraded ones, of which no true ones are known."""
    for name in names:
        try:
            whole = lq.read(name)
            degraded = _square(whole, size, lower=True)
        except ImageError as error:
            rejected.append((name, str(error)))
            continue
        yield Case(name, *lq.face(name), None, degraded, whole.shape[0])


def _square(picture: Image, size: int | None, *, lower: bool = False) -> Image:
    """Return an aligned face in the size of the models; `lower`: it may be enlarged."""
    height, width = picture.shape[:2]
    if height != width:
        raise ImageError(f"{width} x {height} is not square, as aligned faces are")
    if size is None or width == size:
        return picture
    if width < size and not lower:
        raise ImageError(f"{width} pixels wide; the models restore {size}")
    return images.resize(picture, size)


def differences(
    results: Sequence[Mapping[str, Any]], *, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Compare each result with the first, by face: the mean difference and its 95 % interval.

    Only faces that both have a score of count, and only metrics of one protocol.
    """
    first, found = results[0], []
    for other in results[1:]:
        for metric, measured in other["metrics"].items():
            known = first["metrics"].get(metric)
            if known is None or told(known["protocol"]) != told(measured["protocol"]):
                continue
            one, two = (_restored(result, metric) for result in (first, other))
            common = [face for face, value in two.items() if face in one and value is not None]
            gains = [two[face] - one[face] for face in common]
            if gains:
                values = np.array(gains)[:, None]
                (interval,) = bootstrap.intervals(values, samples=samples, seed=seed)
                names = {"model": other["model"]["name"], "against": first["model"]["name"]}
                found.append({**names, "metric": metric, **asdict(interval)})
    return found


def _restored(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return the restored faces' scores by face, the mean over its variants."""
    scores: dict[str, list[float]] = {}
    for face in result["faces"]:
        value = face["scores"].get(metric, {}).get("restored")
        if value is not None:
            scores.setdefault(face["face_id"], []).append(value)
    return {face_id: float(np.mean(values)) for face_id, values in scores.items()}
