from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import PositiveInt, ValidationError

from components.params import Compute, Params, ParamsError, Workers, one_of, read


class Recipe(Params):
    jpeg_quality: tuple[int, int]
    kernel: PositiveInt


class Degrade(Params):
    seed: int
    level: float
    recipe: Recipe


GOOD = """
degrade:
  seed: 42
  level: 5e-3
  recipe: {jpeg_quality: [60, 100], kernel: 41}
train:
  sd21: {jpeg_quality: [1, 2], kernel: 3}
compute:
  faces: {workers: null}
  restore: {workers: 2, gpus: 0.5, cpus: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    return path


def test_a_section_is_read_with_its_types(file: Path) -> None:
    section = Degrade.load("degrade", file)
    assert section.recipe.jpeg_quality == (60, 100)
    assert section.level == 0.005
    assert Recipe.load("train.sd21", file).kernel == 3


def test_compute_defaults_to_every_cpu(file: Path) -> None:
    assert Compute.load_compute("faces", file) == Compute(workers=None, gpus=0, cpus=1)
    assert Compute.load_compute("restore", file) == Compute(workers=2, gpus=0.5, cpus=4)


def test_every_bad_key_is_named_at_once_with_its_value(file: Path) -> None:
    file.write_text("degrade: {level: .nan, recipe: {jpeg_quality: [60, best], jpg: 1, kernel: 0}}")
    with pytest.raises(ParamsError) as caught:
        Degrade.load("degrade", file)
    title, *problems = str(caught.value).splitlines()
    assert title == f"{file}: fix 5 key(s)"
    assert [problem.strip().split(":")[0] for problem in problems] == [
        "degrade.seed",
        "degrade.level = nan",
        "degrade.recipe.jpeg_quality.1 = 'best'",
        "degrade.recipe.kernel = 0",
        "degrade.recipe.jpg = 1",
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "degrad",
            "degrad: section is missing; the file has degrade, train, compute: "
            "did you mean 'degrade'?",
        ),
        ("train.qwen", "train.qwen: section is missing; 'train' has sd21"),
        ("degrade.seed.x", "degrade.seed.x: section is missing; 'degrade.seed' has no sections"),
    ],
)
def test_a_missing_section_is_named_with_the_known_ones(
    file: Path, section: str, message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        Degrade.load(section, file)
    assert caught.value.problems == (message,)


@pytest.mark.parametrize("content", ["", "- a\n- b", "a: [", "a: b: c"])
def test_a_file_without_sections_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ParamsError, match=r"params\.yaml: (not YAML|expected sections)"):
        read(file)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="hdrface config use"):
        Degrade.load("degrade", tmp_path / "params.yaml")


def test_a_long_value_is_cut_in_the_message(file: Path) -> None:
    file.write_text(f"degrade: {{jpeg_quality: [1, 2], kernel: {'9' * 500}x}}")
    with pytest.raises(ParamsError) as caught:
        Recipe.load("degrade", file)
    assert max(map(len, caught.value.problems)) < 250


class Choice(Params):
    schedule: Literal["constant", "cosine"]
    family: Annotated[str, one_of(("sd21", "qwen"))]


def test_an_unknown_name_is_told_with_the_nearest_whatever_says_which_there_are(
    file: Path,
) -> None:
    file.write_text("train: {schedule: cosin, family: sd12}")
    with pytest.raises(ParamsError) as caught:
        Choice.load("train", file)
    assert caught.value.problems == (
        "train.schedule = 'cosin': Input should be 'constant' or 'cosine': did you mean 'cosine'?",
        "train.family = 'sd12': Input should be 'sd21' or 'qwen': did you mean 'sd21'?",
    )


def test_names_are_known_when_they_are_checked(file: Path) -> None:
    families = {"sd21": 1}

    class Later(Params):
        family: Annotated[str, one_of(families)]

    file.write_text("train: {family: toy}")
    with pytest.raises(ParamsError, match=r"train\.family = 'toy': Input should be 'sd21'$"):
        Later.load("train", file)
    families["toy"] = 2
    assert Later.load("train", file).family == "toy"


def test_a_section_cannot_be_changed(file: Path) -> None:
    section = Degrade.load("degrade", file)
    with pytest.raises(ValidationError, match="frozen"):
        section.seed = 1  # type: ignore[misc]


class Training(Params):
    workers: Workers


@pytest.mark.parametrize(("written", "read"), [("2", 2), ("[1, 4]", (1, 4)), ("[2, 2]", (2, 2))])
def test_workers_are_a_number_or_two(file: Path, written: str, read: object) -> None:
    file.write_text(f"train: {{workers: {written}}}")
    assert Training.load("train", file).workers == read


@pytest.mark.parametrize("written", ["0", "[0, 2]", "[3, 2]", "[1, 2, 3]", "true", "2.5", "two"])
def test_impossible_workers_are_refused_in_one_line(file: Path, written: str) -> None:
    file.write_text(f"train: {{workers: {written}}}")
    with pytest.raises(ParamsError, match=r"train\.workers = .*or \[min, max\] with 1 <= min") as e:
        Training.load("train", file)
    assert len(e.value.problems) == 1
