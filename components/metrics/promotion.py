"""Which of two models is better on the same test faces: the rule of promotion.

F faces, K metrics. Models are compared by their metrics files (`components.reporting.comparison`):
the scores of every test face, and the pairs that they belong to.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from components.metrics import bootstrap
from components.metrics.bootstrap import Interval
from components.metrics.protocol import told
from components.params import Params

Scores = Mapping[str, Any]  # the content of a metrics file


class Rule(Params):
    """What a candidate must show to become the champion, at 95 % confidence."""

    better: Annotated[list[str], Field(min_length=1)]  # metrics: it must be better in each
    not_worse: dict[
        str, NonNegativeFloat
    ]  # metric -> margin in its unit: it must not be worse by more
    bootstrap_samples: PositiveInt
    seed: int

    @model_validator(mode="after")
    def _each_metric_once(self) -> Self:
        if twice := sorted(set(self.better) & set(self.not_worse)):
            raise ValueError(f"{', '.join(twice)} is in both 'better' and 'not_worse'")
        return self


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate replaces the reference, and why, in one line."""

    is_better: bool
    reason: str


@dataclass(frozen=True)
class _Finding:
    """One metric: by how much the candidate is better; below 0 if it is worse."""

    metric: str
    unit: str
    by: Interval
    margin: float  # how much worse it may be; 0 if it must be better
    must_be_better: bool

    @property
    def holds(self) -> bool:
        if self.by.low is None:  # one face shows nothing
            return False
        return self.by.low > 0 if self.must_be_better else self.by.low >= -self.margin

    def __str__(self) -> str:
        told = {
            (True, True): "better",
            (True, False): "not shown to be better",
            (False, True): f"not worse by more than {self.margin:g}",
            (False, False): f"not shown to be within {self.margin:g}",
        }[self.must_be_better, self.holds]
        unit = f" {self.unit}" if self.unit else ""
        bounds = "one face gives no interval"
        if self.by.low is not None and self.by.high is not None:
            bounds = f"95 %: {self.by.low:+.4g} to {self.by.high:+.4g}"
        return f"{self.metric} {told} ({self.by.mean:+.4g}{unit}; {bounds}; {self.by.n} faces)"


def compare(candidate: Scores, champion: Scores, rule: Rule) -> Verdict:
    """Compare a candidate with the champion, face by face.

    Better in a metric means that the paired 95 % interval of the mean difference lies above 0 in
    the metric's good direction; not worse means that it does not reach below minus the margin. A
    metric that was not measured, or other test faces, are reasons against a candidate.
    """
    if reason := _other_faces(candidate, champion):
        return Verdict(False, reason)
    return _judge(candidate, champion, "restored", rule)


def difference(
    scores: Scores, reference: Scores, metric: str, *, samples: int, seed: int
) -> Interval | str:
    """Return by how much a model's scores differ from a reference's, paired by face.

    The sign is the metric's own: below 0 is worse where higher scores are better. Returns why, in
    words, if the two cannot be compared.
    """
    if reason := _other_faces(scores, reference):
        return reason
    if reasons := list(_not_comparable([metric], scores, reference, "restored")):
        return reasons[0]
    by_F = _by_face(scores, metric, "restored") - _by_face(reference, metric, "restored")
    return bootstrap.intervals(by_F[:, None], samples=samples, seed=seed)[0]


def compare_with_input(candidate: Scores, rule: Rule) -> Verdict:
    """Compare a candidate by the same rule with its input, the degraded faces."""
    return _judge(candidate, candidate, "degraded", rule)


def _other_faces(candidate: Scores, champion: Scores) -> str | None:
    """Return how the test faces of two models differ, if they do."""
    one, other = (scores["protocol"].get("pairs") for scores in (candidate, champion))
    if one != other:
        return f"not comparable: it was scored on the pairs {one}, the champion on {other}"
    faces, known = _faces(candidate), _faces(champion)
    if faces != known:
        strange = sorted(set(faces) ^ set(known))
        return (
            f"not comparable: {len(faces)} test faces, the champion had {len(known)}; "
            f"only one of them has {strange[0]}"
        )
    return None


def _judge(candidate: Scores, reference: Scores, role: str, rule: Rule) -> Verdict:
    metrics = [*rule.better, *rule.not_worse]
    if missing := list(_not_comparable(metrics, candidate, reference, role)):
        return Verdict(False, "; ".join(missing))
    gains_FK = np.column_stack(
        [
            _sign(candidate, metric)
            * (_by_face(candidate, metric, "restored") - _by_face(reference, metric, role))
            for metric in metrics
        ]
    )
    found = bootstrap.intervals(gains_FK, samples=rule.bootstrap_samples, seed=rule.seed)
    findings = [
        _Finding(
            metric,
            candidate["metrics"][metric]["unit"],
            interval,
            rule.not_worse.get(metric, 0.0),
            metric in rule.better,
        )
        for metric, interval in zip(metrics, found, strict=True)
    ]
    against = [finding for finding in findings if not finding.holds]
    return Verdict(not against, "; ".join(str(finding) for finding in against or findings))


def _not_comparable(
    metrics: Sequence[str], candidate: Scores, reference: Scores, role: str
) -> Iterator[str]:
    both = (candidate, reference)
    for metric in metrics:
        for whose, scores in zip(("the candidate", "the champion"), both, strict=True):
            if metric not in scores["metrics"]:
                why = scores["unavailable"].get(metric, "'evaluate.metrics' does not name it")
                yield f"{metric} was not measured for {whose}: {why}"
                break
        else:
            one, other = (told(scores["metrics"][metric]["protocol"]) for scores in both)
            if one != other:
                yield f"{metric} was measured as '{one}', for the champion as '{other}'"
            elif not candidate["faces"] or metric not in candidate["faces"][0]["scores"]:
                yield f"{metric} is a number of a set, which no face has"
            else:
                yield from _without_scores(metric, candidate, "the candidate", "restored")
                yield from _without_scores(metric, reference, "what it is compared with", role)


def _without_scores(metric: str, scores: Scores, whose: str, role: str) -> Iterator[str]:
    without = [face for face in scores["faces"] if face["scores"][metric][role] is None]
    if without:
        yield (
            f"{len(without)} of {len(scores['faces'])} results of {whose} have no {metric}, the "
            f"first {without[0]['face_id']}: see 'failures' in its metrics file"
        )


def _sign(scores: Scores, metric: str) -> float:
    return 1.0 if scores["metrics"][metric]["better"] == "higher" else -1.0


def _faces(scores: Scores) -> list[tuple[str, int]]:
    return sorted((face["face_id"], face["variant"]) for face in scores["faces"])


def _by_face(scores: Scores, metric: str, role: str) -> npt.NDArray[np.float64]:
    """Return one score per face (F,), by face id: the mean over its variants."""
    variants: dict[str, list[float]] = {}
    for face in scores["faces"]:
        variants.setdefault(face["face_id"], []).append(face["scores"][metric][role])
    return np.array([np.mean(variants[face_id]) for face_id in sorted(variants)])
