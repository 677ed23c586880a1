import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from components.faces import align
from components.faces.detect import Detection
from components.images import Image
from components.photographs import video_restoration
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRestorer
from components.photographs.video_restoration import VideoRecord, restore_video
from components.portraits import drawing
from tests.components.photographs.videos import decoded, make_video, needs_ffmpeg, run_ffmpeg

pytestmark = needs_ffmpeg
PORTRAIT = drawing.draw(1, 1)
STEP = 3  # pixels that the face moves a frame


@dataclass
class Panning:
    """A detector for a pan over a drawn portrait; its landmarks tremble."""

    frame: int = 0

    def detect(self, image: Image) -> list[Detection]:
        del image
        points = PORTRAIT.landmarks - (STEP * self.frame, 0)
        points = points + np.random.default_rng(self.frame).normal(scale=1.0, size=(5, 2))
        self.frame += 1
        return [Detection(points, 0.9, (0.0, 0.0, 1.0, 1.0))]


def pan(count: int) -> list[Image]:
    return [
        np.ascontiguousarray(PORTRAIT.image[:, STEP * i : STEP * i + 260]) for i in range(count)
    ]


def test_a_face_is_restored_in_every_frame_of_a_video(
    tmp_path: Path, small_restorer: FaceRestorer
) -> None:
    source = make_video(tmp_path / "in.mp4", pan(10))
    seen: list[None] = []
    restorer = PhotographRestorer(small_restorer, detector=Panning())
    _, record = restore_video(
        source,
        tmp_path / "out.mp4",
        restorer,
        RestoreOptions(scale=1.5),
        on_frame=lambda: seen.append(None),
    )
    assert (record.num_frames, len(seen), record.num_restored) == (10, 10, 10)
    [track] = record.tracks
    assert (track.first_frame, track.last_frame, track.flagged) == (0, 9, False)
    assert json.loads(json.dumps(asdict(record)))["frames_per_second"] == 10
    before, after = decoded(source), decoded(tmp_path / "out.mp4")
    assert after[0].shape == (480, 390, 3)
    x, y = (PORTRAIT.landmarks[2] * 1.5).astype(int)  # the nose
    for frame in range(10):
        left = x - round(1.5 * STEP * frame)
        small = before[frame][int(y / 1.5) - 10 : int(y / 1.5) + 10, int(left / 1.5)]
        assert np.abs(after[frame][y - 15 : y + 15, left].mean() - small.mean()) > 5


def test_smoothing_flickers_less_than_restoring_frame_by_frame(
    tmp_path: Path, small_restorer: FaceRestorer
) -> None:
    still = [PORTRAIT.image] * 8
    source = make_video(tmp_path / "in.mp4", still)

    class Trembling(Panning):
        def detect(self, image: Image) -> list[Detection]:
            [found] = super().detect(image)
            panned = np.array([STEP * (self.frame - 1), 0])
            return [found._replace(landmarks=found.landmarks + panned)]

    restorer = PhotographRestorer(small_restorer, detector=Trembling())
    restore_video(source, tmp_path / "out.mp4", restorer, RestoreOptions(), on_frame=lambda: None)
    smoothed = decoded(tmp_path / "out.mp4")
    restorer = PhotographRestorer(small_restorer, detector=Trembling())
    single = []
    for frame in decoded(source):
        single.append(
            restorer.restore(Photograph(frame, "png"), RestoreOptions()).photograph.pixels
        )
    similarity = align.fit(PORTRAIT.landmarks)
    flicker = [
        np.abs(np.diff([align.cut(f, similarity, 64).astype(int) for f in frames], axis=0)).mean()
        for frames in (single, smoothed)
    ]
    assert flicker[1] < 0.6 * flicker[0]


class Nobody:
    def detect(self, image: Image) -> list[Detection]:
        del image
        return []


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_in_which_nothing_is_restored_keeps_its_bytes(
    tmp_path: Path, small_restorer: FaceRestorer, suffix: str
) -> None:
    source = tmp_path / f"in{suffix}"
    make_video(tmp_path / "in.mp4", pan(3))
    if suffix == ".webm":
        words = ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-an")
        run_ffmpeg("-i", tmp_path / "in.mp4", *words, source)
    target = tmp_path / "out" / ("film.mp4" if suffix == ".mp4" else "film.mkv")
    restorer = PhotographRestorer(small_restorer, detector=Nobody())
    file, record = restore_video(source, target, restorer, RestoreOptions(), on_frame=lambda: None)
    assert file == tmp_path / "out" / f"film{suffix}"
    assert file.read_bytes() == source.read_bytes()
    assert list(file.parent.iterdir()) == [file]
    assert (record.num_frames, record.num_restored, record.tracks) == (3, 0, [])
    assert record.note == "no face was restored"


def test_what_is_reduced_is_said(tmp_path: Path, small_restorer: FaceRestorer) -> None:
    source = make_video(tmp_path / "in.mkv", [frame[:91, :91] for frame in pan(40)])
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    restorer = PhotographRestorer(small_restorer, detector=Nobody())
    _, record = restore_video(
        source,
        tmp_path / "out.mkv",
        restorer,
        RestoreOptions(scale=1.1),
        on_frame=lambda: None,
    )
    assert record.note is not None
    said = record.note.split("; ")
    assert said[:2] == ["no face was restored", "colours were halved in resolution"]
    assert said[2].startswith("100 x 100 was padded") or record.output_width % 2 == 0
    assert re.fullmatch(r"the film is cut off: it ends after \d\.\d of 4\.0 s", said[-1])


def test_a_video_goes_on_after_a_kill_with_the_same_result(
    tmp_path: Path, small_restorer: FaceRestorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_restoration, "PART", 8)
    source = make_video(tmp_path / "in.mp4", pan(20))

    def restore(target: Path, detector: Panning, kill_at: int | None = None) -> VideoRecord:
        seen: list[None] = []

        def on_frame() -> None:
            seen.append(None)
            if len(seen) == kill_at:
                raise KeyboardInterrupt

        restorer = PhotographRestorer(small_restorer, detector=detector)
        _, record = restore_video(source, target, restorer, RestoreOptions(), on_frame=on_frame)
        assert len(seen) == 20
        return record

    whole = restore(tmp_path / "whole.mp4", Panning())
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "out.mp4", Panning(), kill_at=13)
    assert not (tmp_path / "out.mp4").exists()
    rest = Panning(frame=8)  # only what was not finished is looked at again
    assert restore(tmp_path / "out.mp4", rest) == whole
    assert rest.frame == 20
    pairs = zip(decoded(tmp_path / "out.mp4"), decoded(tmp_path / "whole.mp4"), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert {file.name for file in tmp_path.iterdir()} == {"in.mp4", "out.mp4", "whole.mp4"}
