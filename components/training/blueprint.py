"""The parts of a training, built from sizes on the meta device and counted: no weights are needed.

B batch (one row), C latent channels, N condition tokens, W their width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.backbone import Backbone, encoding_parts
from components.backbones.catalogue import FAMILIES, BackboneName
from components.discriminators.catalogue import DISCRIMINATORS
from components.encoders.arcface import ArcFace, IResNet
from components.encoders.stored_tokens import StoredTokens, stored_bytes
from components.fusion.condition import TokenCondition, TrainableConditionName
from components.training.adversary import Adversary
from components.training.cost import Cost, forward_cost, frozen_numbers, numbers, step_cost
from components.training.memory import Part
from components.training.training_params import TrainingParams

_META = torch.device("meta")
_RELU5_3 = 30  # layers of VGG-16 that LPIPS and DISTS use


@dataclass(frozen=True)
class Sizes:
    """What a training is built from: pixels of a face, and sizes as stand-ins have them.

    backbone: `vae`, `generator`, `prompt`; discriminator: `discriminator`, perhaps `prompt`;
    encoder: `encoder`, and the pixels that it sees; both are None for the condition `text`.
    tokens: their form in the table of features.
    """

    side: int
    backbone: Mapping[str, Any]
    discriminator: Mapping[str, Any] | None = None
    encoder: Mapping[str, Any] | None = None
    encoder_side: int | None = None
    tokens: StoredTokens = "float16"


@dataclass(frozen=True)
class Counted:
    """One part of a training and what it costs: `cost` of one row in a step."""

    part: Part
    cost: Cost
    parameters: int  # of the part, trained or not


@dataclass(frozen=True)
class Blueprint:
    """A training, counted.

    parts: of a step, in the order of the step.
    once: what a row costs before the training, for the table of features.
    row_bytes: tokens and latents of a row of that table; 0 for a training on pairs.
    """

    parts: tuple[Counted, ...]
    once: tuple[Counted, ...]
    num_tokens: int
    row_bytes: int

    @property
    def step(self) -> int:
        """Operations of one row in a step."""
        return sum(counted.cost.step for counted in self.parts)


def blueprint(
    params: TrainingParams, backbone: BackboneName, condition: TrainableConditionName, sizes: Sizes
) -> Blueprint:
    """Build and count a training. Raises: ValueError naming sizes that are missing."""
    family = FAMILIES[backbone].of_sizes(
        _given(sizes.backbone, "vae"), _given(sizes.backbone, "generator")
    )
    if params.time_vectors:
        family.fold_time()
    family.train_only(params.trainable, params.lora)
    image_B3HW = torch.empty(1, 3, sizes.side, sizes.side, device=_META)
    latent_BCHW = family.encode(image_B3HW)
    encoder = None if condition == "text" else _encoder(sizes)
    num_tokens, width = (
        (int(_given(sizes.backbone, "prompt")["tokens"]), family.condition_width)
        if encoder is None
        else _token_shape(encoder, sizes)
    )
    encoding = _vae_encoder(family, image_B3HW)
    parts = [
        *_gate(params, condition, family, num_tokens, width),
        _generator(params, family, latent_BCHW, num_tokens, has_gate=encoder is not None),
        *([encoding] if encoder is None else []),
        *_losses(params, family, latent_BCHW, image_B3HW),
        *_discriminator(params, family, latent_BCHW, num_tokens, sizes),
    ]
    if encoder is None:
        return Blueprint(tuple(parts), (), num_tokens, 0)
    once = (_dinov3(encoder, sizes), encoding)
    stored = stored_bytes(num_tokens, width, sizes.tokens)
    row_bytes = 2 * (stored + 2 * latent_BCHW.numel())  # degraded and other; latents in float16
    return Blueprint(tuple(parts), once, num_tokens, row_bytes)


def _given(sizes: Mapping[str, Any] | None, key: str) -> Any:
    if sizes is None or sizes.get(key) is None:
        raise ValueError(f"the sizes of {key!r} are missing: give them under `stand_in`")
    return sizes[key]


def _encoder(sizes: Sizes) -> Any:
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    with _META:
        return DINOv3ViTModel(DINOv3ViTConfig(**_given(sizes.encoder, "encoder")))


def _token_shape(encoder: Any, sizes: Sizes) -> tuple[int, int]:
    config = encoder.config
    patches = (sizes.encoder_side or config.image_size) // config.patch_size
    return 1 + config.num_register_tokens + patches**2, config.hidden_size


def _dinov3(encoder: Any, sizes: Sizes) -> Counted:
    side = sizes.encoder_side or encoder.config.image_size
    pixels = torch.empty(1, 3, side, side, device=_META)
    cost = forward_cost(lambda: encoder(pixel_values=pixels))
    return Counted(Part("dinov3, two pictures"), _twice(cost), numbers(encoder))


def _twice(cost: Cost) -> Cost:
    return Cost(cost.forward, 2 * cost.step, cost.kept)


def _gate(
    params: TrainingParams,
    name: TrainableConditionName,
    family: Backbone,
    num_tokens: int,
    width: int,
) -> Iterator[Counted]:
    if name == "text":
        return
    with _META:
        condition = TokenCondition(name, width, family.condition_width)
        tokens = torch.empty(2, 1, num_tokens, width)
    trained = numbers(condition, trained=True)
    if trained == 0:  # tokens of one picture, of the backbone's width
        return
    cost = step_cost(lambda: condition(tokens[0], tokens[1])[0], blocks=[condition])
    moments = _moments(params.optimization.algorithm)
    part = Part("gate", trained=trained, kept=cost.kept, is_sharded=True, num_moments=moments)
    yield Counted(part, cost, trained)


def _moments(algorithm: str) -> int:
    return 1 if algorithm == "rmsprop" else 2


def _generator(
    params: TrainingParams,
    family: Backbone,
    latent_BCHW: Tensor,
    num_tokens: int,
    *,
    has_gate: bool,
) -> Counted:
    shape = (1, num_tokens, family.condition_width)
    condition_BND = torch.empty(shape, device=_META, requires_grad=has_gate)
    noise = family.training_noise(
        latent_BCHW, torch.Generator(), clean_condition=params.clean_condition
    )
    cost = step_cost(
        lambda: family.step(latent_BCHW, condition_BND, noise), networks=[family.generator]
    )
    matrices, vectors = frozen_numbers(family.generator)
    part = Part(
        "generator",
        trained=numbers(family.generator, trained=True),
        frozen=matrices,
        frozen_float32=vectors,
        kept=cost.kept,
        recomputable="generator",
        is_sharded=True,
        num_moments=_moments(params.optimization.algorithm),
        only_time=family.num_only_time() if params.trainable == "full" else 0,
    )
    return Counted(part, cost, numbers(family.generator))


def _halves(vae: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return what encodes and what decodes."""
    names = encoding_parts(vae)
    encoding = [module for name, module in vae.named_children() if name in names]
    decoding = [module for name, module in vae.named_children() if name not in names]
    return nn.ModuleList(encoding), nn.ModuleList(decoding)


