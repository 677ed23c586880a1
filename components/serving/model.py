"""A model of the endpoint: it restores faces, and loads new versions of its source.

A new version is loaded and tested while the present one still answers; then it replaces the present
one between two batches. A version that fails its test is not tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from components import images
from components.backbones.color_fix import ColorFix
from components.images import Image
from components.metrics.identity import IdentityAngle
from components.photographs.face_restorer import FaceRestorer, RestoredFace
from components.serving import self_test
from components.serving.refusal import Refused, another_version, not_ready, too_late

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """One version of a model; each answer names it."""

    name: str  # "hdrface/3" of a registry, or a folder's name
    fingerprint: str  # of the trained folder
    run_id: str | None = None  # of MLflow


@dataclass(frozen=True)
class FacesRequest:
    """The aligned faces of one request, in the model's size, uint8 (size, size, 3).

    `intermediates` are their first restorations, if the request brings them. `keys` are those of
    their noise; None: the faces' pixels are.
    """

    faces: Sequence[Image]
    fidelity: float | None = None
    color_fix: ColorFix | None = None
    intermediates: Sequence[Image] | None = None
    colorize: bool = False
    give_up_at: float = float("inf")  # seconds since the epoch: the client's deadline
    keys: Sequence[str] | None = None

    def part(self, start: int, stop: int) -> FacesRequest:
        """Return the same request for some of its faces."""
        firsts = None if self.intermediates is None else self.intermediates[start:stop]
        keys = None if self.keys is None else self.keys[start:stop]
        return replace(self, faces=self.faces[start:stop], intermediates=firsts, keys=keys)


@dataclass(frozen=True)
class FacesAnswer:
    """The restored faces of one request, their identity angles, and the version that did it."""

    faces: Sequence[RestoredFace]
    angles: Sequence[float] | None  # degrees; None: the server has no identity network
    version: Version


@dataclass(frozen=True)
class ModelState:
    """The state of a model, as `/v1/models` shows it."""

    name: str
    version: Version | None  # the one that restores now; None: not ready
    size: int | None  # pixels of a face
    problem: str  # why it is not ready, or why a new version is not used; "" otherwise


@dataclass(frozen=True)
class Loaded:
    version: Version
    restorer: FaceRestorer


@dataclass
class FollowingModel:
    """Restores with the newest version of a source that passed its self-test.

    `locate` finds the wanted version, cheaply; `load` loads it. Both raise OSError or ValueError
    naming what is missing.
    """

    locate: Callable[[], Version]
    load: Callable[[Version], FaceRestorer]
    min_psnr: float  # dB, of the self-test
    angle: IdentityAngle | None = None
    present: Loaded | None = None
    problem: str = "it is still being loaded"
    failed: dict[str, str] = field(default_factory=dict)  # reason by version
    _following: threading.Lock = field(default_factory=threading.Lock)

    def follow(self) -> None:
        """Look for a new version, and use it if it passes its self-test. Called repeatedly."""
        with self._following:
            try:
                version = self.locate()
                if self._is_new(version):
                    self._take(version)
            except Exception as error:  # noqa: BLE001 - a lost server must not end a loaded model
                self._report(str(error))

    def restore(self, asked: Sequence[FacesRequest]) -> list[FacesAnswer | Refused]:
        """Restore the faces of several requests as one batch; skip requests that are too late."""
        loaded = self.present
        if loaded is None:
            return [not_ready(self.problem)] * len(asked)
        now = time.time()
        answers: list[FacesAnswer | Refused] = [too_late()] * len(asked)
        groups: dict[tuple[float | None, ColorFix | None, bool, bool, bool], list[int]] = {}
        for index, one in enumerate(asked):
            if one.give_up_at > now:
                brings_firsts, brings_keys = one.intermediates is not None, one.keys is not None
                key = (one.fidelity, one.color_fix, one.colorize, brings_firsts, brings_keys)
                groups.setdefault(key, []).append(index)
        for indices in groups.values():
            some = [asked[index] for index in indices]
            for index, answer in zip(indices, self._restore(loaded, some), strict=True):
                answers[index] = answer
        return answers

    def state(self, name: str) -> ModelState:
        loaded = self.present
        if loaded is None:
            return ModelState(name, None, None, self.problem)
        return ModelState(name, loaded.version, loaded.restorer.size, self.problem)

    def _restore(
        self, loaded: Loaded, asked: Sequence[FacesRequest]
    ) -> Sequence[FacesAnswer | Refused]:
        """Restore the faces of requests that have the same options."""
        first = asked[0]
        squares = [face for one in asked for face in one.faces]
        firsts = [face for one in asked for face in one.intermediates or ()]
        keys = [key for one in asked for key in one.keys or ()]
        if any(len(square) != loaded.restorer.size for square in squares):
            return [another_version()] * len(asked)
        try:
            faces = loaded.restorer.restore(
                squares,
                fidelity=first.fidelity,
                color_fix=first.color_fix,
                keys=None if first.keys is None else keys,
                intermediates=None if first.intermediates is None else firsts,
                colorize=first.colorize,
            )
        except ValueError as error:  # an option that this model does not have
            return [Refused(422, "bad_options", str(error))] * len(asked)
        angles = self._angles(faces, squares)
        answers, start = [], 0
        for one in asked:
            own = slice(start, start + len(one.faces))
            start = own.stop
            answers.append(
                FacesAnswer(faces[own], None if angles is None else angles[own], loaded.version)
            )
        return answers

    def _angles(
        self, restored: Sequence[RestoredFace], squares: Sequence[Image]
    ) -> list[float] | None:
        if self.angle is None or not squares:
            return None
        after = images.to_tensor([face.image for face in restored])
        angles: list[float] = self.angle(after, images.to_tensor(squares)).tolist()
        return angles

    def _is_new(self, version: Version) -> bool:
        if self.present is not None and self.present.version == version:
            self.problem = ""
            return False
        return version.name not in self.failed

    def _take(self, version: Version) -> None:
        restorer = self.load(version)
        if reason := self_test.failure(restorer, self.min_psnr):
            self.failed[version.name] = reason
            kept = f"; {self.present.version.name} stays in use" if self.present else ""
            raise ValueError(f"{version.name} failed its self-test: {reason}{kept}")
        before = f" instead of {self.present.version.name}" if self.present else ""
        self.present, self.problem = Loaded(version, restorer), ""
        log.info("now restoring with %s%s", version.name, before)

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem
