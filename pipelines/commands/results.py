"""`hdrface results`: the table that `make demo` ends with, and the gate of CI.

reads   metrics/summary.json    model -> metric -> degraded, intermediate, restored, gain, each with
                                mean, low, high (95 % bootstrap interval) and n (faces)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from components import console

SUMMARY = Path("metrics/summary.json")
PAGE = Path("reports/index.html")
_STEPS = ("degraded", "intermediate", "restored", "gain")

Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]


def results(
    gate: Annotated[
        bool,
        typer.Option("--gate", help="Fail unless every model restores better than it was given."),
    ] = False,
) -> None:
    """Print the table of results and where the report lies."""
    summary = load()
    print_table(summary)
    if gate and (failed := failures(summary)):
        typer.echo("\n".join(failed), err=True)
        raise typer.Exit(1)


def load(file: Path = SUMMARY) -> Summary:
    """Read the summary. Raises: ValueError if no run has written it."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there yet: run 'dvc repro'") from error
    if not isinstance(summary, dict):
        raise ValueError(f"{file} holds no results: run 'dvc repro report'")
    return summary


def print_table(summary: Summary, page: Path = PAGE) -> None:
    """Print every model's scores on stdout, a row a metric, and where the report lies."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("model", "metric"):
        table.add_column(title, no_wrap=True)
    for title in (*_STEPS, "95 % of the gain", "faces"):
        table.add_column(title, no_wrap=True, justify="right")
    for model, metrics in summary.items():
        for name, scores in metrics.items():
            gain = scores.get("gain")
            between = "–"
            if gain and gain["low"] is not None:  # one face has no interval
                between = f"{gain['low']:+.3f} … {gain['high']:+.3f}"
            faces = _faces(scores["restored"]) if "restored" in scores else "–"
            means = [_mean(scores, step) for step in _STEPS]
            table.add_row(model, name, *means, between, faces)
        table.add_section()
    out = console.stdout(soft_wrap=False)
    out.print(table)
    if page.exists():
        out.print(f"The report: {page.resolve().as_uri()}", soft_wrap=True)


def failures(summary: Summary) -> list[str]:
    """Say which models do not restore: their gain in PSNR, paired by face, reaches down to 0.

    The plain restorers (`BACKBONE-text`) are steps on the way, trained shorter, and not judged.
    """
    judged = {model: scores for model, scores in summary.items() if not model.endswith("-text")}
    if not judged:
        return ["no model was evaluated"]
    failed = []
    for model, metrics in judged.items():
        gain = metrics.get("psnr", {}).get("gain")
        if gain is None:
            failed.append(f"{model}: no paired gain in PSNR was measured")
        elif gain["low"] is None:
            failed.append(f"{model}: one face gives no interval of the gain in PSNR")
        elif gain["low"] <= 0:
            failed.append(
                f"{model}: the gain in PSNR is {gain['mean']:+.3f} dB, its 95 % interval "
                f"[{gain['low']:+.3f}, {gain['high']:+.3f}] is not above 0"
            )
    return failed


def _faces(scores: Mapping[str, Any]) -> str:
    """Say how many faces have a score, and of how many if some have none."""
    scored, there = scores["n"], scores.get("of", scores["n"])
    return str(scored) if scored == there else f"{scored} of {there}"


def _mean(scores: Mapping[str, Any], step: str) -> str:
    if step not in scores:
        return "–"
    return f"{scores[step]['mean']:{'+' if step == 'gain' else ''}.3f}"
