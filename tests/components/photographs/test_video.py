import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from components.images import Image
from components.photographs import video
from components.photographs.video import VideoError, VideoWriter, probe, read_frames
from components.portraits import drawing
from tests.components.photographs.videos import decoded, make_video, needs_ffmpeg

pytestmark = needs_ffmpeg
PORTRAIT = drawing.draw(1, 1).image


def frames(count: int = 6, height: int = 120, width: int = 160) -> list[Image]:
    """Pan over a portrait."""
    return [PORTRAIT[40 : 40 + height, 2 * i : 2 * i + width] for i in range(count)]


def written(source: Path, target: Path, pictures: list[Image]) -> Path:
    height, width = pictures[0].shape[:2]
    info = probe(source)
    with VideoWriter(target, width=width, height=height, like=info, sound_of=source) as writer:
        for picture in pictures:
            writer.write(picture)
    return target


def sound_of(file: Path) -> bytes:
    """Return the encoded sound."""
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-map", "0:a", "-c", "copy", "-f", "md5"]
    return subprocess.run([*command, "-"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_pictures_and_sound_are_kept(tmp_path: Path, suffix: str) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    info = probe(source)
    assert (info.width, info.height, info.rate, info.num_frames) == (160, 120, Fraction(10), 6)
    pictures = decoded(source)
    assert len(pictures) == 6
    difference = np.stack(pictures).astype(int) - np.stack(frames())
    assert np.abs(difference).mean() < 2
    target = written(source, tmp_path / f"out{suffix}", pictures)
    again = np.stack(decoded(target)).astype(int) - np.stack(pictures)
    assert np.abs(again).mean() < 4  # colours of half resolution, and H.264
    assert np.abs(again.mean(axis=(0, 1, 2))).max() < 0.5  # no cast: BT.601 in, BT.709 out
    assert sound_of(target) == sound_of(source)
    assert probe(target).rate == 10


def test_a_video_without_sound_and_of_odd_size_is_written(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", frames(height=61, width=75), sound=False)
    target = written(source, tmp_path / "out.mp4", decoded(source))
    info = probe(target)
    assert (info.width, info.height) == (76, 62)


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    file = make_video(tmp_path / "in.mp4", [np.rot90(frame).copy() for frame in frames()])
    data = bytearray(file.read_bytes())
    # The track header's matrix, 40 bytes behind its version: shown turned clockwise by 90 degrees.
    start = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
    info = probe(file)
    assert (info.width, info.height) == (160, 120)
    assert np.abs(np.stack(decoded(file)).astype(int) - np.stack(frames())).mean() < 2


def test_a_file_that_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError, match=r"no video: .*Invalid data"):
        probe(text)
    # A playlist could make ffmpeg read other files.
    listed = tmp_path / "list.mp4"
    listed.write_text(f"#EXTM3U\n#EXTINF:1,\n{make_video(tmp_path / 'a.mp4', frames())}\n")
    with pytest.raises(VideoError, match="no video"):
        probe(listed)


def test_a_truncated_video_gives_the_frames_that_it_has(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", frames(30))
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert 0 < len(decoded(source)) < 30


def test_too_large_a_frame_is_refused_by_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    monkeypatch.setattr(video, "MAX_PIXELS", 10_000)
    with pytest.raises(VideoError, match="too large: 160 x 120, at most 10,000"):
        probe(source)


def test_closing_the_reader_ends_its_decoder(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames(40))
    reading = read_frames(source, probe(source))
    next(reading)
    [decoder] = [child for child in psutil.Process().children() if child.name() == "ffmpeg"]
    reading.close()
    assert not decoder.is_running()


def test_an_error_of_ffmpeg_while_writing_is_reported(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    with pytest.raises(VideoError, match=r"ffmpeg (gave up|cannot write)"):
        written(source, tmp_path / "nowhere" / "out.mp4", decoded(source))


def test_without_ffmpeg_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VideoError, match="videos need ffmpeg and ffprobe: install ffmpeg"):
        probe(tmp_path / "any.mp4")
