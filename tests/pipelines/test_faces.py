from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from components import images
from components.faces import align, landmarks
from components.params import Compute
from components.portraits import drawing
from components.tables import Table
from components.weights.shared import share_file
from pipelines import faces
from pipelines.faces import FaceMaker, FacesParams
from tests.components.faces import s3_server

COMPUTE = Compute(workers=1)
GOOD = ("Ä große Schwester.png", "deep/er/b.png", "deep/rotated.jpg")


@pytest.fixture(scope="module")
def portrait() -> drawing.Portrait:
    return drawing.draw(3, 0)


@pytest.fixture
def source(tmp_path: Path, portrait: drawing.Portrait) -> Path:
    """Three usable pictures among everything that can be wrong with one."""
    root = tmp_path / "my pictures"
    (root / "deep" / "er").mkdir(parents=True)
    png = images.encode_png(portrait.image)
    for name in GOOD[:2]:
        (root / name).write_bytes(png)
    lying = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(portrait.image)))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying.save(root / GOOD[2], quality=97, subsampling=0, exif=exif)
    (root / "truncated.png").write_bytes(png[: len(png) // 2])
    (root / "text.jpg").write_text("I am no picture")
    (root / "empty.webp").write_bytes(b"")
    PIL.Image.new("RGB", (3, 3)).save(root / "three.bmp")
    PIL.Image.new("1", (20_000, 20_000)).save(root / "bomb.png")
    (root / "unknown.png").write_bytes(png)  # no landmarks are given for it
    (root / "notes.txt").write_text("no picture, and none is expected")
    marks = {name: [portrait.landmarks] for name in (*GOOD, "truncated.png")}
    (root / "landmarks.csv").write_text(landmarks.write(marks), encoding="utf-8")
    (root / "split.csv").write_text("file,split\ndeep/er/b.png,val\n", encoding="utf-8")
    return root


def _params(source: Path | str, tmp_path: Path, **changes: Any) -> FacesParams:
    values = {
        "source": str(source),
        "faces": tmp_path / "faces",
        "aligned": False,
        "detector": None,
        "size": 64,
        "min_face": 32,
        "test_percent": 0,
        "files_per_shard": 4,
    }
    return FacesParams.model_validate(values | changes)


NO_PICTURE = "not a JPEG, PNG, WebP, BMP, TIFF, GIF, PNM, AVIF, JPEG 2000, HEIC or JPEG XL"
REASONS = {
    "bomb.png": "too large",
    "empty.webp": f"{NO_PICTURE} (it is empty)",
    "text.jpg": f"{NO_PICTURE} (it starts with b'I am no pict')",
    "three.bmp": "too small: 3 x 3, at least 16 pixels per side",
    "truncated.png": "truncated or broken: ",
    "unknown.png": "no landmarks are given for it: name a detector (faces.detector)",
}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_every_picture_becomes_a_face_or_is_rejected_with_its_reason(
    source: Path, tmp_path: Path, portrait: drawing.Portrait
) -> None:
    table = faces.run(_params(source, tmp_path), COMPUTE)
    assert table.num_rows == 3
    assert len(table.shards) == 3  # nine pictures, four a shard
    rows = Table.open(tmp_path / "faces").read().to_pylist()
    assert [row["face_id"] for row in rows] == sorted(GOOD)
    assert [row["file"] for row in rows] == sorted(GOOD)
    assert {row["file"]: row["split"] for row in rows} == {
        GOOD[0]: "train",
        GOOD[1]: "test",
        GOOD[2]: "train",
    }
    expected = align.cut(portrait.image, align.fit(portrait.landmarks), 64)
    for row in rows:
        face = images.decode_png(row["hq_png"])
        tolerance = 0.01 if row["file"].endswith("png") else 3  # landmarks.csv rounds
        assert np.abs(face.astype(int) - expected).mean() <= tolerance
    reasons = {rejection.id: rejection.reason for rejection in table.rejected}
    assert reasons.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reasons[name].startswith(reason), reasons[name]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_changed_or_added_picture_makes_another_table(source: Path, tmp_path: Path) -> None:
    params = _params(source, tmp_path)
    first = faces.run(params, COMPUTE)
    stamp = (tmp_path / "faces" / "manifest.json").stat().st_mtime_ns
    again = faces.run(params, Compute(workers=2))
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "faces" / "manifest.json").stat().st_mtime_ns == stamp  # nothing ran
    (source / "unknown.png").unlink()
    (source / "split.csv").write_text("file,split\ndeep/rotated.jpg,test\n")
    changed = faces.run(params, COMPUTE)
    assert changed.fingerprint != first.fingerprint
    splits = changed.read(columns=["face_id", "split"]).to_pylist()
    assert {row["face_id"]: row["split"] for row in splits}[GOOD[2]] == "test"
    assert len(changed.rejected) == len(REASONS) - 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_source_where_nothing_is_usable_says_what_was_tried(source: Path, tmp_path: Path) -> None:
    for name in GOOD:
        (source / name).unlink()
    with pytest.raises(ValueError, match=r"no usable face in .* all of 6 were rejected: 1 x "):
        faces.run(_params(source, tmp_path), COMPUTE)


def test_what_can_never_work_fails_before_anything_starts(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in"):
        faces.run(_params(tmp_path / "empty", tmp_path), COMPUTE)
    with pytest.raises(ValueError, match="no such folder"):
        faces.run(_params(tmp_path / "missing", tmp_path), COMPUTE)
    (source / "landmarks.csv").unlink()
    with pytest.raises(ValueError, match=r"set faces\.detector .* or faces\.aligned to true"):
        faces.run(_params(source, tmp_path), COMPUTE)
    with pytest.raises(ValueError, match=r"detector\.onnx cannot be read: No such file"):
        faces.run(_params(source, tmp_path, detector=tmp_path / "detector.onnx"), COMPUTE)
    (source / "split.csv").write_text("file,split\na.png,dev\n")
    with pytest.raises(ValueError, match=r"split\.csv, line 2: split 'dev'"):
        faces.run(_params(source, tmp_path, aligned=True), COMPUTE)
    assert not (tmp_path / "faces").exists()


@pytest.mark.shared
def test_a_photograph_s_faces_are_found_aligned_and_numbered(
    shared_dir: Path, tmp_path: Path
) -> None:
    params = _params(
        shared_dir / "faces" / "whole",
        tmp_path,
        detector=shared_dir / "weights" / "det_500m.onnx",
        min_face=16,
    )
    tasks = faces.list_tasks(faces.open_source(params.source), params)
    maker = FaceMaker(
        source=params.source,
        detector=params.detector and share_file(params.detector),
        size=64,
        min_face=16,
        aligned=False,
    )
    made = maker([task for task in tasks if "solvay" in task.picture.name])
    ids = made.rows["face_id"].to_pylist()
    assert ids == [f"solvay_1927.png#{number:02d}" for number in range(1, 30)]
    assert made.rejected == []


@pytest.mark.shared
def test_the_split_above_a_folder_of_faces_is_honoured(shared_dir: Path, tmp_path: Path) -> None:
    params = _params(shared_dir / "faces" / "hq", tmp_path, aligned=True, test_percent=50)
    tasks = faces.list_tasks(faces.open_source(params.source), params)
    splits = [task.split for task in tasks]
    assert (splits.count("train"), splits.count("test")) == (83, 30)


def _rows(maker: FaceMaker, params: FacesParams) -> list[dict[str, Any]]:
    made = maker(faces.list_tasks(faces.open_source(params.source), params))
    assert {rejection.id for rejection in made.rejected} == REASONS.keys()
    rows: list[dict[str, Any]] = made.rows.to_pylist()
    return rows


def test_an_s3_prefix_gives_the_same_faces_as_the_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {
        f"in/{file.relative_to(source).as_posix()}": file.read_bytes()
        for file in source.rglob("*")
        if file.is_file()
    }
    made = {}
    with s3_server.serve("photos", objects) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for place in (str(source), "s3://photos/in"):
            maker = FaceMaker(source=place, detector=None, size=64, min_face=32, aligned=False)
            made[place] = _rows(maker, _params(place, tmp_path))
    assert made[str(source)] == made["s3://photos/in"]
    assert len(made[str(source)]) == 3
