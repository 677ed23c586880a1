"""The starter of all stages: what it reads from `run`, and how it tells a person's mistake."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import yaml

from components import profiles
from components.params import Compute, Params, one_of
from components.tables.making import ShardError
from components.tables.unfinished import LockedError
from components.tracking.outages import TrackingError
from pipelines import stage
from pipelines.stage import Stage

PARAMS = """
example:
  small: {number: 1}
  large: {number: 2}
compute:
  example: {workers: 3}
"""
FAMILIES = {"sd21": 1, "qwen": 2}


class ExampleParams(Params):
    number: int


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a stage `pipelines.example`, in a project, that keeps what it was run with."""
    module = ModuleType("pipelines.example", "Stage `example`: keep what it was run with.")
    module.SECTION = "example.{size}"  # type: ignore[attr-defined]
    module.runs = []  # type: ignore[attr-defined]

    def run(
        params: ExampleParams,
        compute: Compute,
        size: Literal["small", "large"],
        family: Annotated[str, one_of(FAMILIES)],
        *,
        option: str = "none",
    ) -> None:
        module.runs.append((params, compute, size, family, option))

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return module


def test_a_stage_runs_with_its_section_its_compute_and_its_items(example: ModuleType) -> None:
    stage.start("pipelines.example", ["large", "qwen"])
    expected = (ExampleParams(number=2), Compute(workers=3), "large", "qwen", "none")
    assert example.runs == [expected]


def test_what_a_stage_says_of_itself_is_read_from_its_run() -> None:
    train, register = Stage.load("train"), Stage.load("register")
    assert (train.head, train.per, list(train.items)) == (
        "train",
        "backbone",
        ["backbone", "condition"],
    )
    assert train.takes_compute
    assert (register.section, register.per, list(register.items)) == ("register", None, [])
    assert not register.takes_compute


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["small"], "the following arguments are required: FAMILY"),
        (["small", "qwen", "x"], "unrecognized arguments: x"),
        (
            ["smal", "qwen"],
            "size = 'smal': Input should be 'small' or 'large': did you mean 'small'",
        ),
        (
            ["small", "sd12"],
            "family = 'sd12': Input should be 'sd21' or 'qwen': did you mean 'sd21'?",
        ),
        (["small", "x"], "family = 'x': Input should be 'sd21' or 'qwen'\n"),
    ],
)
def test_wrong_items_are_told_in_words_before_anything_runs(
    example: ModuleType, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        stage.start("pipelines.example", words)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert told in shown.err
    assert "python -m pipelines.example" in shown.err
    assert not example.runs


def test_a_condition_that_is_only_imported_is_not_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        stage.start("pipelines.train", ["sd21", "codebook"])
    assert (
        "condition = 'codebook': Input should be 'dino', 'lr' or 'sdfm'" in capsys.readouterr().err
    )


def _remove_the_file() -> None:
    Path("params.yaml").unlink()


def _rename_the_section() -> None:
    Path("params.yaml").write_text(PARAMS.replace("large:", "largo:"))


def _forget_compute() -> None:
    Path("params.yaml").write_text(PARAMS.split("compute:")[0])


def _misspell_a_key() -> None:
    Path("params.yaml").write_text(PARAMS.replace("{number: 2}", "{nubmer: 2}"))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_remove_the_file, "no such file: run 'hdrface config use tiny'"),
        (
            _rename_the_section,
            "missing; 'example' has small, largo: did you mean 'largo'?",
        ),
        (_forget_compute, "compute: section is missing"),
        (_misspell_a_key, "example.large.nubmer = 2: "),
    ],
)
def test_wrong_parameters_are_told_in_words(
    example: ModuleType, capsys: pytest.CaptureFixture[str], spoil: Callable[[], None], told: str
) -> None:
    spoil()
    with pytest.raises(SystemExit) as caught:
        stage.start("pipelines.example", ["large", "qwen"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("example: params.yaml: ")
    assert told in shown
    assert not example.runs


def _fail_with(example: ModuleType, error: Callable[[], Any]) -> None:
    def run(params: ExampleParams) -> None:
        del params
        error()

    example.run = run  # type: ignore[attr-defined]
    example.SECTION = "example.small"  # type: ignore[attr-defined]


def _of_our_code() -> None:
    Params.load("degrade")  # raises a ParamsError, a ValueError


def _of_a_worker() -> None:
    error = ShardError("shard 3: ValueError: lower the upper end")
    error.add_note("On the worker: line 7")
    raise error


def _of_the_system() -> None:
    Path("gone").read_bytes()


def _of_a_lock() -> None:
    raise LockedError("data/pairs is being written by process 7")


def _of_tracking() -> None:
    raise TrackingError("MLflow at x does not answer")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_of_our_code, "degrade: section is missing"),
        (_of_the_system, "No such file or directory: 'gone'"),
        (_of_a_lock, "data/pairs is being written by process 7"),
        (_of_tracking, "MLflow at x does not answer"),
        (_of_a_worker, "lower the upper end\nOn the worker: line 7"),
    ],
)
def test_what_a_person_can_mend_is_told_without_a_trace(
    example: ModuleType,
    capsys: pytest.CaptureFixture[str],
    error: Callable[[], None],
    told: str,
) -> None:
    _fail_with(example, error)
    with pytest.raises(SystemExit) as caught:
        stage.start("pipelines.example", [])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("example: ")
    assert told in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("error", "kind"),
    [(lambda: {}["x"], KeyError), (lambda: json.loads("{"), ValueError)],
    ids=["a fault", "a ValueError of a library"],
)
def test_what_nobody_foresaw_keeps_its_trace(
    example: ModuleType, error: Callable[[], Any], kind: type[Exception]
) -> None:
    _fail_with(example, error)
    with pytest.raises(kind):
        stage.start("pipelines.example", [])


def _paper(repository: Path, folder: Path, **changes: object) -> None:
    values = yaml.safe_load(profiles.compose("paper-sd21", conf=repository / "conf"))
    (folder / "params.yaml").write_text(yaml.safe_dump(values | changes))
    (folder / "conf").mkdir()
    shutil.copy(repository / "conf/groups.csv", folder / "conf")


@pytest.mark.parametrize("name", ["samples", "faces"])
def test_the_first_stages_of_the_paper_refuse_to_begin_without_all_that_the_line_needs(
    name: str,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    _paper(repository, tmp_path)
    with pytest.raises(SystemExit) as caught:
        stage.start(f"pipelines.{name}", [])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"{name}: " in said
    assert "things are missing, so nothing was started" in said
    assert "put pictures into data/ffhq" in said
    assert "LPIPS_v0.1_vgg-a78928a0.pth" in said
    assert not (tmp_path / "data").exists()


def test_a_first_stage_begins_without_the_assets_if_they_are_not_required(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    samples = {"out": "data/samples", "count": 1, "seed": 1}
    _paper(repository, tmp_path, require_assets=False, samples=samples)
    stage.start("pipelines.samples", [])
    assert (tmp_path / "data/samples/landmarks.csv").is_file()


def test_every_stage_refuses_a_table_of_groups_that_is_not_there(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _paper(repository, tmp_path, require_assets=False)
    (tmp_path / "conf/groups.csv").unlink()
    with pytest.raises(SystemExit) as caught:
        stage.start("pipelines.samples", [])
    assert caught.value.code == 2
    assert "evaluate.groups = conf/groups.csv: no such file" in capsys.readouterr().err
