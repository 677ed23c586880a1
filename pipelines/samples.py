"""Stage `samples`: write pictures for a first run (`components.portraits.samples`).

reads   nothing
writes  a folder: pictures, `landmarks.csv`, `LICENCES.txt`
"""

import logging
import shutil
from itertools import chain
from pathlib import Path

from pydantic import NonNegativeInt

from components.faces import landmarks
from components.params import Params
from components.portraits import samples
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "samples"


class SamplesParams(Params):
    out: Path
    count: NonNegativeInt  # of drawn portraits, beside the few that packages carry
    seed: int


def run(params: SamplesParams) -> None:
    """Write the folder, whole or not at all; the same parameters give the same bytes."""
    partial = params.out.with_name(f"{params.out.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    faces: dict[str, list[landmarks.Landmarks]] = {}
    for sample in chain(samples.carried(), samples.drawn(params.seed, params.count)):
        (partial / sample.name).write_bytes(sample.data)
        faces[sample.name] = sample.landmarks
    (partial / landmarks.FILE).write_text(landmarks.write(faces), encoding="utf-8")
    (partial / "LICENCES.txt").write_text(samples.LICENCES, encoding="utf-8")
    if params.out.exists():
        shutil.rmtree(params.out)
    partial.rename(params.out)
    log.info("samples: %d pictures in %s", len(faces), params.out)


if __name__ == "__main__":
    stage.start("pipelines.samples")
