"""With the project's own settings of DVC, a finished model is there once on a machine."""

import re
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc_objects.fs.system import reflink

from components import files

CONFIG = Path(__file__).parents[2] / ".dvc" / "config"


def test_dvc_adds_no_copy_to_a_model_that_mlflow_has_linked(tmp_path: Path) -> None:
    model, artifact = tmp_path / "models" / "weights", tmp_path / "mlartifacts" / "weights"
    model.parent.mkdir()
    model.write_bytes(b"weights")
    files.link(model, artifact)
    Repo.init(str(tmp_path), no_scm=True).close()
    [settings] = re.findall(r"\[cache\][^\[]*", CONFIG.read_text())
    with (tmp_path / ".dvc" / "config").open("a") as config:
        config.write(settings)
    with Repo(str(tmp_path)) as repo:
        repo.add(str(tmp_path / "models"))
    if _reflinks(tmp_path):  # DVC prefers them for its cache: other files, the same bytes
        pytest.skip("needs a file system without reflinks")
    assert model.samefile(artifact)
    assert model.stat().st_nlink == 3  # and DVC's cache
    assert artifact.read_bytes() == b"weights"
    assert not model.stat().st_mode & 0o222  # nobody writes it in place by mistake


def _reflinks(folder: Path) -> bool:
    (folder / "one").write_bytes(b"")
    try:
        reflink(str(folder / "one"), str(folder / "two"))
    except OSError:
        return False
    return True
