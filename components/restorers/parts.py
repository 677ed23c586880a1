"""A restorer on Stable Diffusion, taken apart: each network as a function of tensors alone.

    encoder      picture_B3HW in [0, 1] -> tokens_BNC
    gate         sr_tokens_BNC, lq_tokens_BNC -> condition_BND, and for `sdfm` alpha_BN
    unet         latent_BCHW, condition_BND -> epsilon_BCHW
    vae_encoder  signed_B3HW in [-1, 1] -> mean_BCHW, not scaled
    vae_decoder  latent_BCHW, not scaled -> signed_B3HW, about in [-1, 1]

Under the condition `text` there is no encoder and no gate.

B batch, N tokens, C token width or latent channels, D condition width, H and W of the picture or of
the latent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.stable_diffusion import TIMESTEP, StableDiffusion
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import TextCondition, TokenCondition, mean_alpha
from components.restorers.hdrface import HDRFace

ROWS = 2  # of the inputs that a part is recorded with; one row is another batch


@dataclass(frozen=True)
class Part:
    """A network that stands alone, inputs to record it with, and what it must give for one row."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]  # ROWS random rows each
    outputs: Sequence[str]
    expected: Sequence[Tensor]  # by the restorer's own network, for the first row


def check(restorer: HDRFace) -> None:
    """Raise ValueError if there are no such parts of a restorer."""
    if not isinstance(restorer.backbone, StableDiffusion):
        raise ValueError(
            f"{restorer.name} is on {restorer.spec.backbone}: only restorers on sd21 are exported"
        )
    if restorer.spec.posterior != "mean":
        raise ValueError(
            f"{restorer.name} draws its latents (posterior: {restorer.spec.posterior}): only a "
            "restorer of posterior means is exported"
        )


@torch.no_grad()
def parts_of(restorer: HDRFace) -> Iterator[Part]:
    """Take a loaded restorer apart; its low-rank layers are part of the weights.

    Raises: ValueError, as `check`.
    """
    check(restorer)
    backbone: Any = restorer.backbone
    draw = torch.Generator().manual_seed(0)
    pictures_B3HW = torch.rand(ROWS, 3, restorer.size, restorer.size, generator=draw)
    signed_B3HW = 2 * pictures_B3HW - 1
    latent_BCHW = backbone.encode_mean(backbone.vae, signed_B3HW)
    condition_BND = _condition_like(restorer, draw)
    if restorer.encoder is not None and isinstance(restorer.condition, TokenCondition):
        tokens_BNC = restorer.encoder(pictures_B3HW)
        yield _part(
            "encoder",
            Encoder(restorer.encoder, restorer.size),
            {"picture": pictures_B3HW},
            {"tokens": restorer.encoder(pictures_B3HW[:1])},
        )
        other_BNC = torch.randn(tokens_BNC.shape, generator=draw)
        yield _gate(restorer.condition, tokens_BNC, other_BNC)
    generator = backbone.generator
    epsilon_1CHW = generator(latent_BCHW[:1], torch.tensor(TIMESTEP), condition_BND[:1]).sample
    inputs = {"latent": latent_BCHW, "condition": condition_BND}
    yield _part("unet", Generator(generator), inputs, {"epsilon": epsilon_1CHW})
    mean_1CHW = backbone.encode_mean(backbone.vae, signed_B3HW[:1])
    yield _part("vae_encoder", Encode(backbone), {"signed": signed_B3HW}, {"mean": mean_1CHW})
    decoded_13HW = backbone.decode_signed(backbone.vae, latent_BCHW[:1])
    yield _part("vae_decoder", Decode(backbone), {"latent": latent_BCHW}, {"signed": decoded_13HW})


class Encoder(nn.Module):
    """DINOv3 with its resizing as two products, since ONNX has no filter like PyTorch's."""

    mean: Tensor
    std: Tensor
    rows_sS: Tensor

    def __init__(self, encoder: DINOv3, size: int) -> None:
        super().__init__()
        self.network = encoder.network
        self.register_buffer("mean", encoder.mean)
        self.register_buffer("std", encoder.std)
        # Antialiased resizing is linear along each side: what it makes of the identity is its
        # matrix.
        identity_11SS = torch.eye(size)[None, None]
        resized = F.interpolate(
            identity_11SS,
            size=(encoder.input_size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        self.register_buffer("rows_sS", resized[0, 0])

    def forward(self, picture_B3HW: Tensor) -> Tensor:
        resized = self.rows_sS @ picture_B3HW @ self.rows_sS.T
        pixels = (resized - self.mean) / self.std
        tokens_BNC: Tensor = self.network(pixel_values=pixels).last_hidden_state
        return tokens_BNC


class Gate(nn.Module):
    """The condition of tokens, and the gate's mean over channels."""

    def __init__(self, condition: TokenCondition) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, sr_tokens_BNC: Tensor, lq_tokens_BNC: Tensor) -> tuple[Tensor, ...]:
        condition_BND, alpha_BNC = self.condition(sr_tokens_BNC, lq_tokens_BNC)
        return (condition_BND,) if alpha_BNC is None else (condition_BND, mean_alpha(alpha_BNC))


class Generator(nn.Module):
    """The UNet at its one timestep."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor) -> Tensor:
        timestep = torch.tensor(TIMESTEP, device=latent_BCHW.device)
        epsilon_BCHW: Tensor = self.generator(latent_BCHW, timestep, condition_BND).sample
        return epsilon_BCHW


class Encode(nn.Module):
    """The autoencoder's first half: the mean of its posterior."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.vae, self._mean = backbone.vae, backbone.encode_mean

    def forward(self, signed_B3HW: Tensor) -> Tensor:
        mean_BCHW: Tensor = self._mean(self.vae, signed_B3HW)
        return mean_BCHW


class Decode(nn.Module):
    """The autoencoder's second half."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.vae, self._decode = backbone.vae, backbone.decode_signed

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        signed_B3HW: Tensor = self._decode(self.vae, latent_BCHW)
        return signed_B3HW


def _condition_like(restorer: HDRFace, draw: torch.Generator) -> Tensor:
    """Draw a condition of the restorer's shape."""
    if isinstance(restorer.condition, TextCondition):
        length = restorer.condition.prompt_LC.shape[0]
    else:
        assert restorer.encoder is not None  # a condition of tokens has one
        config: Any = restorer.encoder.network.config
        length = 1 + config.num_register_tokens + restorer.encoder.patches_per_side**2
    return torch.randn(ROWS, length, restorer.backbone.condition_width, generator=draw)


def _gate(condition: TokenCondition, sr_BNC: Tensor, lq_BNC: Tensor) -> Part:
    module = Gate(condition)
    expected = module(sr_BNC[:1], lq_BNC[:1])
    names = ("condition", "alpha")[: len(expected)]
    inputs = {"sr_tokens": sr_BNC, "lq_tokens": lq_BNC}
    return _part("gate", module, inputs, dict(zip(names, expected, strict=True)))


def _part(
    name: str, module: nn.Module, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Part:
    return Part(name, module.eval(), inputs, list(expected), list(expected.values()))
