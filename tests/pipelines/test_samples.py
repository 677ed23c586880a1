from pathlib import Path

from components import images
from components.faces import landmarks
from pipelines import samples
from pipelines.samples import SamplesParams


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_folder_holds_pictures_landmarks_and_licences_and_is_the_same_each_time(
    tmp_path: Path,
) -> None:
    params = SamplesParams(out=tmp_path / "data" / "samples", count=3, seed=1)
    samples.run(params)
    first = _contents(params.out)
    assert sorted(first) == [
        "LICENCES.txt",
        "astronaut.png",
        "landmarks.csv",
        "portrait-0000.png",
        "portrait-0001.png",
        "portrait-0002.png",
        "t1.jpg",
    ]
    faces = landmarks.parse(first["landmarks.csv"].decode())
    assert {file: len(points) for file, points in faces.items()} == {
        "astronaut.png": 1,
        "t1.jpg": 6,
        **{f"portrait-{number:04d}.png": 1 for number in range(3)},
    }
    for file, points in faces.items():
        height, width = images.decode(first[file]).shape[:2]
        assert all((face > 0).all() and (face < (width, height)).all() for face in points)
    for file in faces.keys() - {"t1.jpg"}:
        pattern = "portrait-*.png" if file.startswith("portrait") else file
        assert pattern in first["LICENCES.txt"].decode()

    (params.out / "left over.png").write_bytes(b"from before")
    (tmp_path / "data" / "samples.partial").mkdir()  # a run that was killed
    samples.run(params)
    assert _contents(params.out) == first
    assert [path.name for path in params.out.parent.iterdir()] == ["samples"]
