"""Stage `weights@NETWORK`: get one pretrained network, or make a small stand-in of its class.

reads   faces              the train and test faces, for stand-ins that are trained
writes  data/weights/N     manifest.json, and a stand-in's files in the published layout; published
                           weights stay in the hub's cache or their folder, with links in the store

On a machine that has only the manifest (after `dvc pull`), running it fetches the files that the
manifest names and changes nothing else.
"""

import logging
import shutil
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import model_validator

from components import images, tables
from components.backbones.catalogue import FAMILIES
from components.discriminators.catalogue import discriminator_named
from components.params import Params
from components.tables import unfinished
from components.training import stand_ins
from components.training.stand_ins import StandInParams
from components.weights import fetch
from components.weights.fetch import PublishedParams
from components.weights.licences import STAND_IN
from components.weights.manifest import write_manifest
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "weights.{network}"


class WeightsParams(Params):
    """One network: a stand-in made here, or published weights."""

    out: Path
    faces: Path | None = None  # the table that a stand-in is trained on
    stand_in: StandInParams | None = None
    published: PublishedParams | None = None

    @model_validator(mode="after")
    def _exactly_one_origin(self) -> Self:
        if (self.stand_in is None) == (self.published is None):
            raise ValueError("give exactly one of 'stand_in' and 'published'")
        return self


def run(params: WeightsParams, network: str) -> str:
    """Make the folder `params.out` of one network; return the fingerprint of the weights.

    Raises: what `components.weights.fetch.publish` says; LockedError if another process writes it.
    """
    with unfinished.lock(params.out):
        if params.published and fetch.matches(params.out, params.published):
            fingerprint = fetch.complete(params.out, params.published)
            log.info("weights %s: %s is complete (%s)", network, params.out, fingerprint[:12])
            return fingerprint
        partial = params.out.with_name(f"{params.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # half of an interrupted run is worth nothing
        partial.mkdir(parents=True)
        if params.published:
            encode_prompt = _prompt_encoder(network)
            fingerprint = fetch.publish(partial, network, params.published, encode_prompt)
        else:
            fingerprint = _make_stand_in(partial, params, network)
        if params.out.exists():
            shutil.rmtree(params.out)
        partial.rename(params.out)
    log.info("weights %s: %s (%s)", network, params.out, fingerprint[:12])
    return fingerprint


def _prompt_encoder(network: str) -> fetch.EncodePrompt | None:
    """Return what encodes the constant prompt of a network, where its kind can have one."""
    if (discriminator := discriminator_named(network)) is not None:
        return discriminator.encode_prompt
    if (family := FAMILIES.get(network)) is None:
        return None
    return lambda layout, text: {"prompt": family.prompt(layout, text)}


def _make_stand_in(folder: Path, params: WeightsParams, network: str) -> str:
    assert params.stand_in is not None, "checked by the parameters"
    faces = {split: _faces(params, split) for split in ("train", "test")}
    facts = stand_ins.make(network, params.stand_in, faces, folder)
    for fact, value in facts.items():
        log.info("weights %s: %s = %s", network, fact, value)
    return write_manifest(
        folder,
        name=network,
        kind="stand-in",
        source="made by components.training.stand_ins",
        revision=None,
        licence=STAND_IN,
        facts=facts,
    )


def _faces(params: WeightsParams, split: str) -> np.ndarray:
    """Read the faces of one split: (N, H, W, 3) uint8; none if the stand-in is not trained."""
    none = np.empty((0, 0, 0, 3), np.uint8)
    if params.faces is None:
        return none
    rows = tables.Table.open(params.faces).read(columns=["split", "hq_png"], where=("split", split))
    pictures = [images.decode_png(data) for data in rows["hq_png"].to_pylist()]
    return np.stack(pictures) if pictures else none


if __name__ == "__main__":
    stage.start("pipelines.weights")
