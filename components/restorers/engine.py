"""How the networks of a trained folder are prepared for inference: the one place that does it.

`load_restorer` and `load_alone` call it. So commands, stages, the endpoint and the pipeline of
diffusers all restore with the same networks. A training prepares its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from components.backbones.backbone import Backbone, StepNoise
from components.backbones.upsampling import use_phases
from components.restorers.compiled import Compiled
from components.restorers.hdrface import HDRFace
from components.weights import lora
from components.weights.precision import Precision, settle

Step = Callable[[Tensor, Tensor, StepNoise | None], Tensor]


def prepare(
    restorer: HDRFace,
    device: torch.device,
    precision: Precision,
    compile_for: Sequence[int] = (),
) -> HDRFace:
    """Make a restorer that was just opened ready to restore on `device`, in place; return it.

    Nothing trains any more. What depends on the fixed timestep alone becomes constants. Low-rank
    layers become part of the weights that they change, except conditional ones, which act on half
    of the tokens. What enlarges in the decoder multiplies less. Such a restorer is the same
    function, and cannot be saved as it was trained.

    With `bf16`, matrices of generator, autoencoder and encoder are stored in bfloat16 and computed
    in it. The gate, normalisations and the restorer that comes first keep their numbers.

    `compile_for`: batch sizes. Encoder, autoencoder and generator are compiled for them, each when
    it is first called at a size.
    """
    backbone = restorer.backbone
    backbone.fold_time()
    backbone.vae.float()  # sums of weights are made in float32
    if restorer.spec.trainable == "lora":
        kept = torch.float32 if precision == "float32" else None
        lora.merge(backbone.generator, device, kept)
    use_phases(backbone.vae.decoder)
    if compile_for:
        backbone.allow_compiling(restorer.size)
    restorer.eval().requires_grad_(requires_grad=False)
    restorer.precision = precision
    _place(restorer, device, precision)
    if compile_for:
        _compile(restorer, compile_for)
    return restorer


def _place(restorer: HDRFace, device: torch.device, precision: Precision) -> None:
    """Bring each weight straight to the device, in the numbers in which it is kept."""
    backbone, encoder = restorer.backbone, restorer.encoder
    if precision == "float32" and device.type == "cpu":
        backbone.float()  # weights that are float32 already stay mapped from their files
    else:
        settle(backbone.modules(), precision, device)
    if precision == "bf16" and encoder is not None:
        settle(encoder.modules(), precision, device)
    restorer.to(device)


def _compile(restorer: HDRFace, sizes: Sequence[int]) -> None:
    backbone: Any = restorer.backbone
    backbone.encode = Compiled(backbone.encode, sizes)
    backbone.moments = Compiled(backbone.moments, sizes)
    backbone.decode = Compiled(backbone.decode, sizes)
    backbone.step = compiled_step(restorer.backbone, sizes)
    encoder: Any = restorer.encoder
    if encoder is not None:  # it sees two pictures of each face
        encoder.forward = Compiled(encoder.forward, [2 * size for size in sizes])


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