def _vae_encoder(family: Backbone, image_B3HW: Tensor) -> Counted:
    """Count two pictures, degraded and true."""
    encoding, _ = _halves(family.vae)
    cost = forward_cost(lambda: family.encode(image_B3HW))
    matrices, vectors = frozen_numbers(encoding)
    part = Part("autoencoder, encoder", frozen=matrices, frozen_float32=vectors)
    return Counted(part, _twice(cost), numbers(encoding))


def _losses(
    params: TrainingParams, family: Backbone, latent_BCHW: Tensor, image_B3HW: Tensor
) -> Iterator[Counted]:
    """Count what the losses on pictures need: the decoder and their networks."""
    losses = params.losses
    has_pictures = any((losses.pixel, losses.perceptual, losses.identity))
    _, decoding = _halves(family.vae)
    cost = Cost()
    if has_pictures:
        restored_BCHW = torch.empty_like(latent_BCHW, requires_grad=True)
        blocks = family.decoder_blocks()
        cost = step_cost(lambda: family.decode(restored_BCHW), blocks=blocks)
    matrices, vectors = frozen_numbers(decoding)
    part = Part(
        "autoencoder, decoder",
        frozen=matrices,
        frozen_float32=vectors,
        kept=cost.kept,
        recomputable="decoder",
    )
    yield Counted(part, cost, numbers(decoding))
    if losses.perceptual is not None:
        from torchvision.models import vgg16

        with _META:
            vgg = vgg16(weights=None).features[:_RELU5_3]
        name = losses.perceptual.network
        # DISTS compares the pictures and their edges.
        yield _loss_network(name, vgg, image_B3HW, passes=2 if name == "dists" else 1)
    if losses.identity is not None:
        with _META:
            network = ArcFace(IResNet())
        yield _loss_network("arcface", network, image_B3HW, passes=1)


