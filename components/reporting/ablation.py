"""The table of an ablation: each variant's scores, and how they differ from the choice's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from components.metrics import promotion
from components.metrics.bootstrap import Interval
from components.metrics.paired import Scores


class Row(NamedTuple):
    """One model of one variant in one metric."""

    variant: str
    model: str
    metric: str
    score: Interval
    # To the choice's model of the same backbone, paired by face; or why there is none.
    difference: Interval | str


def rows(
    scores: Mapping[str, Sequence[Scores]], choice: str, *, samples: int, seed: int
) -> list[Row]:
    """Compare every variant with the choice, metric by metric.

    Args:
        scores: variant -> the metrics files (`components.reporting.comparison`) of its models, in
            the same order of backbones for all; without those that failed.
        choice: the variant that is compared with.
        samples: of the bootstrap.
        seed: of the bootstrap.
    """
    return list(_rows(scores, choice, samples, seed))


def _rows(
    scores: Mapping[str, Sequence[Scores]], choice: str, samples: int, seed: int
) -> Iterator[Row]:
    for variant, contents in scores.items():
        for place, content in enumerate(contents):
            for metric, roles in content["metrics"].items():
                if variant == choice:
                    by: Interval | str = "the choice"
                elif choice not in scores:
                    by = f"{choice} has no scores"
                else:
                    reference = scores[choice][place]
                    by = promotion.difference(
                        content, reference, metric, samples=samples, seed=seed
                    )
                own = Interval(*(roles["restored"][key] for key in ("mean", "low", "high", "n")))
                yield Row(variant, content["model"]["name"], metric, own, by)


def without_faces(scores: Mapping[str, Sequence[Scores]]) -> dict[str, dict[str, Scores]]:
    """Return variant -> model -> its metrics file without the faces' own scores.

    It says on which faces and by which protocols the numbers were measured, and why some are not.
    """
    kept = ("model", "protocol", "metrics", "unavailable")
    return {
        variant: {
            content["model"]["name"]: {key: content[key] for key in kept} for content in contents
        }
        for variant, contents in scores.items()
    }


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table."""
    lines = ["| variant | model | metric | score | difference to the choice | 95 % | faces |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines.extend(f"| {' | '.join(cells(row))} |" for row in rows)
    return "\n".join(lines) + "\n"


def cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row's cells: the six columns of `markdown`, and the faces."""
    by, between = row.difference, "–"
    if isinstance(by, Interval) and by.low is not None:  # one face has no interval
        between = f"{by.low:+.3f} … {by.high:+.3f}"
    told = f"{by.mean:+.3f}" if isinstance(by, Interval) else by
    score, faces = f"{row.score.mean:.3f}", str(row.score.n)
    return row.variant, row.model, row.metric, score, told, between, faces
