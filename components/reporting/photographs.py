"""Pictures of a folder, of which aligned faces are cut out."""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from components.faces import landmarks
from components.faces.cutter import CANDIDATE_SCORE, Face, FaceCutter
from components.faces.detect import Detector, open_detector
from components.faces.source import UnreadableError, open_shared, open_source, share
from components.reporting.face_sets import Rejection
from components.storage import Storage
from components.weights.shared import SharedFile


class Photographs:
    """A folder of pictures with faces; it can be sent to workers.

    Square pictures count as FFHQ-aligned faces, unless there is a detector; those in the folder's
    `landmarks.csv` are aligned first.
    """

    def __init__(self, place: Path, detector: SharedFile | None) -> None:
        """List a folder. Raises: SourceError, or as `landmarks.parse`."""
        self._place, self._detector_file = str(place), detector
        source = open_source(self._place)
        self._source = open_shared(self._place)
        self._given = landmarks.parse(source.text(landmarks.FILE) or ",".join(landmarks.COLUMNS))
        self._pictures = {picture.name: picture for picture in source.pictures()}

    def names(self) -> list[str]:
        """List the pictures in order."""
        return list(self._pictures)

    def shared(self, root: Storage | None) -> Self:
        """Return the same for workers, which read it in this data root, or where it lies."""
        found = copy.copy(self)
        found._source = open_shared(share(self._place, list(self._pictures.values()), root))
        return found

    def faces(self, names: Sequence[str], size: int, rejected: list[Rejection]) -> Iterator[Face]:
        """Cut the faces of some pictures; what cannot be used goes to `rejected`."""
        # An aligned square is twice as wide as its face; an enlarged picture would not be the
        # truth.
        whole, photograph = (
            FaceCutter(size=size, min_face=size // 2, aligned=aligned, detector=self._detector)
            for aligned in (True, False)
        )
        for name in names:
            points = self._given.get(name, ())
            try:
                data = self._source.read(self._pictures[name])
            except UnreadableError as error:
                rejected.append((name, str(error)))
                continue
            cutter = photograph if points or self._detector is not None else whole
            cut = cutter.cut(name, data, points)
            rejected += [(name, reason) for reason in cut.reasons]
            yield from cut.faces

    @cached_property
    def _detector(self) -> Detector | None:
        """Open the detector where faces are cut."""
        if self._detector_file is None:
            return None
        return open_detector(self._detector_file.local(), min_score=CANDIDATE_SCORE)
