"""What the imports of all published layouts share: what a folder names, and how it is written."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from components.backbones.backbone import Backbone
from components.restorers.catalogue import FOLDER, kind_of
from components.restorers.folder import save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need
from components.weights import lora
from components.weights.checkpoints import shapes_of
from components.weights.formats import PublishedFolder
from components.weights.licences import licence_of
from components.weights.store import WeightsFolder, open_model, open_weights

SEED = 42  # of samples of the posterior; the reference's


def refuse_existing(out: Path) -> None:
    """Raise FileExistsError if there is something already."""
    if out.exists():
        raise FileExistsError(f"{out} is there already: name a new folder")


def compare_lora(published: PublishedFolder, backbone: Backbone) -> None:
    """Note what keeps the published LoRA layers from fitting the backbone's generator."""
    layers = lora.renamed(published.files[lora.FILE])
    if not layers:
        published.wrong.append(f"{lora.FILE} holds no tensors")
    places = lora.places(backbone.generator, backbone.generator_folder, shapes_of(layers))
    published.compare(lora.FILE, layers, places)


def weights_need(folder: Path, opened: WeightsFolder, out: Path) -> Need:
    """Name a folder of weights by hash, with its place as seen from `out`."""
    hint = os.path.relpath(folder, out)
    return Need(name=opened.name, fingerprint=opened.fingerprint, hint=hint)


class Standing(NamedTuple):
    """What a folder of HDRFace's weights stands on."""

    backbone: Path  # the layout of the backbone's weights
    needs: dict[str, Need]
    licences: list[str]
    token_width: int  # of DINOv3
    encoder_size: int  # pixels that it was trained on, 224, and that the reference feeds


def stand_on(
    base: Path, encoder: Path | None, intermediate: Path | None, out: Path, *, size: int
) -> Standing:
    """Open the networks that HDRFace's weights need.

    Raises: FileNotFoundError or ValueError naming what is missing or damaged.
    """
    if encoder is None:
        raise ValueError("HDRFace looks at faces with DINOv3-L: add --encoder data/weights/dinov3")
    weights, faces = open_weights(base), open_weights(encoder)
    needs = {
        "backbone": weights_need(base, weights, out),
        "encoder": weights_need(encoder, faces, out),
    }
    licences = [f"HDRFace: {licence_of('HDRFace')}", weights.licence, faces.licence]
    if intermediate is not None:
        needs["intermediate"], others = restorer_need(intermediate, out, size=size)
        licences.extend(others)
    sizes = json.loads(faces.path("config.json").read_text(encoding="utf-8"))
    return Standing(weights.root, needs, licences, sizes["hidden_size"], sizes["image_size"])


def restorer_need(folder: Path, out: Path, *, size: int) -> tuple[Need, Sequence[str]]:
    """Name a restorer folder by hash; also return its licences.

    Raises: FileNotFoundError or ValueError if it is damaged, holds pictures only, or restores faces
        of another size.
    """
    described = open_model(folder)
    if kind_of(described) == FOLDER:
        raise ValueError(
            f"{folder} holds pictures and restores no new faces: omit --intermediate, and give "
            "first restorations with the faces"
        )
    if (found := described.content.get("size", size)) != size:
        raise ValueError(
            f"{folder} restores faces of {found} pixels, not of {size}: name another --intermediate"
        )
    hint = os.path.relpath(folder, out)
    need = Need(name=folder.name, fingerprint=described.fingerprint, hint=hint)
    return need, described.content["licences"]


def write_imported(
    restorer: HDRFace,
    out: Path,
    published: PublishedFolder,
    *,
    layout: str,
    needs: Mapping[str, Need],
    licences: Sequence[str],
) -> dict[str, int]:
    """Write the folder, which appears when it is complete; return the tensors read of each file."""
    imported = {"layout": layout, "files": published.hashes()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        folder = Path(beside) / out.name
        save_restorer(
            restorer, folder, needs=needs, licences=licences, lineage={"imported": imported}
        )
        folder.rename(out)
    return {name: len(tensors) for name, tensors in published.files.items()}
