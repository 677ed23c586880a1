"""How MLflow shows a training: where its sources are, what it learnt from, how it scores."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from components.git import Commit

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# MLflow's own tags of an experiment: a list of trainings, compared by this metric.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "psnr_gain",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}
DESCRIPTION_TAG = "mlflow.note.content"
_LONGEST_DIGEST = 36  # characters, MLflow's limit


def source_tags(source: str, commit: Commit | None) -> dict[str, str]:
    """Return MLflow's own tags for its columns `Source` and `Version`."""
    tags = {"mlflow.source.name": source, "mlflow.source.type": "JOB"} if source else {}
    if commit is not None and commit["commit"]:
        tags["mlflow.source.git.commit"] = commit["commit"]
        tags["git.dirty"] = str(commit["dirty"]).lower()
    return tags


def datasets(inputs: Mapping[str, str]) -> "list[DatasetInput]":
    """Return what a training learns from, for MLflow's column `Dataset`: name and fingerprint."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", "training")]
    return [
        DatasetInput(Dataset(name, fingerprint[:_LONGEST_DIGEST], "hdrface", fingerprint), tags)
        for name, fingerprint in inputs.items()
    ]


def scores(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Return the scores of a model under names that MLflow's charts keep together.

    `psnr` is that of the restored faces, with `psnr_low` and `psnr_high`, its 95 % interval;
    `psnr_gain` and its bounds are over the degraded faces; `psnr_degraded`, `psnr_intermediate`.

    Args:
        metrics: metric -> role -> mean, low, high (`reporting.comparison.intervals_of`).
    """
    return dict(_scores(metrics))


def _scores(
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Iterator[tuple[str, float]]:
    for metric, roles in metrics.items():
        for role, interval in roles.items():
            name = metric if role == "restored" else f"{metric}_{role}"
            yield name, interval["mean"]
            for bound in ("low", "high"):
                if role in ("restored", "gain") and interval[bound] is not None:
                    yield f"{name}_{bound}", interval[bound]


def picture(run_id: str, artifact: str) -> str:
    """Return Markdown that shows a picture among a run's artifacts, on MLflow's own page."""
    return f"![{artifact}](get-artifact?path={quote(artifact, safe='')}&run_uuid={run_id})"


def description(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the table of a model's scores in Markdown; `metrics` as in `scores`."""
    lines = [
        "| metric | restored | degraded | gain | 95 % of the gain | faces |",
        "|---|---|---|---|---|---|",
    ]
    for metric, roles in metrics.items():
        restored, degraded, gain = roles["restored"], roles["degraded"], roles["gain"]
        between = "–" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        cells = (f"{restored['mean']:.3f}", f"{degraded['mean']:.3f}", f"{gain['mean']:+.3f}")
        lines.append(f"| {' | '.join((metric, *cells, between, str(gain['n'])))} |")
    return "\n".join(lines)
