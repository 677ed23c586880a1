import csv
import os
from pathlib import Path

import numpy as np
import pytest

from components import images
from components.degradation import recipe
from components.degradation.folder import degrade_folder
from components.degradation.recipe import DegradationParams
from components.degradation.unsharp import UnsharpParams
from components.faces.source import SourceError

RECIPE = DegradationParams(
    kernel_size=13, sigma=(0.1, 3), downsample=(0.8, 4), noise=(0, 20), jpeg_quality=(60, 100)
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (48, 64, 3), "more/Jörg 1.png": (40, 40, 3)}.items():
        picture = rng.integers(0, 256, size, np.uint8)
        (folder / name).write_bytes(images.encode_png(picture))
    (folder / "broken.jpg").write_text("not a picture")
    return folder


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_each_picture_gets_a_twin_of_its_size_and_a_row(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = degrade_folder(source, out, recipe=RECIPE, seed=42)
    assert result.num_pictures == 2
    assert [rejected.file for rejected in result.rejected] == ["broken.jpg"]
    assert "not a JPEG" in result.rejected[0].reason
    assert files_of(out) == {"a.png", "more/Jörg 1.png", "degradations.csv"}
    hq = images.decode((source / "a.png").read_bytes())
    drawn = recipe.draw(RECIPE, hq.shape[:2], seed=42, face_id="a.png", variant=0)
    lq = images.decode((out / "a.png").read_bytes())
    np.testing.assert_array_equal(lq, recipe.apply(hq, drawn))
    with (out / "degradations.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["of"] for line in lines] == ["a.png", "more/Jörg 1.png"]
    assert float(lines[0]["scale"]) == drawn.scale
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing unfinished is left


def test_a_twin_does_not_depend_on_the_other_pictures(source: Path, tmp_path: Path) -> None:
    degrade_folder(source, tmp_path / "both", recipe=RECIPE, seed=1)
    (source / "a.png").unlink()
    degrade_folder(source, tmp_path / "one", recipe=RECIPE, seed=1)
    name = "more/Jörg 1.png"
    assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_variants_and_changed_targets_have_their_own_files(source: Path, tmp_path: Path) -> None:
    sharp = RECIPE.model_copy(update={"unsharp": UnsharpParams()})
    out = tmp_path / "out"
    degrade_folder(source, out, recipe=sharp, seed=1, variants=2)
    assert {"a.png", "a.1.png", "hq/a.png", "hq/a.1.png", "more/Jörg 1.1.png"} < files_of(out)


def test_pictures_that_differ_only_in_their_suffix_keep_separate_twins(
    source: Path, tmp_path: Path
) -> None:
    (source / "a.bmp").write_bytes((source / "a.png").read_bytes())
    out = tmp_path / "out"
    assert degrade_folder(source, out, recipe=RECIPE, seed=1).num_pictures == 3
    assert {"a.png.png", "a.bmp.png"} < files_of(out)


def test_an_existing_folder_is_not_changed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="name a new folder"):
        degrade_folder(source, out, recipe=RECIPE, seed=1)
    assert files_of(out) == {"mine.txt"}


def test_a_folder_without_a_usable_picture_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        degrade_folder(folder, tmp_path / "out", recipe=RECIPE, seed=1)
    (folder / "broken.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"1 were rejected, broken\.jpg: not a JPEG"):
        degrade_folder(folder, tmp_path / "out", recipe=RECIPE, seed=1)
    assert not (tmp_path / "out").exists()


def test_one_bad_file_or_name_stops_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (source / "a.png").read_bytes()
    os.mkfifo(source / "pipe.jpg")  # to open it would be to wait for ever
    for name in ("b.png", "c.png", f"{'x' * 251}.jpg", "layers.psd"):
        (source / name).write_bytes(picture)
    decode = images.decode

    def changing(data: bytes) -> images.Image:
        (source / "b.png").write_bytes(b"changed after it was listed")
        (source / "c.png").unlink(missing_ok=True)
        return decode(data)

    monkeypatch.setattr(images, "decode", changing)
    out = tmp_path / "out"
    result = degrade_folder(source, out, recipe=RECIPE, seed=1)
    assert files_of(out) == {"a.png", "more/Jörg 1.png", f"{'x' * 251}.png", "degradations.csv"}
    reasons = {rejected.file: rejected.reason for rejected in result.rejected}
    assert reasons.keys() == {"broken.jpg", "pipe.jpg", "b.png", "c.png", "layers.psd"}
    assert "pipe" in reasons["pipe.jpg"]
    assert "changed since it was listed" in reasons["b.png"]
    assert "Photoshop document" in reasons["layers.psd"]
