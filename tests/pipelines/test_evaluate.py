"""Scoring a trained model: the stage and the command, over small networks of the real classes."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.io
import torch
from skimage.data import astronaut
from typer.testing import CliRunner

from components import images
from components.degradation import recipe
from components.params import Compute
from components.reporting import folder_scores
from components.reporting.gallery import Gallery
from components.reporting.sharing import SharedMetrics
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer
from components.tracking import runs
from components.weights.store import bring
from pipelines import cli, evaluate
from pipelines.evaluate import EvaluateParams
from tests.first_restorers import give_first, write_results
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, trained
from tests.small_tables import RECIPE, pair_row, write_pairs

TRAINING = "7ra1n1ng" * 8  # of the model under SDFM; the plain one's is tracked nowhere
LINEAGE = {"params": {"degrade": {"recipe": RECIPE.model_dump(mode="json"), "seed": 42}}}


class Project(NamedTuple):
    """A folder with pairs, two trained models, what they need, and the faces behind the pairs."""

    root: Path
    params: EvaluateParams
    faces: Path


def _models(root: Path, networks: Path) -> None:
    """Make a plain restorer and one under SDFM."""
    trained(root / "models", networks, "sd21", "text", LINEAGE)
    trained(root / "models", networks, "sd21", "sdfm", {**LINEAGE, "training": TRAINING})


def _pairs(root: Path, num_faces: int = 6) -> None:
    """Write faces as a folder of PNGs, and a table of pairs as the stage `degrade` does."""
    (root / "hq").mkdir()
    rows = []
    for i in range(num_faces):
        hq = images.resize(astronaut()[8 * i : 8 * i + 200, 130:330].copy(), SIZE)
        face_id = f"fäce {i}.png"
        split = "train" if i == 1 else "test"
        if split == "test":
            (root / "hq" / face_id).write_bytes(images.encode_png(hq))
        rows.append(pair_row(face_id, hq, split=split))
    write_pairs(root / "pairs", [rows[:4], rows[4:]])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Project:
    root = tmp_path_factory.mktemp("project")
    _models(root, networks)
    _pairs(root)
    (root / "groups.csv").write_text("file,group\n")  # as conf/groups.csv
    params = EvaluateParams(
        pairs=root / "pairs",
        models=root / "models",
        scores=root / "metrics",
        galleries=root / "galleries",
        metrics=["psnr", "ssim", "lpips"],
        identity_network=None,
        bootstrap_samples=200,
        seed=42,
        gallery=2,
        failures=2,
        groups=root / "groups.csv",
        batch_size=3,
    )
    return Project(root, params, root / "hq")


@pytest.fixture(autouse=True)
def _no_learned_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Track in one database for all tests here: making one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield


def _evaluate(project: Project, condition: str, **changes: Any) -> dict[str, Any]:
    params = project.params.model_copy(update=changes)
    evaluate.run(params, Compute(), f"sd21-{condition}")
    content: dict[str, Any] = json.loads((params.scores / f"sd21-{condition}.json").read_bytes())
    return content


@pytest.mark.usefixtures("database")
def test_the_test_split_alone_is_scored_and_every_number_can_be_computed_again(
    project: Project,
) -> None:
    result = _evaluate(project, "sdfm")
    faces = {face["face_id"]: face["scores"] for face in result["faces"]}
    assert list(faces) == [f"fäce {i}.png" for i in (0, 2, 3, 4, 5)]
    assert result["unavailable"].keys() == {"lpips", "identity_angle"}

    restorer = load_restorer(project.root / "models" / "sd21-sdfm")
    hq = images.decode((project.faces / "fäce 4.png").read_bytes())
    drawn = recipe.draw(RECIPE, hq.shape[:2], seed=42, face_id="fäce 4.png", variant=0)
    restoration = restorer.restore(images.to_tensor([recipe.apply(hq, drawn)]), ["fäce 4.png"], [0])
    [restored] = images.from_tensor(restoration.restored_B3HW)
    error = np.mean((restored.astype(float) - hq) ** 2)
    assert faces["fäce 4.png"]["psnr"]["restored"] == pytest.approx(
        10 * np.log10(255**2 / error), abs=0.01
    )

    psnr = result["metrics"]["psnr"]
    for role in ("degraded", "intermediate", "restored"):
        scores = [face["psnr"][role] for face in faces.values()]
        assert psnr[role]["mean"] == pytest.approx(np.mean(scores))
        assert min(scores) <= psnr[role]["low"] <= psnr[role]["high"] <= max(scores)
    assert psnr["gain"]["mean"] == pytest.approx(
        psnr["restored"]["mean"] - psnr["degraded"]["mean"]
    )
    assert result["protocol"]["pairs"] == "1dea" * 16
    assert result["protocol"]["degradation"] == RECIPE.model_dump(mode="json")


@pytest.mark.usefixtures("database")
def test_the_gallery_shows_faces_with_their_gate_and_text_models_have_no_intermediate(
    project: Project,
) -> None:
    _evaluate(project, "sdfm")
    gallery = Gallery.read(project.params.galleries / "sd21-sdfm")
    assert [face.face_id for face in gallery.faces] == ["fäce 2.png", "fäce 4.png"]
    roles = ["lq", "intermediate", "restored", "hq", "gate"]
    assert all(list(face.pictures) == roles for face in gallery.faces)
    assert gallery.limits is not None
    assert 0 < gallery.limits[0] < gallery.limits[1] < 1

    result = _evaluate(project, "text")
    assert list(result["faces"][0]["scores"]["psnr"]) == ["degraded", "restored"]
    assert Gallery.read(project.params.galleries / "sd21-text").limits is None


@pytest.mark.usefixtures("database")
def test_scores_by_group_and_what_got_worse_are_in_the_file_and_the_worst_in_the_gallery(
    project: Project, tmp_path: Path
) -> None:
    rows = "".join(f"fäce {i}.png,{'yes' if i < 4 else 'no'}\n" for i in range(6))
    (tmp_path / "groups.csv").write_text(f"file,glasses\n{rows}", encoding="utf-8")
    result = _evaluate(project, "sdfm", groups=tmp_path / "groups.csv")
    scores = {face["face_id"]: face["scores"]["psnr"]["restored"] for face in result["faces"]}
    [row] = [row for row in result["groups"] if (row["metric"], row["group"]) == ("psnr", "yes")]
    assert (row["column"], row["n"]) == ("glasses", 3)  # one of the four faces is for training
    assert row["mean"] == pytest.approx(np.mean([scores[f"fäce {i}.png"] for i in (0, 2, 3)]))
    assert result["faces"][0]["groups"] == {"glasses": "yes"}  # five rows are too few for severity

    # Untrained networks make every face worse; two of them are kept with their pictures.
    worse = result["worse"]["psnr"]
    assert len(worse) == 5
    failures = Gallery.read(project.params.galleries / "sd21-sdfm").failures
    assert [face.face_id for face in failures] == [one["face_id"] for one in worse[:2]]


@pytest.mark.usefixtures("database")
def test_another_batch_size_writes_the_same_numbers(project: Project) -> None:
    one, other = (_evaluate(project, "text", batch_size=size)["faces"] for size in (1, 8))
    for face, same in zip(one, other, strict=True):
        for metric, roles in face["scores"].items():
            assert same["scores"][metric] == pytest.approx(roles, abs=0.02)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_workers_of_a_cluster_write_the_same_numbers(
    project: Project, ray_session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"metrics": ["psnr", "ssim"]}
    alone = _evaluate(project, "sdfm", **measured)
    folder = project.params.galleries / "sd21-sdfm"
    pictures = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setenv("RAY_ADDRESS", ray_session)
    monkeypatch.setattr(evaluate, "compare_shard", _refuse)
    assert _evaluate(project, "sdfm", **measured) == alone
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == pictures


def _refuse(*_: object, **__: object) -> None:
    """Stand in, in this process alone, for what workers must do."""
    raise AssertionError("this process scored faces itself")


def _command(file: Path, *words: object) -> tuple[bytes, str]:
    """Run the command; return the file of its numbers, and what it printed."""
    options = ["--json", file, "--metrics", "psnr,ssim", "--batch-size", 2, *words]
    done = CliRunner().invoke(cli.app, ["evaluate", *map(str, options)], catch_exceptions=False)
    return file.read_bytes(), done.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "has_root"),
    [
        (("degraded here", "results", "degraded ones"), False),
        (("a table", "other", "several"), True),
    ],
)
def test_workers_score_what_the_command_is_given_and_write_the_same_bytes(
    project: Project,
    tmp_path: Path,
    ray_session: str,
    forms: tuple[str, ...],
    has_root: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lay_out(project, tmp_path)
    shutil.copytree(project.faces, tmp_path / "true")
    (tmp_path / "true" / "notes.png").write_text("no picture")
    (tmp_path / "results" / "3.face.png").write_bytes(b"no picture")
    params = tmp_path / "recipe.yaml"
    params.write_text(json.dumps({"degrade": {"recipe": RECIPE.model_dump(mode="json")}}))
    models = project.root / "models"
    others = onnx_network(tmp_path / "half.onnx")
    endings = ["--ignore-ending", "_HR", "--ignore-ending", "_LR"]
    words: dict[str, list[Any]] = {
        "degraded here": ["--model", models / "sd21-sdfm", "--hq", "true"],
        "a table": ["--model", models / "sd21-text", "--hq", project.root / "pairs"],
        "results": ["--results", "results", "--hq", "hq", *endings],
        "several": [
            *("--model", models / "sd21-text", "--model", f"onnx:{others.name}"),
            *("--results", "results", "--hq", "hq", "--lq", "lq", *endings),
        ],
        "other": ["--model", f"onnx:{others.name}", "--hq", "true", "--params", params],
        "degraded ones": ["--lq", "lq"],
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_scores, "BOOTSTRAP_SAMPLES", 100)
    alone = {form: _command(tmp_path / "a.json", *words[form]) for form in forms}
    told = alone["degraded here" if "degraded here" in forms else "several"][0]
    assert b"not a JPEG" in told  # the pictures that are none
    if has_root:
        monkeypatch.setenv("HDRFACE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("RAY_ADDRESS", ray_session)
    monkeypatch.setattr(folder_scores, "score_all", _refuse)
    for form in forms:
        assert (form, *_command(tmp_path / "b.json", *words[form])) == (form, *alone[form])
    assert (tmp_path / "root").is_dir() == has_root


@pytest.mark.usefixtures("database")
def test_scores_and_picture_go_into_the_run_of_the_training(project: Project) -> None:
    run = runs.TrainingRun.begin(TRAINING, name="train@sd21-sdfm", params={})
    run.finish()
    result = _evaluate(project, "sdfm")
    found = run._client.get_run(run.id)
    gain = result["metrics"]["psnr"]["gain"]
    assert found.data.metrics["psnr_gain"] == pytest.approx(gain["mean"])
    assert found.data.metrics["psnr_gain_low"] == pytest.approx(gain["low"])
    restored = result["metrics"]["psnr"]["restored"]
    assert found.data.metrics["psnr"] == pytest.approx(restored["mean"])
    assert "ssim_intermediate" in found.data.metrics
    assert f"| psnr | {restored['mean']:.3f} |" in found.data.tags["mlflow.note.content"]
    [artifact] = run._client.list_artifacts(run.id, "gallery")
    assert artifact.path == "gallery/gallery.png"
    protocols = json.loads(
        Path(run._client.download_artifacts(run.id, "protocols.json")).read_text()
    )
    assert protocols["ssim"]["colour"] == "Y, 8 bits"
    assert protocols["ssim"]["library"] == f"pyiqa {metadata.version('pyiqa')}"


@pytest.mark.usefixtures("database")
def test_a_model_whose_training_is_not_tracked_here_is_still_scored(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _evaluate(project, "text")
    assert "no MLflow run of" in caplog.text
    assert "lpips is not measured: weights are missing" in caplog.text


@pytest.mark.usefixtures("database")
def test_the_command_gives_the_stages_scores_also_on_a_machine_without_the_repository(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = _evaluate(project, "sdfm")["faces"]
    # Another machine: nothing lies where the hints say, a store holds it by fingerprint.
    home = tmp_path / "elsewhere"
    model = bring(project.root / "models" / "sd21-sdfm", home / "store")
    shutil.copytree(project.faces, home / "hq")
    (home / "hq" / "notes.png").write_text("no picture")
    (home / "hq" / "wide.png").write_bytes(images.encode_png(astronaut()[:100]))
    away = project.root.with_name("away")
    project.root.rename(away)
    monkeypatch.setenv("HDRFACE_STORE", str(home / "store"))
    try:
        result = folder_scores.run(str(model), home / "hq", seed=42, batch_size=2)
    finally:
        away.rename(project.root)
    assert [face["face_id"] for face in result["faces"]] == [face["face_id"] for face in staged]
    for face, same in zip(result["faces"], staged, strict=True):
        for metric in ("psnr", "ssim"):
            assert face["scores"][metric] == pytest.approx(same["scores"][metric], abs=0.02)
    reasons = {one["id"]: one["reason"] for one in result["rejected"]}
    assert "not a JPEG" in reasons["notes.png"]
    assert "not square" in reasons["wide.png"]


@pytest.mark.usefixtures("database")
def test_a_run_of_mlflow_names_a_model_too(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(project.root / "models" / "sd21-text", tmp_path / "store")  # what the model names by hash
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    run = runs.TrainingRun.begin("0ther", name="x", params={})
    run.log_model(project.root / "models" / "sd21-text")
    run.finish()
    words = ["--model", run.id, "--hq", str(project.faces), "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(cli.app, ["evaluate", *words, "--seed", "1"], catch_exceptions=False)
    printed = done.stdout
    result = json.loads((tmp_path / "out.json").read_bytes())
    assert result["model"]["name"] == "sd21-text"
    assert "sd21-text on 5 faces" in printed
    assert f"{result['metrics']['psnr']['gain']['mean']:+.3f}" in printed
    assert "not measured: identity_angle: no identity network" in printed
    with pytest.raises(ValueError, match="'n0ne' is neither a folder here nor a name in MLflow"):
        folder_scores.run("n0ne", project.faces, seed=1)


def test_the_seed_and_the_recipe_decide_the_degradation(project: Project) -> None:
    model = str(project.root / "models" / "sd21-text")
    gentle = RECIPE.model_copy(update={"noise": (0, 0), "downsample": (1, 1)})
    runs = [
        folder_scores.run(model, project.faces, seed=seed, recipe=chosen)
        for seed, chosen in ((1, None), (1, None), (2, None), (1, gentle))
    ]
    degraded = [run["metrics"]["psnr"]["degraded"]["mean"] for run in runs]
    assert degraded[0] == degraded[1]
    assert degraded[0] != degraded[2]
    assert degraded[3] > degraded[0] + 1
    assert runs[3]["protocol"]["degradation"]["noise"] == [0.0, 0.0]


def test_another_projects_checkpoint_is_scored_on_a_recipe_that_is_given(
    project: Project, tmp_path: Path
) -> None:
    model = f"onnx:{onnx_network(tmp_path / 'half.onnx')}"
    result = folder_scores.run(model, project.faces, seed=1, recipe=RECIPE)
    assert result["model"]["name"] == "half"
    # It takes half of the contrast, which costs more than the degradation.
    assert result["metrics"]["psnr"]["gain"]["mean"] < 0
    with pytest.raises(ValueError, match=r"half\.onnx: how .* not known here: give --params"):
        folder_scores.run(model, project.faces, seed=1)


@pytest.mark.usefixtures("database")
def test_another_projects_restorer_is_a_row_beside_ours(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adopt(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", project.root / "models" / "half")
    evaluate.run(project.params, Compute(), "half")
    result = json.loads((project.params.scores / "half.json").read_bytes())
    assert result["model"].keys() == {"name", "fingerprint", "kind"}
    assert result["protocol"] == _evaluate(project, "sdfm")["protocol"]
    ours = _evaluate(project, "text")
    for other, same in zip(result["faces"], ours["faces"], strict=True):
        assert other["scores"]["psnr"]["degraded"] == same["scores"]["psnr"]["degraded"]
    assert "no MLflow run of half" not in caplog.text


@pytest.mark.usefixtures("database")
def test_a_model_that_builds_on_a_folder_of_results_is_scored_on_them(
    project: Project, tmp_path: Path, networks: Path
) -> None:
    stems = [f"fäce {number}" for number in (0, 2, 3, 4, 5)]
    expected = write_results(tmp_path / "pictures", stems)
    adopt(f"folder:{tmp_path / 'pictures'}", tmp_path / "results")
    folder = trained(tmp_path / "models", networks, "sd21", "sdfm", LINEAGE)
    give_first(folder, "results", tmp_path / "results")
    scored = _evaluate(project, "sdfm", models=tmp_path / "models", scores=tmp_path)["faces"]
    hq = images.decode((project.faces / "fäce 3.png").read_bytes())
    error = ((images.to_tensor([hq]) - expected[2]) ** 2).mean()
    found = scored[2]["scores"]["psnr"]["intermediate"]
    assert found == pytest.approx(-10 * np.log10(float(error)), abs=0.01)


@pytest.mark.shared
def test_the_identity_network_has_its_name_in_the_protocol_with_and_without_a_data_root(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "faces.onnx"
    shutil.copy(shared_dir / "weights/mobilefacenet.onnx", network)

    def protocol() -> dict[str, Any]:
        metrics, _ = SharedMetrics.of(["identity_angle"], network).open(torch.device("cpu"))
        return dict(metrics["identity_angle"].how.protocol)

    alone = protocol()
    monkeypatch.setenv("RAY_ADDRESS", "a cluster")
    monkeypatch.setenv("HDRFACE_ROOT", str(tmp_path / "root"))
    assert protocol() == alone
    assert list(alone["files"]) == ["faces.onnx"]
    assert any((tmp_path / "root").rglob("*"))  # what was opened is the copy


@pytest.mark.shared
def test_the_identity_network_is_named(project: Project, shared_dir: Path) -> None:
    network = shared_dir / "weights/mobilefacenet.onnx"
    model = str(project.root / "models" / "sd21-text")
    result = folder_scores.run(model, project.faces, seed=1, identity_network=network)
    assert "identity_angle" in result["metrics"]
    named = result["protocol"]["identity_network"]
    assert named == hashlib.sha256(network.read_bytes()).hexdigest()


def test_what_cannot_be_evaluated_is_said(project: Project, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no picture")
    model = project.root / "models" / "sd21-text"
    with pytest.raises(ValueError, match=r"no usable face in .*1 pictures were rejected, a\.png:"):
        folder_scores.run(str(model), tmp_path / "bad", seed=1)
    with pytest.raises(ValueError, match="has faces of 48 pixels, the model restores 32"):
        _evaluate(project, "text", pairs=_pairs_of_another_size(tmp_path))


def _pairs_of_another_size(root: Path) -> Path:
    row = pair_row("a", np.zeros((48, 48, 3), np.uint8), split="test")
    return write_pairs(root / "pairs", [[row]]).path


def _lay_out(project: Project, root: Path) -> None:
    """Write true, degraded and restored faces as a benchmark has them: by endings of names."""
    for folder in ("hq", "lq", "results", "results/deep"):
        (root / folder).mkdir(parents=True)
    for number, i in enumerate((0, 2, 3, 4, 5)):
        hq = images.decode((project.faces / f"fäce {i}.png").read_bytes())
        drawn = recipe.draw(RECIPE, hq.shape[:2], seed=1, face_id=str(i), variant=0)
        lq = recipe.apply(hq, drawn)
        half = ((hq.astype(int) + lq) // 2).astype(np.uint8)
        for folder, ending, picture in (
            ("hq", "_HR", hq),
            ("lq", "_LR", lq),
            ("results", "", half),
        ):
            place = root / folder / f"{number}.face{ending}.png"
            place.write_bytes(images.encode_png(picture))


def test_results_of_any_program_are_scored_and_what_is_wrong_with_them_is_named(
    project: Project, tmp_path: Path
) -> None:
    _lay_out(project, tmp_path)
    results = tmp_path / "results"
    (results / "1.face.png").unlink()
    (results / "2.face.png").write_bytes(images.encode_png(np.zeros((SIZE, SIZE, 3), np.uint8)))
    (results / "3.face.png").write_bytes(images.encode_png(astronaut()[:48, :48]))
    (results / "stray.png").write_bytes(images.encode_png(astronaut()[:48, :48]))
    words = ["--results", str(results), "--hq", str(tmp_path / "hq"), "--lq", str(tmp_path / "lq")]
    words += ["--ignore-ending", "_HR", "--ignore-ending", "_LR", "--metrics", "psnr,niqe"]
    words += ["--json", str(tmp_path / "out.json"), "--groups", str(tmp_path / "groups.csv")]
    rows = "".join(f"{i}.face_HR.png,{'a' if i < 4 else 'b'}\n" for i in range(5))
    (tmp_path / "groups.csv").write_text(f"file,tone\n{rows}")
    done = CliRunner().invoke(cli.app, ["evaluate", *words], catch_exceptions=False)
    result = json.loads((tmp_path / "out.json").read_bytes())
    psnr = result["metrics"]["psnr"]
    assert (psnr["restored"]["n"], psnr["restored"]["of"], psnr["degraded"]["n"]) == (2, 5, 5)
    assert psnr["gain"]["low"] > 0  # half of the error is gone
    assert "(2 of 5 faces)" in done.stdout
    told = {(one["face_id"], one["reason"]) for one in result["failures"]}
    assert told == {
        ("1.face_HR.png", "missing"),
        ("2.face_HR.png", "black"),
        ("3.face_HR.png", f"of another size, 48 x 48, not {SIZE}"),
    }
    assert result["unused"] == ["stray"]
    assert [(row["group"], row["n"]) for row in result["groups"]] == [("a", 1), ("b", 1)]
    again = CliRunner().invoke(cli.app, ["evaluate", *words], catch_exceptions=False)
    assert again.stdout == done.stdout
    assert json.loads((tmp_path / "out.json").read_bytes()) == result


def test_models_and_results_are_compared_face_by_face_on_given_pairs(
    project: Project, tmp_path: Path
) -> None:
    _lay_out(project, tmp_path)
    model = str(project.root / "models" / "sd21-text")
    words = ["--model", model, "--results", str(tmp_path / "results"), "--metrics", "psnr"]
    words += ["--hq", str(tmp_path / "hq"), "--lq", str(tmp_path / "lq")]
    words += [
        "--ignore-ending",
        "_HR",
        "--ignore-ending",
        "_LR",
        "--json",
        str(tmp_path / "o.json"),
    ]
    CliRunner().invoke(cli.app, ["evaluate", *words], catch_exceptions=False)
    compared = json.loads((tmp_path / "o.json").read_bytes())
    ours, theirs = compared["results"]
    assert ours["faces"][0]["scores"]["psnr"]["degraded"] == pytest.approx(
        theirs["faces"][0]["scores"]["psnr"]["degraded"]
    )
    [difference] = compared["differences"]
    assert (difference["model"], difference["against"]) == ("results", "sd21-text")
    means = [one["metrics"]["psnr"]["restored"]["mean"] for one in (ours, theirs)]
    assert difference["mean"] == pytest.approx(means[1] - means[0])
    assert difference["low"] < difference["mean"] < difference["high"]


def test_degraded_faces_alone_are_scored_by_what_needs_no_truth(
    project: Project, tmp_path: Path
) -> None:
    shared = tmp_path / "torch/hub/pyiqa"
    shared.mkdir(parents=True)
    statistics = {"mu_prisparam": np.zeros(36), "cov_prisparam": np.eye(36)}
    scipy.io.savemat(shared / "niqe_modelparameters.mat", statistics)
    folder = tmp_path / "lq" / "below"
    folder.mkdir(parents=True)
    for number in (0, 1):
        face = astronaut()[10 * number : 10 * number + 200, 100:300]
        (folder / f"{number}.png").write_bytes(images.encode_png(face))
    wanted = folder_scores.Wanted(lq=folder.parent, metrics=("psnr", "niqe"))
    (result,) = folder_scores.evaluate(wanted, seed=1)
    assert result["unavailable"] == {"psnr": "it needs the true faces: name them with --hq"}
    assert result["metrics"]["niqe"]["degraded"]["n"] == 2
    assert [face["face_id"] for face in result["faces"]] == ["below/0.png", "below/1.png"]
    # A table is as good as a folder; its faces of 32 pixels are smaller than NIQE's blocks.
    model = str(project.root / "models" / "sd21-text")
    wanted = folder_scores.Wanted(lq=project.root / "pairs", models=(model,), metrics=("niqe",))
    (result,) = folder_scores.evaluate(wanted, seed=1)
    assert len(result["faces"]) == 6
    assert "pictures under 96 pixels" in result["unavailable"]["niqe"]
    with pytest.raises(ValueError, match="name the faces: --hq, --lq or both"):
        folder_scores.Wanted(models=("a",))
    with pytest.raises(ValueError, match="there is nothing to score"):
        folder_scores.Wanted(hq=tmp_path)
