"""Stage `faces`: cut every face of a folder or S3 prefix, aligned and of one size (METHOD 7).

reads   source  pictures; beside them, if there, `split.csv` and `landmarks.csv`
writes  faces   face_id: str, file: str (in the source), split: "train" or "test",
                hq_png: bytes (RGB, size x size)
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
from pydantic import Field, PositiveInt

from components import images, tables
from components.faces import detect, landmarks, split
from components.faces.cutter import CANDIDATE_SCORE, FaceCutter
from components.faces.landmarks import Landmarks
from components.faces.source import (
    Picture,
    Source,
    UnreadableError,
    open_shared,
    open_source,
    read_split,
    share,
)
from components.params import Compute, Params
from components.storage import Storage, data_root
from components.weights.shared import SharedFile, share_file
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "faces"
SCHEMA = pa.schema(
    [
        ("face_id", pa.string()),
        ("file", pa.string()),
        ("split", pa.string()),
        ("hq_png", pa.binary()),
    ]
)


class FacesParams(Params):
    source: str  # a folder or s3://bucket/prefix
    faces: Path
    aligned: bool  # the pictures are aligned faces already: take them whole, detect nothing
    detector: Path | None  # an ONNX file, SCRFD or YuNet; not needed where landmarks are given
    size: Annotated[int, Field(ge=images.MIN_SIDE)]
    min_face: PositiveInt  # pixels of the photograph: half of the square that is cut out
    test_percent: Annotated[float, Field(ge=0, le=100)]  # of files that no split.csv names
    files_per_shard: PositiveInt


class Task(NamedTuple):
    """One picture and what is known about it."""

    picture: Picture
    split: split.Split
    landmarks: Sequence[Landmarks]


class FaceMaker:
    """Make one shard of a slice of the source."""

    def __init__(
        self,
        *,
        source: str | Storage,
        detector: SharedFile | None,
        size: int,
        min_face: int,
        aligned: bool,
    ) -> None:
        self._source = open_shared(source)
        network = None
        if detector is not None:
            network = detect.open_detector(detector.local(), min_score=CANDIDATE_SCORE)
        self._cutter = FaceCutter(size=size, min_face=min_face, aligned=aligned, detector=network)

    def __call__(self, work: Sequence[Task]) -> tables.Made:
        rows: list[dict[str, str | bytes]] = []
        rejected: list[tables.Rejection] = []
        for task in work:
            file = task.picture.name
            try:
                data = self._source.read(task.picture)
            except UnreadableError as error:
                rejected.append(tables.Rejection(file, str(error)))
                continue
            faces, reasons = self._cutter.cut(file, data, task.landmarks)
            rejected += [tables.Rejection(file, reason) for reason in reasons]
            rows += [
                {
                    "face_id": face.face_id,
                    "file": file,
                    "split": task.split,
                    "hq_png": images.encode_png(face.hq),
                }
                for face in faces
            ]
        return tables.Made(pa.Table.from_pylist(rows, schema=SCHEMA), rejected)


def run(params: FacesParams, compute: Compute) -> tables.Table:
    """Make the table `faces`.

    Raises: ValueError if the source, or what lies beside it, cannot be used, or holds no usable
    face: it says what was tried.
    """
    source = open_source(params.source)
    tasks = list_tasks(source, params)
    inputs = {"source": _fingerprint(tasks)}
    detector = None
    if params.detector is not None and not params.aligned:
        # Fail here, not in a worker.
        detect.open_detector(params.detector.resolve(), min_score=CANDIDATE_SCORE)
        detector = share_file(params.detector.resolve())
        inputs["detector"] = detector.sha256
    step = params.files_per_shard
    table = tables.build(
        params.faces,
        stage="faces",
        params=params,
        inputs=inputs,
        module="pipelines.faces",
        work=[tasks[start : start + step] for start in range(0, len(tasks), step)],
        maker=FaceMaker,
        maker_args={
            "source": share(params.source, [task.picture for task in tasks], data_root()),
            "detector": detector,
            "size": params.size,
            "min_face": params.min_face,
            "aligned": params.aligned,
        },
        compute=compute,
    )
    _check(table, params)
    return table


def list_tasks(source: Source, params: FacesParams) -> list[Task]:
    """List the pictures with their split and landmarks. Raises: ValueError as `run` says."""
    pictures = source.pictures()
    splits = read_split(source)
    given = landmarks.parse(source.text(landmarks.FILE) or ",".join(landmarks.COLUMNS))
    if not (given or params.aligned or params.detector):
        raise ValueError(
            f"{params.source} has no {landmarks.FILE}, so its faces must be found: set "
            "faces.detector to an SCRFD or YuNet ONNX file, or faces.aligned to true if every "
            "picture is an aligned face already"
        )
    names = {picture.name for picture in pictures}
    for file, named in ((split.FILE, splits.keys()), (landmarks.FILE, given.keys())):
        if missing := sorted(named - names):
            log.warning("%s names %d files that are not there: %s", file, len(missing), missing[:3])
    return [
        Task(
            picture,
            splits.get(picture.name) or split.by_name(picture.name, params.test_percent),
            given.get(picture.name, ()),
        )
        for picture in pictures
    ]


def _fingerprint(tasks: Sequence[Task]) -> str:
    listing = [
        [*task.picture, task.split, [points.tolist() for points in task.landmarks]]
        for task in tasks
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _check(table: tables.Table, params: FacesParams) -> None:
    if table.num_rows == 0:
        reasons = Counter(rejection.reason for rejection in table.rejected).most_common(3)
        seen = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        how = "aligned" if params.aligned else f"detector {params.detector}"
        raise ValueError(
            f"no usable face in {params.source} ({how}): all of {len(table.rejected)} were "
            f"rejected: {seen}"
        )
    counts = Counter(table.read(columns=["split"])["split"].to_pylist())
    log.info("faces: %d to train, %d to test", counts["train"], counts["test"])
    for missing in {"train", "test"} - counts.keys():
        log.warning(
            "no face in the split %r: add pictures, a split.csv, or change faces.test_percent",
            missing,
        )


if __name__ == "__main__":
    stage.start("pipelines.faces")
