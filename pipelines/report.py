"""Stage `report`: one page about all models, and the summary that DVC compares.

reads   metrics/models/B-C.json, galleries/B-C/     of every model that was evaluated
        models/B-C/history.json              its losses
        the manifests of tables and weights, params.yaml, dvc.lock
writes  metrics/summary.json                 model -> metric -> degraded, intermediate, restored,
                                             gain -> mean, low, high, n
        metrics/plots/losses.csv, severity.csv, conditions.csv     what `dvc plots` draws
        reports/index.html
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components import files, git, history, lineage
from components.history import HISTORY, HistoryPoint
from components.params import PARAMS_FILE, Params, read
from components.reporting import comparison, plots
from components.reporting.charts import Node
from components.reporting.gallery import Gallery
from components.reporting.page import Output, Report, TableFacts, WeightsFacts, render
from components.tables import Table
from components.weights.manifest import Manifest
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "report"
LOCK = Path("dvc.lock")


class ReportParams(Params):
    title: str
    names: list[str]  # of the models, in the order of the tables
    scores: Path  # the folder of metrics files
    galleries: Path
    models: Path
    tables: list[Path]
    weights: Path  # the folder of weights folders
    page: Path
    summary: Path
    plots: Path  # the folder of what `dvc plots` draws


def run(params: ReportParams, *, params_file: Path = PARAMS_FILE, lock: Path = LOCK) -> None:
    """Write the page and the summary.

    Raises: ValueError if a model was not evaluated, or not all on the same faces.
    """
    results = {name: _result(params.scores / f"{name}.json") for name in params.names}
    summary = {name: comparison.intervals_of(result) for name, result in results.items()}
    histories = {name: _history(params.models / name) for name in results}
    commit = git.commit(lineage.ROOT)
    nodes, outputs = read_lock(lock)
    report = Report(
        title=params.title,
        results=results,
        galleries={name: Gallery.read(params.galleries / name) for name in results},
        histories=histories,
        tables=[_table(folder) for folder in params.tables],
        weights=_weights(params.weights),
        params={section: _yaml(values) for section, values in read(params_file).items()},
        commit=commit["commit"],
        is_dirty=commit["dirty"],
        stages=nodes,
        outputs=outputs,
    )
    files.write_text(params.page, render(report))
    files.write_json(params.summary, summary, indent=2)
    files.write_text(params.plots / "losses.csv", plots.losses(histories))
    files.write_text(params.plots / "severity.csv", plots.severity(results))
    files.write_text(params.plots / "conditions.csv", plots.conditions(results))
    log.info("report: %d models, %s", len(results), params.page)


def _result(file: Path) -> dict[str, Any]:
    """Read the scores of one model. Raises: ValueError if it was not evaluated."""
    if not file.is_file():
        raise ValueError(f"{file} is not there: run 'dvc repro evaluate'")
    result: dict[str, Any] = json.loads(file.read_bytes())
    return result


def _history(model: Path) -> list[HistoryPoint]:
    """Read how a model was trained; empty if it was not trained here."""
    if not (model / HISTORY).is_file():
        return []
    return history.decode((model / HISTORY).read_bytes())


def _table(folder: Path) -> TableFacts:
    table = Table.open(folder)
    rejected = [(rejection.id, rejection.reason) for rejection in table.rejected]
    return TableFacts(folder.name, table.stage, table.fingerprint, table.num_rows, rejected)


def _weights(folder: Path) -> list[WeightsFacts]:
    manifests = [Manifest.read(one) for one in sorted(folder.iterdir()) if one.is_dir()]
    return [
        WeightsFacts(
            manifest.name,
            manifest.kind,
            manifest.source,
            manifest.licence,
            manifest.facts.get("reconstruction_psnr"),
        )
        for manifest in manifests
    ]


def read_lock(file: Path) -> tuple[list[Node], list[Output]]:
    """Read which stages ran, what they read from each other, and the hashes of their outputs.

    `report` itself and `register`, which may run after it, are left out: the lock still describes
    their last run. Without a lock both lists are empty: the stages were run without DVC.
    """
    if not file.is_file():
        return [], []
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    stages: Mapping[str, Any] = {
        name: entry
        for name, entry in content["stages"].items()
        if name not in ("report", "register")
    }
    outputs = [
        Output(name, out["path"], out.get("md5", ""))
        for name, entry in stages.items()
        for out in entry.get("outs", ())
    ]
    reads: dict[str, set[str]] = {name.partition("@")[0]: set() for name in stages}
    items: dict[str, list[str]] = defaultdict(list)
    for name, entry in stages.items():
        title, _, item = name.partition("@")
        items[title] += [item] if item else []
        for dependency in entry.get("deps", ()):
            reads[title] |= {
                out.stage.partition("@")[0]
                for out in outputs
                if _within(dependency["path"], out.path)
            }
    nodes = [
        Node(title, tuple(items[title]), frozenset(sources - {title}))
        for title, sources in reads.items()
    ]
    return nodes, outputs


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder) or Path(folder).is_relative_to(path)


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    stage.start("pipelines.report")
