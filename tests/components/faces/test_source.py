import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.faces import source as sources
from components.faces.source import SourceError, UnreadableError, open_source, read_split
from tests.components.faces import s3_server

FILES = {
    "b.jpg": b"b",
    "Ä Umlaut mit Leerzeichen.PNG": b"a",
    "deeper/still/c.WebP": b"c",
    "deeper/d.tiff": b"d",
    "e.bmp": b"e",
    "from a phone.heic": b"h",
    "landmarks.csv": b"",
    "notes.txt": b"no picture",
    ".hidden.jpg": b"hidden",
    ".git/f.png": b"hidden",
}
PICTURES = [
    "b.jpg",
    "deeper/d.tiff",
    "deeper/still/c.WebP",
    "e.bmp",
    "from a phone.heic",
    "Ä Umlaut mit Leerzeichen.PNG",
]


@pytest.fixture(scope="module", params=["folder", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The same pictures as a folder and as an S3 prefix, each named `hq`."""
    if request.param == "folder":
        root = tmp_path_factory.mktemp("pictures") / "hq"
        for name, data in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        (root.parent / "split.csv").write_text(_SPLIT_ABOVE, encoding="utf-8-sig")
        yield str(root)
        return
    objects = {f"faces/hq/{name}": data for name, data in FILES.items()}
    objects |= {"faces/hq/": b"", "faces/hq2/other.jpg": b"x"}
    objects["faces/split.csv"] = _SPLIT_ABOVE.encode("utf-8-sig")
    with s3_server.serve("photos", objects) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "s3://photos/faces/hq"


_SPLIT_ABOVE = "file,split\nhq/b.jpg,val\nhq/deeper/d.tiff,train\nlq/b.jpg,train\n"


def test_pictures_are_listed_by_name_and_read(place: str) -> None:
    source = open_source(place)
    pictures = source.pictures()
    assert [picture.name for picture in pictures] == PICTURES
    assert [source.read(picture) for picture in pictures] == [FILES[name] for name in PICTURES]
    assert len({picture.digest for picture in pictures}) == len(pictures)
    assert open_source(f"{place}/").pictures() == pictures


def test_a_split_in_the_folder_above_applies_to_rows_with_the_folders_name(place: str) -> None:
    assert read_split(open_source(place)) == {"b.jpg": "test", "deeper/d.tiff": "train"}


def test_small_texts_are_read_or_missing(place: str) -> None:
    source = open_source(place)
    assert source.text("notes.txt") == "no picture"
    assert source.text("nothing.csv") is None
    assert source.text("nothing.csv", above=True) is None


def test_the_error_for_a_folder_without_pictures_names_the_formats(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(SourceError, match=r"no pictures in .*: 1 files there and below.*\.jpg"):
        open_source(str(tmp_path)).pictures()
    with pytest.raises(SourceError, match=r"no such folder: nowhere .tried /"):
        open_source("nowhere").pictures()
    with pytest.raises(SourceError, match="neither a folder nor an s3"):
        open_source("gs://bucket/faces")


def test_a_split_beside_the_pictures_is_preferred(tmp_path: Path) -> None:
    hq = tmp_path / "hq"
    hq.mkdir()
    (tmp_path / "split.csv").write_text("file,split\nhq/a.jpg,test\n")
    (hq / "split.csv").write_text("file,split\na.jpg,train\n")
    assert read_split(open_source(str(hq))) == {"a.jpg": "train"}


def test_a_picture_that_cannot_be_read_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fine.jpg").write_bytes(b"1")
    (tmp_path / "broken link.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "large.jpg").write_bytes(bytes(200))
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller.jpg"))).write_bytes(b"2")
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    source = open_source(str(tmp_path))
    reasons = {}
    for picture in source.pictures():
        if picture.problem:
            with pytest.raises(UnreadableError) as raised:
                source.read(picture)
            reasons[picture.name] = str(raised.value)
    assert reasons == {
        "broken link.jpg": "cannot be read: No such file or directory",
        "large.jpg": "too large: 200 bytes, at most 100",
        "m\\xfcller.jpg": "its name is not UTF-8: rename it",
    }


def test_a_picture_that_changes_after_the_listing_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"before")
    source = open_source(str(tmp_path))
    [before] = source.pictures()
    (tmp_path / "a.jpg").write_bytes(b"after!")
    [after] = source.pictures()
    assert before.digest != after.digest
    with pytest.raises(SourceError, match=r"a\.jpg changed since it was listed"):
        source.read(before)


def test_an_object_that_changes_after_the_listing_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3_server.serve("photos", {"a.jpg": b"before"}) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        source = open_source("s3://photos")
        [before] = source.pictures()
        s3_server.connect(environment).put_object(Bucket="photos", Key="a.jpg", Body=b"after!")
        assert source.pictures() != [before]
        with pytest.raises(SourceError, match=r"a\.jpg changed since it was listed"):
            source.read(before)
        with pytest.raises(SourceError, match=r"cannot list s3://elsewhere/x .tried http://127"):
            open_source("s3://elsewhere/x").pictures()
        with pytest.raises(SourceError, match="no pictures in s3://photos/none: 0 files"):
            open_source("s3://photos/none").pictures()
        assert source.text("split.csv", above=True) is None
