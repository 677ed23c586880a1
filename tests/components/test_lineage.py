from pathlib import Path

import pytest

from components import lineage

SOURCES = {
    "components/__init__.py": '"""The library."""\n',
    "components/images.py": "SIZE = 64\n",
    "components/blur.py": "from components import images\n\nKERNEL = images.SIZE // 2\n",
    "components/unused.py": "X = 1\n",
    "components/params.py": "class Params: pass\n",
    "components/tables/__init__.py": "import components.unused\n",
    "components/faces/__init__.py": "from .align import align\n",
    "components/faces/align.py": "def align():\n    from ..blur import KERNEL\n    return KERNEL\n",
    "components/faces/detect.py": "import numpy\n",
    "pipelines/__init__.py": "",
    "pipelines/faces.py": (
        '"""Stage."""\n'
        "from components.faces.align import align\n"
        "from components.params import Params\n"
        "from components import tables\n\n"
        'def run():\n    """Run it."""\n    return align()\n'
    ),
}

# What Pythons parse or print in different ways: `type_params`, empty lists, f-strings within
# f-strings, letters that are younger than a Python, None among the values of a list.
EVERY_PYTHON = """
class Size:
    def __call__(self, *names, width=None, **others):
        return f"{names!r:>{width}}" "🫨", {**others, "": ()}
"""


@pytest.fixture
def sources(tmp_path) -> Path:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def hashes(root: Path) -> dict[str, str]:
    return lineage.source_hashes("pipelines.faces", root)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_every_source_that_the_stage_may_run_counts(sources):
    assert list(hashes(sources)) == [
        "components/blur.py",  # imported inside a function
        "components/faces/__init__.py",  # run when a module of the package is imported
        "components/faces/align.py",
        "components/images.py",  # `from components import images`
        "pipelines/faces.py",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("components/images.py", "64", "128"),
        ("components/blur.py", "// 2", "// 3"),
        ("pipelines/faces.py", "return align()", "return align"),
    ],
)
def test_a_change_of_a_source_changes_only_its_hash(sources, file, old, new):
    before = hashes(sources)
    edit(sources / file, old, new)
    after = hashes(sources)

    assert {name for name in before if before[name] != after[name]} == {file}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("components/images.py", "SIZE = 64", "# pixels\nSIZE = (\n    64\n)"),
        ("pipelines/faces.py", "Run it.", "Align every face, and nothing else."),
        ("pipelines/faces.py", '"""Stage."""\n', ""),
        ("components/unused.py", "1", "2"),
        ("components/tables/__init__.py", "unused", "faces.detect"),
        ("components/params.py", "pass", "x = 1"),
        ("components/faces/detect.py", "numpy", "torch"),
    ],
)
def test_comments_docstrings_and_line_breaks_change_no_hash(sources, file, old, new):
    before = hashes(sources)
    edit(sources / file, old, new)

    assert hashes(sources) == before


def test_a_string_that_is_not_a_docstring_counts(sources):
    before = hashes(sources)
    edit(sources / "components/blur.py", "KERNEL =", 'MODE = "gauss"\nKERNEL =')
    after = hashes(sources)

    assert before != after


def test_a_source_has_the_same_hash_on_every_python(sources):
    (sources / "components/images.py").write_text(EVERY_PYTHON)
    found = hashes(sources)["components/images.py"]

    # Seen on Python 3.11.7, 3.12.1 and 3.13.0.
    assert found == "27b436f39f6063cab207457629354b4167a9c0df1127c44c567b7f63cb12817b"


def test_an_unknown_module_is_an_error(sources):
    with pytest.raises(ModuleNotFoundError, match=r"no source of 'pipelines\.fases'"):
        lineage.source_hashes("pipelines.fases", sources)


def test_the_sources_of_this_repository_are_found(repository):
    found = lineage.source_hashes("components.tables")
    assert found == {}  # moves bytes, and imports parameters that make nothing
    assert "components/images.py" in lineage.source_hashes("components.images")
    assert repository == lineage.ROOT


def test_the_fingerprint_depends_on_every_part_and_not_on_their_order():
    one = lineage.fingerprint(stage="faces", params={"a": 1, "b": 2})

    assert one == lineage.fingerprint(params={"b": 2, "a": 1}, stage="faces")
    assert one != lineage.fingerprint(stage="faces", params={"a": 1, "b": 2.5})
    assert one != lineage.fingerprint(stage="face", params={"a": 1, "b": 2})


def test_dvc_hashes_are_those_that_dvc_will_lock(tmp_path, monkeypatch):
    from dvc.repo import Repo

    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  train:\n"
        "    matrix: {backbone: ['${train.backbone}']}\n"
        "    cmd: cp data/a model\n"
        "    deps: ['${train.data}', code.py]\n"
        "    params: [train]\n"
        "    outs: [model]\n"
    )
    (tmp_path / "params.yaml").write_text("train: {backbone: sd21, data: data}\n")
    (tmp_path / "code.py").write_text("pass\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("first")
    assert lineage.dvc_hashes("train@sd21", tmp_path) == {}  # no DVC project

    with Repo.init(str(tmp_path), no_scm=True) as repo:
        before = lineage.dvc_hashes("train@sd21", tmp_path)
        assert set(before) == {"data", "code.py"}
        monkeypatch.chdir(tmp_path)
        repo.reproduce()
        assert lineage.dvc_hashes("train@sd21", tmp_path) == before
        locked = (tmp_path / "dvc.lock").read_text()
        assert all(f"md5: {value}\n" in locked for value in before.values())

        (tmp_path / "data" / "a").write_text("second")
        after = lineage.dvc_hashes("train@sd21", tmp_path)
    assert after["code.py"] == before["code.py"]
    assert after["data"] != before["data"]


def test_the_lock_shows_all_stages_that_led_to_an_output(tmp_path, monkeypatch):
    from dvc.repo import Repo

    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  unrelated: {cmd: cp code.py other, deps: [code.py], outs: [other]}\n"
        "  train: {cmd: cp faces/a model, deps: [faces, code.py], outs: [model]}\n"
        "  faces: {cmd: mkdir faces && cp source/a faces, deps: [source], outs: [faces]}\n"
    )
    (tmp_path / "code.py").write_text("pass\n")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("first")
    monkeypatch.chdir(tmp_path)
    assert lineage.locked_stages(Path("model")) == {}  # no DVC project
    (tmp_path / "model").write_text("made by hand")
    with Repo.init(no_scm=True) as repo:
        with pytest.raises(ValueError, match=r"dvc\.lock does not describe what lies in model"):
            lineage.locked_stages(Path("model"))
        repo.reproduce()
    stages = lineage.locked_stages(Path("model"))
    assert list(stages) == ["faces", "train"]
    inputs = lineage.inputs_of(stages)
    assert list(inputs) == ["source", "code.py", "faces"]
    assert inputs["faces"] == stages["faces"]["outs"][0]["md5"]

    (tmp_path / "model").write_text("another")
    with pytest.raises(ValueError, match=r"dvc\.lock does not describe what lies in model"):
        lineage.locked_stages(Path("model"))
    with pytest.raises(ValueError, match=r"no stage of dvc\.yaml makes models"):
        lineage.locked_stages(Path("models"))
