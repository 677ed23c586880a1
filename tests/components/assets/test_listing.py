"""The whole listing, and the refusal that names all that is missing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components import images, profiles
from components.assets import listing, pictures
from components.assets.listing import AssetsMissingError


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with no data, whose caches are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def composed(profile: str, repository: Path, **faces: Any) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(profiles.compose(profile, conf=repository / "conf"))
    return values | {"faces": values["faces"] | faces}


def write_picture(file: Path) -> None:
    import numpy as np

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(images.encode_png(np.zeros((8, 8, 3), np.uint8)))


def test_the_small_profile_lacks_nothing(repository: Path) -> None:
    values = composed("tiny", repository)
    assert listing.missing(listing.assets(values)) == []
    listing.require(values)


def test_the_paper_s_profile_names_all_that_it_lacks_at_once(repository: Path) -> None:
    values = composed("paper-sd21", repository)
    with pytest.raises(AssetsMissingError) as refused:
        listing.require(values)
    said = str(refused.value)
    for lacking in ("data/ffhq", "LPIPS_v0.1_vgg", "arcface", "python -m pipelines.weights qwen"):
        assert lacking in said


def test_a_file_that_a_loss_and_a_metric_load_has_one_row(repository: Path) -> None:
    found = listing.assets(composed("paper-sd21", repository))
    vgg = [asset for asset in found if "vgg16" in asset.which]
    assert [asset.what for asset in vgg] == ["loss lpips, loss dists, metric dists"]


def test_pictures_are_here_when_a_folder_below_has_one(repository: Path, tmp_path: Path) -> None:
    values = composed("paper-sd21", repository, source="ffhq")
    (asset,) = pictures.pictures(values)
    assert asset.state == "missing"
    assert "faces.source=DIR" in asset.remedy
    write_picture(tmp_path / "ffhq/00000/00001.png")
    (asset,) = pictures.pictures(values)
    assert (asset.state, asset.size.split(",")[0]) == ("here", "1 files")


def test_photographs_need_a_detector_or_landmarks(repository: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "photographs/a.png")
    values = composed("tiny", repository, source="photographs")
    _, detector = pictures.pictures(values)
    assert detector.state == "missing"
    (tmp_path / "photographs/landmarks.csv").write_text("")
    assert [asset.what for asset in pictures.pictures(values)] == ["pictures"]
    values = composed("tiny", repository, source="photographs", detector="yunet.onnx")
    _, detector = pictures.pictures(values)
    assert detector.state == "missing"
    (tmp_path / "yunet.onnx").write_bytes(bytes(10))
    _, detector = pictures.pictures(values)
    assert detector.state == "here"


def test_a_bucket_is_not_looked_at(repository: Path) -> None:
    values = composed("paper-sd21", repository, source="s3://bucket/ffhq")
    (asset,) = pictures.pictures(values)
    assert asset.state == "not seen"


def test_parameters_that_are_wrong_are_told_in_words(repository: Path) -> None:
    values = composed("paper-sd21", repository)
    del values["evaluate"]
    with pytest.raises(ValueError, match="run 'hdrface config check'"):
        listing.assets(values)
