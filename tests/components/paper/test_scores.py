"""Scores are found where they lie, and what is scored for the tables is scored once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

from components import images
from components.paper import published
from components.paper.published import Row
from components.paper.scores import Found, Missing, Project, Scores, slug, wanted_metrics
from components.paper.sources import Sources
from components.params import ParamsError
from components.reporting import folder_scores

SD = "HDRFace (SD 2.1)"


def row(method: str, number: str = "1") -> Row:
    return next(
        row for table in published.chosen(number) for row in table.rows if row.method == method
    )


def project(root: Path) -> Project:
    return Project(root / "models", root / "metrics", root / "ablations")


def scores(root: Path, **sources: Any) -> Scores:
    return Scores(Sources.model_validate(sources), project(root), root / "kept")


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def metrics_file(psnr: float) -> dict[str, Any]:
    return {"protocol": {}, "metrics": {"psnr": psnr}, "unavailable": {}}


def test_a_file_of_scores_is_read_for_its_set_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "vqfr.json", metrics_file(1))
    found = scores(tmp_path, methods={"vqfr": {"celeba-test": str(file)}})
    assert found.find(row("VQFR"), "celeba-test") == Found(metrics_file(1), "celeba-test")
    missing = found.find(row("VQFR"), "lfw-test")
    assert isinstance(missing, Missing)
    assert missing.short == "not given"


@pytest.mark.parametrize(
    ("content", "told"),
    [({"results": []}, "compares several models"), ({"rows": []}, "has no scores")],
)
def test_a_file_that_holds_something_else_is_refused_by_name(
    tmp_path: Path, content: Any, told: str
) -> None:
    file = write(tmp_path / "vqfr.json", content)
    found = scores(tmp_path, methods={"VQFR": {"celeba-test": str(file)}})
    missing = found.find(row("VQFR"), "celeba-test")
    assert isinstance(missing, Missing)
    assert str(file) in missing.told
    assert told in missing.told


def test_our_own_model_has_the_scores_of_its_test_split_until_the_set_is_given(
    tmp_path: Path,
) -> None:
    missing = scores(tmp_path).find(row(SD), "celeba-test")
    assert isinstance(missing, Missing)
    assert missing.short == "not trained"
    write(tmp_path / "models/sd21-sdfm/restorer.json", {})
    write(tmp_path / "metrics/sd21-sdfm.json", metrics_file(2))
    assert scores(tmp_path).find(row(SD), "celeba-test") == Found(metrics_file(2), None)
    real = scores(tmp_path).find(row(SD), "lfw-test")
    assert real == Missing("no set", "lfw-test is not given: name its folders under sets")


def test_a_variant_has_the_scores_of_its_ablation_and_of_no_other_model(tmp_path: Path) -> None:
    (method,) = (one for one in published.chosen("4") if "rank" in one.caption)
    missing = scores(tmp_path).find(method.rows[1], "celeba-test")
    assert isinstance(missing, Missing)
    assert "hdrface ablate lora-rank" in missing.told
    scored = {"32": {"sd21-sdfm": metrics_file(32)}, "64": {"sd21-sdfm": metrics_file(64)}}
    write(tmp_path / "ablations/lora-rank.json", {"choice": "16", "scores": scored})
    # A model of this name is another one: the tree's own.
    write(tmp_path / "models/sd21-sdfm/restorer.json", {})
    found = [scores(tmp_path).find(one, "celeba-test") for one in method.rows]
    assert isinstance(found[0], Missing)
    assert found[1:] == [Found(metrics_file(32), None), Found(metrics_file(64), None)]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three true faces, degraded ones and results of two of them."""
    crops = [astronaut()[top : top + 96, 160:256] for top in (0, 40, 80)]
    for number, crop in enumerate(crops):
        for folder, noise in (("hq", 0), ("lq", 40), ("results", 10)):
            place = tmp_path / folder / f"{number}.png"
            place.parent.mkdir(exist_ok=True)
            drawn = np.random.default_rng(number).normal(0, noise, crop.shape)
            picture = (crop + drawn).clip(0, 255).astype(np.uint8)
            if folder != "results" or number:
                place.write_bytes(images.encode_png(picture))
    return tmp_path


