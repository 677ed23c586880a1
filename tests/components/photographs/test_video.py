import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from components.images import Image
from components.photographs import video_info
from components.photographs.ffmpeg import VideoError
from components.photographs.video import FrameReader, VideoWriter, check, join, left_out
from components.photographs.video_encoders import Encoding
from components.photographs.video_info import probe, reductions
from components.portraits import drawing
from tests.components.photographs.videos import decoded, make_video, needs_ffmpeg, run_ffmpeg

pytestmark = needs_ffmpeg
PORTRAIT = drawing.draw(1, 1).image


def frames(count: int = 6, height: int = 120, width: int = 160) -> list[Image]:
    """Pan over a portrait."""
    return [PORTRAIT[40 : 40 + height, 2 * i : 2 * i + width] for i in range(count)]


def written(
    source: Path, target: Path, pictures: list[Image], encoding: Encoding | None = None
) -> Path:
    height, width = pictures[0].shape[:2]
    info = probe(source)
    encoding = encoding or Encoding()
    parts = []
    for start in range(0, len(pictures), 4):
        part = target.with_name(f"{target.name}.{start}.nut")
        with VideoWriter(part, width=width, height=height, like=info, encoding=encoding) as writer:
            for picture in pictures[start : start + 4]:
                writer.write(picture)
        parts.append((part, len(pictures[start : start + 4])))
    join(parts, target, source=source, like=info, encoding=encoding)
    return target


def sound_of(file: Path) -> bytes:
    """Return the encoded sound."""
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-map", "0:a", "-c", "copy", "-f", "md5"]
    return subprocess.run([*command, "-"], capture_output=True, check=True).stdout


def ffprobe(file: Path, *wanted: str) -> list[str]:
    command = ["ffprobe", "-v", "error", *wanted, "-of", "csv=p=0", str(file)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


def times_of(file: Path) -> list[float]:
    """Return when each picture is shown, in seconds."""
    wanted = ("-select_streams", "v", "-show_entries", "packet=pts_time")
    return sorted(float(line.strip(",")) for line in ffprobe(file, *wanted))


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
    times = np.array(times_of(target))
    assert times - times[0] == pytest.approx(np.arange(6) / 10, abs=0.001)


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


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_the_kind_of_a_film_is_seen_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    film = make_video(tmp_path / f"in{suffix}", frames()[:1], sound=False)
    assert probe(film.rename(tmp_path / "film")).suffix == suffix


def test_too_large_a_frame_is_refused_by_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    monkeypatch.setattr(video_info, "MAX_PIXELS", 10_000)
    with pytest.raises(VideoError, match="too large: 160 x 120, at most 10,000"):
        probe(source)


LIGHT = [  # nits, linear BT.709
    *((1, 1, 1), (50, 50, 50), (90, 90, 90), (60, 35, 25), (10, 40, 80)),  # as they are
    *((203, 203, 203), (1000, 1000, 1000), (1000, 100, 100)),  # rolled off
]
BT709_TO_BT2020 = np.array(  # ITU-R BT.2087
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


def pq(nits: float) -> float:
    y = (nits / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def hlg(light: np.ndarray) -> np.ndarray:
    """Encode what a display of 1,000 nits shows (ITU-R BT.2100)."""
    luminance = light @ (0.2627, 0.6780, 0.0593) / 1000
    scene = light / 1000 * (luminance ** (1 / 1.2 - 1))[:, None]
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def shown(light: tuple[float, float, float]) -> list[float]:
    """Return what SDR shows for a light, by ITU-R BT.2390 from 1,000 to 203 nits, in levels."""
    most = pq(max(light)) / pq(1000)
    white = pq(203) / pq(1000)
    knee = 1.5 * white - 0.5
    share = 1.0
    if most > knee:
        t = (most - knee) / (1 - knee)
        rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
        wanted = (rolled + (3 * t**2 - 2 * t**3) * white) * pq(1000)
        nits = np.linspace(0, 203, 20_001)
        share = nits[np.argmin([abs(pq(n) - wanted) for n in nits])] / max(light)
    return [255 * (share * colour / 203) ** (1 / 2.4) for colour in light]


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped_and_not_relabelled(tmp_path: Path, transfer: str) -> None:
    light = np.array(LIGHT, dtype=float) @ BT709_TO_BT2020.T
    signal = hlg(light) if transfer == "arib-std-b67" else np.vectorize(pq)(light)
    patches = np.repeat(np.rint(signal * 65535).astype("<u2")[None], 16, axis=0)
    picture = np.repeat(patches, 16, axis=1)
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{16 * len(LIGHT)}x16", "-i", "pipe:0"),
        *("-vf", "scale=out_color_matrix=bt2020:flags=accurate_rnd,format=yuv444p10le"),
        *("-c:v", "libx264", "-qp", "4", "-colorspace", "bt2020nc", "-color_primaries", "bt2020"),
        *("-color_trc", transfer, tmp_path / "in.mp4"),
        given=np.stack([picture] * 2).tobytes(),
    )
    pictures = decoded(tmp_path / "in.mp4")
    found = pictures[0][8, 8::16].astype(float)
    assert found == pytest.approx(np.array([shown(one) for one in LIGHT]), abs=4)
    info = probe(tmp_path / "in.mp4")
    name = "HLG" if transfer == "arib-std-b67" else "PQ"
    assert reductions(info, [])[0] == f"HDR ({name}) was tone-mapped to SDR of 8 bits"
    target = written(tmp_path / "in.mp4", tmp_path / "out.mp4", pictures)
    assert probe(target).hdr is None
    assert np.abs(decoded(target)[0][8, 8::16] - found).max() < 12  # colours of half resolution


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-color_trc", "linear"], "transfer function is linear, neither SDR nor PQ nor HLG"),
        (["-colorspace", "ictcp"], "colours in ictcp are not known here"),
    ],
)
def test_colours_that_would_come_out_wrong_are_refused(
    tmp_path: Path, words: list[str], message: str
) -> None:
    source = make_video(tmp_path / "in.mp4", frames(2))
    run_ffmpeg("-i", source, *words, "-c:v", "libx264", tmp_path / "odd.mp4")
    with pytest.raises(VideoError, match=message):
        probe(tmp_path / "odd.mp4")


