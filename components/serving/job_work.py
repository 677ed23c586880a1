"""Restore one file of a job with the parts of the endpoint: a picture, or a video."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from components import images
from components.backbones.color_fix import ColorFix
from components.faces.detect import Detection
from components.images import Image
from components.photographs.face_restorer import FaceRestorer, RestoredFace
from components.photographs.ffmpeg import VideoError
from components.photographs.photograph import SUFFIXES
from components.photographs.restoration import PhotographRestorer
from components.photographs.video_info import probe
from components.photographs.video_restoration import restore_video
from components.serving import requests
from components.serving.guard import Event
from components.serving.job_files import Job, Result, refused
from components.serving.model import FacesRequest
from components.serving.refusal import Refusal, Refused, too_late
from components.serving.requests import Body, RequestOptions
from components.serving.steps import Steps

T = TypeVar("T")

log = logging.getLogger(__name__)

_PASSES = (429, 503, 504)  # statuses of a server that is busy, or not ready yet
_AGAIN_AFTER_S = 1.0
_VIDEO = ".mp4"  # what is restored; what is not keeps its kind
_MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
}


class JobWork:
    """Restores files of jobs; a busy server is asked again, as long as the job may take."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._parts = steps, steps.parts

    async def __call__(
        self, job: Job, data: bytes, give_up_at: float, said: Callable[[str], None]
    ) -> tuple[Result, bytes]:
        """See `components.serving.jobs.Restores`."""
        started = time.perf_counter()
        model, status, num_restored = "", 200, 0
        try:
            asked = requests.options(job.options)
            model = self._steps.model_name(asked.model)
            if job.is_video:
                done, num_restored = await self._video(model, data, asked, give_up_at, said)
            else:
                done, num_restored = await self._picture(model, data, asked, give_up_at, said)
        except Exception as error:  # noqa: BLE001 - one file's fault must not end the others
            refusal = _why(error)
            status, done = refusal.status, (refused(refusal), b"")
        self._parts.count(Event(model, status, time.perf_counter() - started, num_restored))
        return done

    async def _picture(
        self,
        model: str,
        data: bytes,
        asked: RequestOptions,
        give_up_at: float,
        said: Callable[[str], None],
    ) -> tuple[tuple[Result, bytes], int]:
        limit_s = self._steps.limits.timeout_s

        async def once() -> Any:
            deadline = min(give_up_at, time.time() + limit_s)
            async with asyncio.timeout(deadline - time.time()):
                return await self._steps.restore(model, Body(data), asked, deadline)

        answer = await _patiently(once, give_up_at, said)
        kind = answer.media_type.removeprefix("image/")
        record = asdict(answer.record)
        result = Result(answer.media_type, SUFFIXES[kind], len(answer.file), record)
        return (result, answer.file), answer.record.num_restored

    async def _video(
        self,
        model: str,
        data: bytes,
        asked: RequestOptions,
        give_up_at: float,
        said: Callable[[str], None],
    ) -> tuple[tuple[Result, bytes], int]:
        if asked.max_angle is not None:
            raise Refusal(422, "bad_options", "max_angle: not measured in videos by this server")
        size = await _patiently(lambda: self._steps.size(model), give_up_at, said)
        far = _Far(self._steps, model, size, give_up_at, said)
        # It asks the far restorer and detector for all that those in this process would do.
        restorer = PhotographRestorer(cast(FaceRestorer, far), detector=far)
        options = asked.restoring()
        with tempfile.TemporaryDirectory(prefix="hdrface-video-") as folder:
            source, target = Path(folder, "source"), Path(folder, f"restored{_VIDEO}")
            source.write_bytes(data)
            info = await asyncio.to_thread(probe, source)
            source = source.rename(source.with_suffix(info.suffix))
            most, num_frames = info.num_frames, 0

            def on_frame() -> None:
                nonlocal num_frames
                num_frames += 1
                said(f"{num_frames} of {most or '?'} frames")

            file, record = await asyncio.to_thread(
                restore_video, source, target, restorer, options, on_frame=on_frame
            )
            restored = file.read_bytes()
        kind = _MEDIA_TYPES.get(file.suffix, "application/octet-stream")
        result = Result(kind, file.suffix, len(restored), asdict(record))
        return (result, restored), record.num_restored


class _Far:
    """A restorer of faces and a detector for a thread, which ask those in other processes."""

    def __init__(
        self,
        steps: Steps,
        model: str,
        size: int,
        give_up_at: float,
        said: Callable[[str], None],
    ) -> None:
        self._parts, self._model, self.size = steps.parts, model, size
        self.fingerprint = model  # for the parts of a film, which no later job finds
        self._give_up_at, self._said = give_up_at, said
        self._loop = asyncio.get_running_loop()

    def check(self, fidelity: float | None, *, are_given: bool = False) -> None:
        """Leave it to the model, which is asked with the first faces."""

    def detect(self, image: Image) -> list[Detection]:
        return self._ask(lambda: self._parts.detect(image))

    def restore(
        self,
        faces: Sequence[Image],
        *,
        fidelity: float | None,
        color_fix: ColorFix | None,
        keys: Sequence[str],
        colorize: bool,
    ) -> list[RestoredFace]:
        if not faces:
            return []
        asked = FacesRequest(
            faces,
            fidelity,
            color_fix,
            colorize=colorize,
            give_up_at=self._give_up_at,
            keys=list(keys),
        )
        answer = self._ask(lambda: self._parts.restore(self._model, asked))
        return list(answer.faces)

    def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        asked = _patiently(call, self._give_up_at, self._said)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


async def _patiently(
    call: Callable[[], Coroutine[Any, Any, T]], give_up_at: float, said: Callable[[str], None]
) -> T:
    """Ask until the server is not busy. Raises: Refusal."""
    while True:
        try:
            return await call()
        except (Refusal, TimeoutError) as error:
            refusal = error.refused if isinstance(error, Refusal) else too_late()
            if refusal.status not in _PASSES or time.time() + _AGAIN_AFTER_S > give_up_at:
                raise refusal.refusal() from None
        said("")  # raises if the job was deleted
        await asyncio.sleep(_AGAIN_AFTER_S)


def _why(error: Exception) -> Refused:
    match error:
        case Refusal():
            return error.refused
        case images.ImageError():
            return Refused(422, "bad_picture", str(error))
        case VideoError():
            return Refused(422, "bad_video", str(error))
        case ValueError():
            return Refused(422, "bad_options", str(error))
    log.error("a file of a job failed", exc_info=error)
    return Refused(500, "failed", "the server failed on this file: its log has the reason")
