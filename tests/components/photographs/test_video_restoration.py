import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from components.faces import align
from components.faces.detect import Detection
from components.images import Image
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRestorer
from components.photographs.video_restoration import restore_video
from components.portraits import drawing
from tests.components.photographs.videos import decoded, make_video, needs_ffmpeg

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
    record = restore_video(
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


def test_a_video_without_faces_is_unchanged(tmp_path: Path, small_restorer: FaceRestorer) -> None:
    class Nobody:
        def detect(self, image: Image) -> list[Detection]:
            del image
            return []

    source = make_video(tmp_path / "in.mp4", pan(3))
    restorer = PhotographRestorer(small_restorer, detector=Nobody())
    record = restore_video(
        source, tmp_path / "out.mkv", restorer, RestoreOptions(), on_frame=lambda: None
    )
    assert (record.num_frames, record.num_restored, record.tracks) == (3, 0, [])
    assert record.note == "no face was restored"
    difference = np.stack(decoded(tmp_path / "out.mkv")).astype(int) - decoded(source)
    assert np.abs(difference).mean() < 3