def test_results_are_scored_once_until_a_picture_changes(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(faces / "no weights"))
    evaluate, calls = folder_scores.evaluate, []

    def counted(wanted: folder_scores.Wanted, **options: Any) -> Any:
        calls.append(wanted)
        return evaluate(wanted, **options)

    monkeypatch.setattr(folder_scores, "evaluate", counted)
    sets = {"celeba-test": {"hq": str(faces / "hq"), "lq": str(faces / "lq")}}
    methods = {"VQFR": {"celeba-test": str(faces / "results")}}

    def find() -> Found:
        found = scores(faces, sets=sets, methods=methods).find(row("VQFR"), "celeba-test")
        assert isinstance(found, Found)
        return found

    first = find()
    psnr = first.content["metrics"]["psnr"]["restored"]
    assert (psnr["n"], psnr["of"]) == (2, 3)
    assert first.content["protocol"]["size"] == 96
    assert find() == first
    assert len(calls) == 1
    (faces / "results/1.png").write_bytes((faces / "hq/1.png").read_bytes())
    assert find().content["metrics"]["psnr"]["restored"]["mean"] > psnr["mean"]
    assert len(calls) == 2


def test_what_cannot_be_scored_fails_in_its_own_cells_and_says_why(tmp_path: Path) -> None:
    sets = {"celeba-test": {"hq": "nowhere", "lq": "nowhere"}}
    methods = {"VQFR": "spandrel:nowhere.pth", "DAEFR": {"celeba-test": "nothing"}}
    found = scores(tmp_path, sets=sets, methods=methods)
    for name, place in (("VQFR", "nowhere.pth"), ("DAEFR", "nothing")):
        missing = found.find(row(name), "celeba-test")
        assert isinstance(missing, Missing)
        assert missing.short == "failed"
        assert place in missing.told


def test_a_set_gets_the_metrics_of_its_columns_and_other_protocols_without_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert wanted_metrics("lfw-test", has_identity_network=True) == ("qalign", "musiq")
    weights = tmp_path / "hub/hdrface"
    weights.mkdir(parents=True)
    (weights / "pfld_68.onnx").touch()
    names = wanted_metrics("celeba-test", has_identity_network=False)
    assert {"lmd_awing", "lmd_pfld", "deg_vqfr"} <= set(names)
    assert not {"identity_angle", "lmd_insightface"} & set(names)
    assert "identity_angle" in wanted_metrics("celeba-test", has_identity_network=True)
    (weights / "alignment_WFLW_4HG.pth").touch()
    assert "lmd_pfld" not in wanted_metrics("celeba-test", has_identity_network=False)


def test_other_methods_become_rows_of_the_tables_that_take_them() -> None:
    sources = Sources(
        methods={
            "mine": "models/mine",
            "theirs": {"lfw-test": "theirs"},
            "daefr": {"lfw-test": "daefr"},
            "HDRFace (SD 2.1, rank 32)": "models/rank32",
        }
    )
    added = {
        table.key: [one.method for one in sources.others(table)]
        for table in published.chosen("1,3,6,7")
    }
    assert list(added.values()) == [["mine"], ["mine", "theirs", "daefr"], ["mine"], []]


def test_a_wrong_file_is_refused_with_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "tables.yaml"
    file.write_text("sets: {celeba: {lq: a}, lfw-test: {hq: a}}\nmethod: {}\n")
    with pytest.raises(ParamsError) as refused:
        Sources.from_file(file)
    told = str(refused.value)
    for key in ("celeba", "lq is missing", "method"):
        assert key in told


@pytest.mark.parametrize(
    ("method", "name"), [("HDRFace (SD 2.1)", "hdrface-sd-2.1"), ("../x", "x"), ("日", "method")]
)
def test_a_methods_name_as_a_file_stays_in_the_folder(method: str, name: str) -> None:
    assert slug(method) == name
