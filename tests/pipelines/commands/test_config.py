from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from components import profiles
from components.params import ParamsError
from pipelines.commands import config

BASE = """
profile: '???'
faces: {source: data/samples, size: '???', note: null}
degrade: {size: "${faces.size}", rate: 5e-3}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Two small profiles over one base."""
    folder = tmp_path / "conf"
    (folder / "profile").mkdir(parents=True)
    (folder / "config.yaml").write_text("defaults: [base, profile: small, _self_]\n")
    (folder / "base.yaml").write_text(BASE)
    for name, size in (("small", 64), ("large-2", 512)):
        (folder / f"profile/{name}.yaml").write_text(
            f"# @package _global_\nprofile: {name}\nfaces: {{size: {size}}}\n"
        )
    return folder


def test_a_profile_changes_values_and_what_refers_to_them(conf: Path) -> None:
    composed = yaml.safe_load(profiles.compose("large-2", conf=conf))
    assert composed == {
        "profile": "large-2",
        "faces": {"source": "data/samples", "size": 512, "note": None},
        "degrade": {"size": 512, "rate": 0.005},
    }


def test_a_single_value_can_be_changed(conf: Path) -> None:
    composed = yaml.safe_load(profiles.compose("small", ["faces.size=32"], conf))
    assert (composed["faces"]["size"], composed["degrade"]["size"]) == (32, 32)


@pytest.mark.parametrize(
    "value",
    [
        *("/data/my faces", "größe/ä", "it's", 'a "b" c', "s3://bucket/x=1"),
        *("a\\", "\\'", "{x", "a,b", "(1)"),
    ],
)
def test_any_path_can_be_given_as_a_value(conf: Path, value: str) -> None:
    composed = yaml.safe_load(profiles.compose("small", [f"faces.source={value}"], conf))
    assert composed["faces"]["source"] == value


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(st.text("aé '\"\\={}[],$:#()%", min_size=1).filter(lambda text: "${" not in text))
def test_a_value_is_never_turned_into_another_text(conf: Path, value: str) -> None:
    composed = yaml.safe_load(profiles.compose("small", [f"faces.source={value}/x"], conf))
    assert composed["faces"]["source"] == f"{value}/x"


@pytest.mark.parametrize(
    "override", ["nokey", "=1", "a b=1", "faces.sise=1", "faces.size=${nowhere}"]
)
def test_a_bad_override_is_named(conf: Path, override: str) -> None:
    with pytest.raises(ValueError, match=r"key=value|sise|nowhere"):
        profiles.compose("small", [override], conf)


def test_an_unknown_profile_is_told_with_those_that_are_there(conf: Path) -> None:
    with pytest.raises(ValueError, match=r"no profile 'huge' in .*: choose from large-2, small"):
        profiles.compose("huge", conf=conf)


def test_outside_the_project_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run this in the project's folder"):
        profiles.use("tiny", file=tmp_path / "params.yaml", conf=tmp_path / "conf")
    assert not (tmp_path / "params.yaml").exists()


def test_a_failed_composition_leaves_the_file_as_it_was(conf: Path, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    profiles.use("small", file=file, conf=conf)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="sise"):
        profiles.use("small", ["faces.sise=1"], file=file, conf=conf)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "params.yaml"}


