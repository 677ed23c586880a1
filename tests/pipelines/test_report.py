"""The stage `report` over the real formats: tables, galleries, histories, manifests, dvc.lock."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.numpy import save_file
from skimage.data import astronaut

from components import images
from components.reporting import comparison, groups
from components.reporting.comparison import Compared, FaceScores, Pair
from components.reporting.gallery import Gallery
from components.tables import Made, Rejection, shards
from components.tables.table import MANIFEST, SCHEMA_VERSION
from components.tables.unfinished import Unfinished
from components.weights.manifest import write_manifest
from pipelines import report
from pipelines.report import ReportParams, read_lock

MODELS = ("sd21-text", "sd21-sdfm")


def _write_table(out: Path) -> None:
    """Write a table of one shard as `tables.build` does, without a cluster."""
    rejected = [Rejection("Größe 3.png", "too small: 3 x 3, at least 16 pixels per side")]
    partial = Unfinished.resume(out, "1dea", 1)
    note = partial.keep(0, Made(pa.table({"face_id": ["a", "b"]}), rejected))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": "faces",
        "fingerprint": "1dea" * 16,
        "params": {},
        "inputs": {},
        "num_rows": 2,
        "columns": note.columns,
        "shards": [json.loads(note.dumps())["shard"]],
        "rejected": [json.loads(note.dumps())["rejected"][0]],
    }
    partial.finish(out, MANIFEST, shards.json_bytes(manifest))


def _write_model(root: Path, name: str, *, pairs: str = "9f") -> dict[str, Any]:
    backbone, condition = name.split("-")
    random = np.random.default_rng(0)
    faces = []
    for i in range(20):
        before = random.normal(22, 2)
        scores = {"psnr": {"degraded": before, "restored": before + random.normal(1, 0.1)}}
        faces.append(FaceScores(f"f{i}", 0, scores))
    facts = {"name": name, "fingerprint": "ab" * 32, "backbone": backbone, "condition": condition}
    result = comparison.result(facts, {"pairs": pairs, "size": 64}, faces, {}, samples=99, seed=1)
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics" / f"{name}.json").write_text(json.dumps(result))
    hq = images.resize(astronaut()[0:256, 96:352].copy(), 64)
    shown = Compared(Pair("f0", 0, hq, hq), None, hq, None, faces[0].scores)
    Gallery.of(name, [shown]).write(root / "galleries" / name)
    (root / "models" / name).mkdir(parents=True)
    history = [{"step": step, "loss": 1 / step, "images_per_s": 31.25} for step in range(1, 9)]
    (root / "models" / name / "history.json").write_text(json.dumps(history))
    return result


@pytest.fixture
def params(tmp_path: Path) -> ReportParams:
    _write_table(tmp_path / "faces")
    for name in MODELS:
        _write_model(tmp_path, name)
    sd21 = tmp_path / "weights" / "sd21"
    sd21.mkdir(parents=True)
    save_file({"w": np.zeros(3, np.float32)}, sd21 / "w.safetensors")
    write_manifest(
        sd21,
        name="sd21",
        kind="stand-in",
        source="trained on the faces",
        revision=None,
        licence="Apache-2.0",
        facts={"reconstruction_psnr": 27.654},
    )
    (tmp_path / "params.yaml").write_text("degrade:\n  seed: 42\n", encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": LOCK}))
    return ReportParams(
        title="Faces",
        names=sorted(MODELS),
        scores=tmp_path / "metrics",
        galleries=tmp_path / "galleries",
        models=tmp_path / "models",
        tables=[tmp_path / "faces"],
        weights=tmp_path / "weights",
        page=tmp_path / "reports" / "index.html",
        summary=tmp_path / "metrics" / "summary.json",
        plots=tmp_path / "plots",
    )


LOCK = {
    "faces": {
        "cmd": "python -m pipelines.faces",
        "deps": [{"path": "data/samples", "md5": "00.dir"}],
        "outs": [{"path": "data/faces", "hash": "md5", "md5": "f00.dir", "size": 1}],
    },
    "weights@sd21": {
        "cmd": "python -m pipelines.weights sd21",
        "deps": [{"path": "data/faces", "md5": "f00.dir"}],
        "outs": [{"path": "data/weights/sd21", "md5": "beef.dir"}],
    },
    "weights@qwen": {
        "cmd": "python -m pipelines.weights qwen",
        "deps": [{"path": "data/faces/manifest.json", "md5": "1"}],
        "outs": [{"path": "data/weights/qwen", "md5": "cafe.dir"}],
    },
    "report": {
        "cmd": "python -m pipelines.report",
        "deps": [{"path": "metrics", "md5": "2"}],
        "outs": [{"path": "reports/index.html", "md5": "01d"}],
    },
    "register": {
        "cmd": "python -m pipelines.register",
        "deps": [{"path": "data/faces", "md5": "f00.dir"}],
        "outs": [{"path": "metrics/registered.json", "md5": "01d"}],
    },
}


def _run(params: ReportParams) -> str:
    root = params.scores.parent
    report.run(params, params_file=root / "params.yaml", lock=root / "dvc.lock")
    return params.page.read_text(encoding="utf-8")


def test_the_summary_has_each_models_means_intervals_and_counts(params: ReportParams) -> None:
    _run(params)
    summary = json.loads(params.summary.read_bytes())
    assert list(summary) == sorted(MODELS)
    gain = summary["sd21-sdfm"]["psnr"]["gain"]
    assert set(gain) == {"mean", "low", "high", "n", "of"}
    assert 0.9 < gain["low"] < gain["mean"] < gain["high"] < 1.1
    assert gain["n"] == 20
    assert list(summary["sd21-text"]["psnr"]) == ["degraded", "restored", "gain"]


def test_the_files_for_dvc_have_the_losses_and_the_scores_by_severity_and_condition(
    params: ReportParams,
) -> None:
    result = json.loads((params.scores / "sd21-sdfm.json").read_bytes())
    noise = {f"f{i}": "1: weak" if i < 10 else "2: strong" for i in range(20)}
    grouped = groups.add(result, {"noise": noise}, samples=99, seed=1)
    (params.scores / "sd21-sdfm.json").write_text(json.dumps(grouped))
    _run(params)
    losses, severity, conditions = (
        list(csv.DictReader((params.plots / f"{name}.csv").read_text().splitlines()))
        for name in ("losses", "severity", "conditions")
    )
    assert [row["step"] for row in losses if row["model"] == "sd21-text"] == list("12345678")
    assert losses[1]["loss"] == "0.5"
    [weak, strong] = severity
    assert (weak["model"], weak["metric"], weak["by"]) == ("sd21-sdfm", "psnr", "noise")
    assert (strong["group"], strong["n"]) == ("2: strong", "10")
    assert float(weak["gain"]) == pytest.approx(1, abs=0.1)
    assert [(row["backbone"], row["condition"]) for row in conditions] == [
        ("sd21", "sdfm"),
        ("sd21", "text"),
    ]
    psnr = result["metrics"]["psnr"]
    assert float(conditions[0]["mean"]) == pytest.approx(psnr["restored"]["mean"], rel=1e-5)
    assert float(conditions[0]["gain_low"]) == pytest.approx(psnr["gain"]["low"], rel=1e-5)


def test_the_page_shows_what_lies_in_the_folders(params: ReportParams) -> None:
    html = _run(params)
    assert "Größe 3.png" in html
    assert "too small: 3 x 3" in html
    assert "27.65 dB" in html
    assert "31.2 images/s" in html or "31.3 images/s" in html
    assert "8 steps" in html
    assert "seed: 42" in html
    assert "beef.dir" in html
    assert html.count("data:image/png;base64,") == 2 * 3


def test_a_second_report_is_the_same_and_does_not_read_its_own_summary(
    params: ReportParams,
) -> None:
    first = _run(params)
    assert _run(params) == first


def test_models_scored_on_other_pairs_stop_the_report(params: ReportParams) -> None:
    other = params.scores / "qwen-text.json"
    result = json.loads((params.scores / "sd21-text.json").read_bytes())
    result["model"]["name"] = "qwen-text"
    result["protocol"]["pairs"] = "0ther"
    other.write_text(json.dumps(result))
    for folder in (params.galleries, params.models):
        (folder / "sd21-text").rename(folder / "qwen-text")
    (params.scores / "sd21-text.json").unlink()
    mixed = params.model_copy(update={"names": ["qwen-text", "sd21-sdfm"]})
    with pytest.raises(ValueError, match=r"qwen-text was scored with pairs = 0ther, sd21-sdfm"):
        _run(mixed)
    assert not params.page.exists()


def test_a_model_without_scores_stops_the_report(params: ReportParams) -> None:
    one_more = params.model_copy(update={"names": [*params.names, "qwen-text"]})
    with pytest.raises(ValueError, match=r"qwen-text\.json is not there: run 'dvc repro evaluate'"):
        _run(one_more)


def test_what_an_earlier_profile_has_left_is_not_shown(params: ReportParams) -> None:
    (params.scores / "qwen-sdfm.json").write_text("{}")
    _run(params)
    assert "qwen-sdfm" not in params.page.read_text(encoding="utf-8")


def test_the_lock_tells_who_reads_from_whom_and_the_reports_own_entry_is_left_out(
    params: ReportParams, tmp_path: Path
) -> None:
    del params
    nodes, outputs = read_lock(tmp_path / "dvc.lock")
    assert [(node.name, node.items, node.reads) for node in nodes] == [
        ("faces", (), frozenset()),
        ("weights", ("qwen", "sd21"), frozenset({"faces"})),
    ]
    assert [output.hash for output in outputs] == ["f00.dir", "cafe.dir", "beef.dir"]
    assert read_lock(tmp_path / "none") == ([], [])
