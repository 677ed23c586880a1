"""How the networks of a trained folder are prepared for inference: the one place that does it.

`load_restorer` and `load_alone` call it. So commands, stages, the endpoint and the pipeline of
diffusers all restore with the same networks. A training prepares its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.backbone import Backbone, StepNoise
from components.backbones.large_tensors import write_over
from components.backbones.single_frame import keep_last_slices
from components.backbones.upsampling import use_phases
from components.backbones.wide_convolution import use_wide_convolutions
from components.encoders.dinov3 import DINOv3
from components.hashes import sha256_of
from components.restorers.compiled import Compiled
from components.restorers.hdrface import HDRFace
from components.weights import lora
from components.weights.int8 import keep_in_int8
from components.weights.network_files import FILE
from components.weights.precision import InferencePrecision, settle

Step = Callable[[Tensor, Tensor, StepNoise | None], Tensor]


@dataclass(frozen=True)
class Way:
    """Where and how networks compute at inference.

    compile_for: batch sizes of faces. Encoder, autoencoder and generator are compiled for them,
        each when it is first called at a size.
    """

    device: torch.device
    precision: InferencePrecision = "float32"
    compile_for: tuple[int, ...] = ()

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name: keyword arguments of `load_restorer`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def prepare(restorer: HDRFace, way: Way, *, preview: Path | None = None) -> HDRFace:
    """Make a restorer that was just opened ready to restore, in place; return it.

    Nothing trains any more. What depends on the fixed timestep alone becomes constants. Low-rank
    layers become part of the weights that they change, except conditional ones, which act on half
    of the tokens. What enlarges in the decoder multiplies less, and what never meets data is left
    out. Such a restorer is the same function, and cannot be saved as it was trained.

    With `bf16`, matrices of generator and autoencoder are stored in bfloat16 and computed in it.
    The gate, normalisations and the restorer that comes first keep their numbers. The encoder is
    prepared by itself, since several restorers may have one. With `int8`, it is the same, but
    matrices of the generator's linear layers are kept in 8 bits. Convolutions stay bfloat16.

    With `preview`, the folder of a tiny decoder, its pictures are rough ones, and it says so.

    Raises: FileNotFoundError or ValueError if that folder holds no tiny decoder of its family.
    """
    backbone = restorer.backbone
    if preview is not None:
        _decode_roughly(restorer, preview)
    backbone.fold_time()
    backbone.vae.float()  # sums of weights are made in float32
    if restorer.spec.trainable == "lora":
        _merge(backbone.generator, way)
    if preview is None:
        use_phases(backbone.vae.decoder)
    keep_last_slices(backbone)
    restorer.eval().requires_grad_(requires_grad=False)
    restorer.precision = way.precision
    if way.compile_for:
        backbone.allow_compiling(restorer.size)
    if way.precision == "float32" and way.device.type == "cpu":
        backbone.float()  # weights that are float32 already stay mapped from their files
    else:  # each weight goes straight to the device, in the numbers in which it is kept
        _settle(backbone, way)
    restorer.to(way.device)
    if way.compile_for:
        _compile(backbone, way.compile_for)
    return restorer


def suit_processor(restorer: HDRFace, way: Way) -> None:
    """Let a prepared restorer on a CPU compute in a processor's manner, in place.

    In float32, wide convolutions multiply less or read less. Networks that have some lay pictures
    channels last and make few large tensors. It is the same function, and such networks can no
    longer be recorded for an export. What is compiled stays as it is.
    """
    if way.device.type != "cpu" or way.precision != "float32" or way.compile_for:
        return
    for network in (restorer.backbone.vae, restorer.backbone.generator):
        is_of_videos = any(isinstance(layer, nn.Conv3d) for layer in network.modules())
        if not is_of_videos and use_wide_convolutions(network):
            network.to(memory_format=torch.channels_last)
            write_over(network)


def _decode_roughly(restorer: HDRFace, folder: Path) -> None:
    restorer.backbone.use_tiny_decoder(folder)
    restorer.is_preview = True
    # It is another restorer now: no cache takes its pictures for those of the trained folder.
    named = f"{restorer.fingerprint} {sha256_of(folder / FILE)}"
    restorer.fingerprint = hashlib.sha256(named.encode()).hexdigest()


def prepare_encoder(encoder: DINOv3, way: Way) -> DINOv3:
    """Make an encoder that was just opened ready, in place; return it."""
    if way.precision != "float32":
        settle(encoder.modules(), "bf16", way.device)
    encoder.to(way.device)
    if way.compile_for:  # it sees two pictures of each face
        compiled: Any = encoder
        compiled.forward = Compiled(encoder.forward, [2 * size for size in way.compile_for])
    return encoder


def _merge(generator: Any, way: Way) -> None:
    """Merge low-rank layers. What is kept in 8 bits is rounded once, from the sum in float32."""
    if way.precision == "int8":
        in_8_bits = partial(keep_in_int8, device=way.device)
        lora.merge(generator, way.device, torch.float32, then=in_8_bits)
    else:
        kept = torch.float32 if way.precision == "float32" else None
        lora.merge(generator, way.device, kept)


def _settle(backbone: Backbone, way: Way) -> None:
    if way.precision == "int8":
        for layer in list(backbone.generator.modules()):
            keep_in_int8(layer, way.device)
    settle(backbone.modules(), "float32" if way.precision == "float32" else "bf16", way.device)


def _compile(backbone: Any, sizes: Sequence[int]) -> None:
    backbone.encode = Compiled(backbone.encode, sizes)
    backbone.moments = Compiled(backbone.moments, sizes)
    backbone.decode = Compiled(backbone.decode, sizes)
    backbone.step = compiled_step(backbone, sizes)


def compiled_step(backbone: Backbone, sizes: Sequence[int]) -> Step:
    """Return the backbone's step, compiled; it takes what the step takes."""
    step = backbone.step

    def of_tensors(latent_BCHW: Tensor, condition_BND: Tensor, *noise: Tensor) -> Tensor:
        return step(latent_BCHW, condition_BND, StepNoise(*noise) if noise else None)

    compiled = Compiled(of_tensors, sizes, blocks=backbone.repeated_blocks())

    def of_noise(latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None) -> Tensor:
        drawn = () if noise is None else (noise.noise_BCHW, noise.condition_sigma_B)
        return compiled(latent_BCHW, condition_BND, *drawn)

    return of_noise
