"""Which of two models is better on the same test faces: the rule of promotion.

F faces, K metrics. Models are compared by their metrics files (`components.reporting.comparison`):
the scores of every test face, and the pairs that they belong to.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from components.metrics import bootstrap
from components.metrics.bootstrap import Interval
from components.metrics.paired import (
    Row,
    Scores,
    angles_of,
    by_face,
    is_set,
    not_comparable,
    other_faces,
    sign,
)
from components.params import Params


class FlaggedParams(Params):
    """How many results may show another person."""

    metric: str  # an angle between identities: identity_angle or deg_vqfr
    above: PositiveFloat  # degrees: a result with more is flagged
    share: Annotated[float, Field(ge=0, le=1)]  # of the results that have an angle


class Rule(Params):
    """What a candidate must show to become the champion, at 95 % confidence.

    A metric's name says its protocol: `deg_vqfr`, `lmd_awing`.
    """

    better: Annotated[list[str], Field(min_length=1)]  # metrics: it must be better in each
    not_worse: dict[
        str, NonNegativeFloat
    ]  # metric -> margin in its unit: it must not be worse by more
    # Column of groups (`noise`, `age`) -> metric -> margin: in no group may it be worse by more.
    groups: dict[str, dict[str, NonNegativeFloat]] = Field(default_factory=dict)
    flagged: FlaggedParams | None = None
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
    """One metric, of all faces or of a group: by how much the candidate is better; < 0 if worse."""

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


@dataclass(frozen=True)
class _Flagged:
    """How many results of the candidate show another person, as far as an angle says so."""

    limit: FlaggedParams
    number: int
    of: int

    @property
    def holds(self) -> bool:
        return self.number / self.of <= self.limit.share

    def __str__(self) -> str:
        told = "not more" if self.holds else "more"
        return (
            f"{self.number} of {self.of} results are above {self.limit.above:g}° in "
            f"{self.limit.metric}, {told} than {self.limit.share:.3g} of them"
        )


def compare(candidate: Scores, champion: Scores, rule: Rule) -> Verdict:
    """Compare a candidate with the champion, face by face.

    Better in a metric means that the paired 95 % interval of the mean difference lies above 0 in
    the metric's good direction; not worse means that it does not reach below minus the margin. A
    metric that was not measured, or other test faces, are reasons against a candidate. In a metric
    of sets (FID), no faces can be paired: the difference lies between those of the two intervals'
    opposite bounds.
    """
    if reason := other_faces(candidate, champion):
        return Verdict(False, reason)
    return _judge(candidate, champion, "restored", rule)


def difference(
    scores: Scores, reference: Scores, metric: str, *, samples: int, seed: int
) -> Interval | str:
    """Return by how much a model's scores differ from a reference's, paired by face.

    The sign is the metric's own: below 0 is worse where higher scores are better. Returns why, in
    words, if the two cannot be compared.
    """
    if reason := other_faces(scores, reference):
        return reason
    if reasons := list(not_comparable([metric], scores, reference, "restored")):
        return reasons[0]
    if is_set(scores, metric):
        return f"{metric} is a number of a set, which no face has"
    by_F = by_face(scores, metric, "restored") - by_face(reference, metric, "restored")
    return bootstrap.intervals(by_F[:, None], samples=samples, seed=seed)[0]


def compare_with_input(candidate: Scores, rule: Rule) -> Verdict:
    """Compare a candidate by the same rule with its input, the degraded faces."""
    return _judge(candidate, candidate, "degraded", rule)


def _judge(candidate: Scores, reference: Scores, role: str, rule: Rule) -> Verdict:
    reasons = [
        *not_comparable(_metrics(rule), candidate, reference, role),
        *_without_groups(candidate, rule),
        *_without_angles(candidate, rule),
    ]
    if reasons:
        return Verdict(False, "; ".join(reasons))
    findings: list[_Finding | _Flagged] = [
        *_over_all(candidate, reference, role, rule),
        *_in_groups(candidate, reference, role, rule),
    ]
    if rule.flagged is not None:
        findings.append(_flagged(candidate, rule.flagged))
    against = [finding for finding in findings if not finding.holds]
    return Verdict(not against, "; ".join(str(finding) for finding in against or findings))


def _metrics(rule: Rule) -> list[str]:
    in_groups = (metric for margins in rule.groups.values() for metric in margins)
    return list(dict.fromkeys([*rule.better, *rule.not_worse, *in_groups]))


def _over_all(candidate: Scores, reference: Scores, role: str, rule: Rule) -> Iterator[_Finding]:
    margins = {**dict.fromkeys(rule.better, 0.0), **rule.not_worse}
    by = _differences(candidate, reference, role, list(margins), rule)
    for metric, margin in margins.items():
        interval = by[metric] if metric in by else _of_sets(candidate, reference, role, metric)
        unit = candidate["metrics"][metric]["unit"]
        yield _Finding(metric, unit, interval, margin, metric in rule.better)


def _in_groups(candidate: Scores, reference: Scores, role: str, rule: Rule) -> Iterator[_Finding]:
    """Compare group by group. Each one must hold, so that no correction for their number is due."""
    for column, margins in rule.groups.items():
        members: dict[str, set[Row]] = {}
        for face in candidate["faces"]:
            if column in face["groups"]:
                row = face["face_id"], face["variant"]
                members.setdefault(face["groups"][column], set()).add(row)
        for group, rows in sorted(members.items()):
            by = _differences(candidate, reference, role, list(margins), rule, rows)
            for metric, margin in margins.items():
                unit = candidate["metrics"][metric]["unit"]
                title = f"{metric} where {column} is {group}"
                yield _Finding(title, unit, by[metric], margin, must_be_better=False)


def _differences(
    candidate: Scores,
    reference: Scores,
    role: str,
    metrics: Sequence[str],
    rule: Rule,
    rows: Collection[Row] | None = None,
) -> dict[str, Interval]:
    """Return by how much the candidate is better in each metric that single faces have.

    `rows` limits it to these degradations of faces.
    """
    paired = [metric for metric in metrics if not is_set(candidate, metric)]
    if not paired:
        return {}
    gains_FK = np.column_stack(
        [
            sign(candidate, metric)
            * (
                by_face(candidate, metric, "restored", rows)
                - by_face(reference, metric, role, rows)
            )
            for metric in paired
        ]
    )
    found = bootstrap.intervals(gains_FK, samples=rule.bootstrap_samples, seed=rule.seed)
    return dict(zip(paired, found, strict=True))


def _of_sets(candidate: Scores, reference: Scores, role: str, metric: str) -> Interval:
    one, other = candidate["metrics"][metric]["restored"], reference["metrics"][metric][role]
    way = sign(candidate, metric)
    low, high = sorted((way * (one["low"] - other["high"]), way * (one["high"] - other["low"])))
    return Interval(way * (one["mean"] - other["mean"]), low, high, one["n"])


def _flagged(candidate: Scores, limit: FlaggedParams) -> _Flagged:
    angles = angles_of(candidate, limit.metric)
    return _Flagged(limit, sum(angle > limit.above for angle in angles), len(angles))


def _without_angles(candidate: Scores, rule: Rule) -> Iterator[str]:
    if rule.flagged is None:
        return
    metric = rule.flagged.metric
    measured = candidate["metrics"].get(metric)
    if measured is None or not angles_of(candidate, metric):
        why = candidate["unavailable"].get(metric, "'evaluate.metrics' does not name it")
        yield f"{metric} was not measured for the candidate: {why}"
    elif measured["unit"] != "°":
        yield f"{metric} is no angle between identities: name identity_angle or deg_vqfr"


def _without_groups(candidate: Scores, rule: Rule) -> Iterator[str]:
    for column, margins in rule.groups.items():
        if not any(column in face.get("groups", ()) for face in candidate["faces"]):
            yield (
                f"no test face has a group of '{column}': 'evaluate.groups' names a file with such "
                "a column, or too few faces are there to divide them"
            )
        for metric in margins:
            if is_set(candidate, metric):
                yield f"{metric} is a number of a set, which no group has"