@pytest.fixture
def tiny(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Compose the profile for a folder without models: one that is there may be named."""
    (tmp_path / "dvc.yaml").symlink_to(repository / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = yaml.safe_load(profiles.compose("tiny", conf=repository / "conf"))
    return values


def problems(values: dict[Any, Any]) -> list[str]:
    try:
        config.check_values(values, Path("params.yaml"))
    except ParamsError as error:
        return list(error.problems)
    return []


def test_every_bad_key_of_every_section_is_named_at_once(tiny: dict[str, Any]) -> None:
    tiny["degrade"]["recipe"]["jpeg_quality"] = [60, 195]
    tiny["degrade"]["recipe"]["jpg"] = 1
    tiny["train"]["qwen"]["optimization"]["steps"] = -1
    tiny["weights"]["dinov3"]["stand_in"] = None
    tiny["compute"]["train"]["gpu"] = 1
    tiny["compute"]["samples"] = {}
    tiny["extra"] = 1
    del tiny["report"]["title"]
    found = problems(tiny)
    for key in (
        "degrade.recipe.jpeg_quality.1 = 195: ",
        "degrade.recipe.jpg = 1: ",
        "train.qwen.optimization.steps = -1: ",
        "weights.dinov3: ",
        "compute.train.gpu = 1: ",
        "compute.samples: ",
        "extra: ",
        "report.title: ",
    ):
        assert any(problem.startswith(key) for problem in found), (key, found)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (
            "degrade.faces",
            "data/other",
            "degrade.faces = 'data/other': faces.faces is 'data/faces'",
        ),
        ("train.qwen.encoder_size", 128, "train.qwen.encoder_size = 128: features.qwen"),
        (
            "intermediates.sd21.model",
            "models/x",
            "intermediates.sd21.model = 'models/x': the stage plain",
        ),
        ("plain.backbones", ["sd21"], "report.names = 'qwen-text': the stages make"),
        ("train.backbones", ["sd21"], "intermediates has sections ['qwen', 'sd21']"),
        ("train.backbones", ["sd21", "sd21"], "train.backbones = ['sd21', 'sd21']: Input should"),
        ("train.backbones", "sd21", "train.backbones = 'sd21': Input should be a valid list"),
        ("train.backbones", [], "train.backbones = []: Input should name one or more"),
        (
            "train.conditions",
            ["sdmf"],
            "train.conditions.0 = 'sdmf': Input should be 'dino', 'lr' or 'sdfm': did you mean "
            "'sdfm'?",
        ),
        ("train.conditions", ["text"], "train.conditions.0 = 'text': Input should be 'dino'"),
        ("train.backbones", ["sd12"], "train.backbones.0 = 'sd12': Input should be 'sd21' or"),
        ("plain.backbones", ["qwne"], "plain.backbones.0 = 'qwne': Input should be 'sd21' or"),
        ("report.names", ["../a"], "report.names.0 = '../a': String should match pattern"),
        ("evaluate.metrics", ["pnsr"], "evaluate.metrics.0 = 'pnsr': Input should be 'psnr', "),
        ("intermediates.sd12", {}, "intermediates.sd12 = 'sd12': Input should be 'sd21' or 'qwen'"),
        ("features.sd21", {}, "features.sd21.pairs: Field required"),
        ("compute.trian", {}, "compute.trian: no such stage; there are faces, degrade, plain, "),
        ("trian", {}, "trian: no stage has this section; there are compute, degrade, evaluate, "),
        ("report.names", ["sd21-dino"], "report.names = 'sd21-dino': the stages make"),
        ("weights.networks", ["sd21", "qwen"], "weights.networks = ['sd21', 'qwen']: dinov3"),
        ("register.candidates", ["x-y"], "register.candidates = ['x-y']: the stage evaluate"),
        ("register.models", "other", "register.models = 'other': evaluate.models is 'models'"),
        ("register.promotion.better", ["lpips"], "register.promotion.better = 'lpips': evaluate"),
        (
            "register.promotion.not_worse",
            {"dists": 0.1},
            "register.promotion.not_worse = 'dists': evaluate.metrics lacks it",
        ),
    ],
)
def test_sections_that_do_not_fit_together_are_named(
    tiny: dict[str, Any], key: str, value: object, problem: str
) -> None:
    *path, last = key.split(".")
    section = tiny
    for name in path:
        section = section[name]
    section[last] = value
    assert any(found.startswith(problem) for found in problems(tiny)), problems(tiny)


def test_a_list_that_is_also_a_parameter_is_told_once(tiny: dict[str, Any]) -> None:
    tiny["report"]["names"] = ["../a"]
    told = [problem for problem in problems(tiny) if problem.startswith("report.names.0")]
    assert len(told) == 1


def test_a_backbone_that_is_trained_needs_its_section_in_every_stage(tiny: dict[str, Any]) -> None:
    del tiny["features"]["qwen"]
    assert any(found.startswith("features.qwen: section is missing") for found in problems(tiny))


def test_a_file_of_a_section_without_keys_is_no_crash(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert len(problems({"train": None, "intermediates": 3, "compute": [], 7: {}})) > 10


@pytest.mark.parametrize(("profile", "code"), [("tiny", 0), ("paper-sd21", 1)])
def test_check_assets_prints_the_table_and_fails_if_something_is_missing(
    profile: str, code: int, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    ended = CliRunner().invoke(config.app, ["check", "--profile", profile, "--assets"])
    assert ended.exit_code == code, ended.output
    assert "weights qwen" in ended.output
    assert ("What gets them:" in ended.output) is bool(code)
    if code:
        get_vgg = f"curl -fL --create-dirs -o {tmp_path}/hub/checkpoints/vgg16-397923af.pth https:"
        assert get_vgg in ended.output  # in one line, as it is typed


def test_use_says_at_once_that_the_pictures_are_missing(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").symlink_to(repository / "conf")
    monkeypatch.chdir(tmp_path)
    used = CliRunner().invoke(config.app, ["use", "paper-sd21"])
    assert used.exit_code == 0
    assert "data/ffhq: missing" in used.stderr
    used = CliRunner().invoke(config.app, ["use", "tiny"])
    assert used.stderr == ""


@pytest.mark.parametrize("value", [None, "yes", 1])
def test_requiring_assets_is_true_or_false(tiny: dict[str, Any], value: object) -> None:
    with pytest.raises(ParamsError, match=r"require_assets = .*valid boolean"):
        config.check_values({**tiny, "require_assets": value}, Path("params.yaml"))