def _loss_network(name: str, network: nn.Module, image_B3HW: Tensor, *, passes: int) -> Counted:
    """Count a frozen network that compares the restored picture with the true one."""
    network.requires_grad_(requires_grad=False)
    restored_B3HW = torch.empty_like(image_B3HW, requires_grad=True)
    cost = step_cost(lambda: network(restored_B3HW), blocks=[network])
    step = passes * (cost.step + cost.forward)
    kept = cost.kept * passes
    part = Part(f"loss, {name}", frozen_float32=numbers(network), kept=kept, recomputable="losses")
    return Counted(part, Cost(cost.forward, step, kept), numbers(network))


def _discriminator(
    params: TrainingParams, family: Backbone, latent_BCHW: Tensor, num_tokens: int, sizes: Sizes
) -> Iterator[Counted]:
    """Count the discriminator's two turns: it judges, then it learns."""
    described, adversarial = params.opponent(), params.losses.adversarial
    if described is None or adversarial is None:
        return
    network = DISCRIMINATORS[family.discriminator].of_sizes(
        _given(sizes.discriminator, "discriminator"),
        family.condition_width,
        described,
        prompt_tokens=((sizes.discriminator or {}).get("prompt") or {}).get("tokens"),
    )
    matrices, vectors = frozen_numbers(network)
    part = Part(
        "discriminator judges",
        trained=numbers(network, trained=True),
        frozen=matrices,
        frozen_float32=vectors,
        recomputable="discriminator",
        is_sharded=True,
        num_moments=_moments(described.optimization.algorithm),
    )
    condition_BND = torch.empty(1, num_tokens, family.condition_width, device=_META)
    judging, learning = _turns(Adversary(network, adversarial), latent_BCHW, condition_BND)
    yield Counted(replace(part, kept=judging.kept), judging, numbers(network))
    part = Part(
        "discriminator learns",
        turn="discriminator",
        kept=learning.kept,
        recomputable="discriminator",
    )
    yield Counted(part, learning, 0)


def _turns(adversary: Adversary, real_BCHW: Tensor, condition_BND: Tensor) -> tuple[Cost, Cost]:
    """Return what it costs to judge a restored latent, and to learn from it."""
    fake_BCHW, draw = torch.empty_like(real_BCHW, requires_grad=True), torch.Generator()
    networks = [adversary.discriminator.network]
    judging = step_cost(
        lambda: adversary.judge(fake_BCHW, real_BCHW, condition_BND, draw), networks=networks
    )
    learning = step_cost(lambda: adversary(draw)["loss"], networks=networks)
    # Of the two forward passes, the true latent's is never computed again.
    return replace(judging, forward=judging.forward // 2), learning