def test_wide_colours_of_sdr_keep_their_tags(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames(2))
    tags = ("-color_primaries", "smpte432", "-color_trc", "iec61966-2-1")
    run_ffmpeg("-i", source, *tags, "-c:v", "libx264", tmp_path / "wide.mp4")
    target = written(tmp_path / "wide.mp4", tmp_path / "out.mp4", decoded(tmp_path / "wide.mp4"))
    assert (probe(target).primaries, probe(target).transfer) == ("smpte432", "iec61966-2-1")


def test_a_picture_that_begins_late_stays_in_step_with_the_sound(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    late = tmp_path / "late.mkv"
    run_ffmpeg(
        *("-i", source, "-itsoffset", "0.5", "-i", source),
        *("-map", "0:a", "-map", "1:v", "-c", "copy", late),
    )
    pictures = decoded(late)
    assert len(pictures) == 6 + 5
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures[:6])
    assert not np.array_equal(pictures[6], pictures[0])


def test_fields_are_put_together_without_combs(tmp_path: Path) -> None:
    def comb(picture: Image) -> float:
        rows = picture.astype(int)
        return float(np.abs(rows[1:-1:2] - (rows[:-2:2] + rows[2::2]) / 2).mean())

    whole = [np.roll(PORTRAIT[40:160, :160], 8 * i, axis=1) for i in range(8)]
    fields = []
    for first, second in zip(whole[::2], whole[1::2], strict=True):
        fields.append(first.copy())
        fields[-1][1::2] = second[1::2]
    source = make_video(tmp_path / "in.mp4", fields)
    words = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-flags", "+ildct", "-x264opts", "tff=1")
    run_ffmpeg("-i", source, *words, tmp_path / "fields.mp4")
    info = probe(tmp_path / "fields.mp4")
    assert "interlaced fields became whole frames" in reductions(info, [])
    [before, after] = decoded(source)[1:3], decoded(tmp_path / "fields.mp4")[1:3]
    assert np.mean([comb(one) for one in after]) < 0.5 * np.mean([comb(one) for one in before])


def test_subtitles_are_kept_where_the_file_can_hold_them(tmp_path: Path) -> None:
    (tmp_path / "said.srt").write_text("1\n00:00:00,000 --> 00:00:00,400\nHello\n")
    source = make_video(tmp_path / "in.mp4", frames())
    film = tmp_path / "film.mkv"
    run_ffmpeg(
        "-i", source, "-i", tmp_path / "said.srt", "-map", "0", "-map", "1", "-c:s", "srt", film
    )
    target = written(film, tmp_path / "out.mkv", decoded(film))
    assert "subrip" in ffprobe(target, "-show_entries", "stream=codec_name")
    assert left_out(probe(film), ".mkv") == []
    [subtitles] = left_out(probe(film), ".mp4")
    assert "left out: subtitle (subrip)" in reductions(probe(film), [subtitles])


def test_a_video_is_written_with_the_encoder_that_is_asked_for(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames())
    target = written(source, tmp_path / "out.mp4", decoded(source), Encoding("libx265", 20))
    wanted = ("-select_streams", "v", "-show_entries", "stream=codec_name,codec_tag_string")
    assert ffprobe(target, *wanted) == ["hevc,hvc1"]
    times = np.array(times_of(target))
    assert times - times[0] == pytest.approx(np.arange(6) / 10, abs=0.001)
    with pytest.raises(VideoError, match=r"libvpx-vp9 in \.mov does not work here \(ffmpeg"):
        check(
            source,
            tmp_path / "out.mov",
            width=160,
            height=120,
            like=probe(source),
            encoding=Encoding("libvpx-vp9"),
        )


def test_closing_the_reader_ends_its_decoder(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames(40))
    with FrameReader(source, probe(source)) as reader:
        next(iter(reader))
        [decoder] = [child for child in psutil.Process().children() if child.name() == "ffmpeg"]
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
