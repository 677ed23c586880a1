"""A training of a paper profile on random weights and random rows, for benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import random_weights
from components import profiles
from components.backbones.catalogue import FAMILIES
from components.params import Compute
from components.training.blueprint import Sizes
from components.training.restorer_training import RestorerTraining
from components.training.step import Batch
from components.training.training_params import TrainingParams
from components.weights.published_sizes import PUBLISHED_SIZES
from pipelines.stage import Stage


@dataclass(frozen=True)
class Shapes:
    """The shapes of a row of a table of features: pixels of a side, (C, h, w), (N, C)."""

    side: int
    latent: tuple[int, ...]
    tokens: tuple[int, int]


class Rows:
    """The same random face again and again, as a table of features has it."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self.position, self._shapes, self._device = 0, shapes, device
        self._drawn: dict[int, Batch] = {}

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Batch:
        self.position += count
        if count not in self._drawn:
            shapes, draw = self._shapes, torch.Generator().manual_seed(1)
            hq = torch.rand(count, 3, shapes.side, shapes.side, generator=draw)
            latents = torch.randn(2, count, *shapes.latent, generator=draw)
            tokens = torch.randn(2, count, *shapes.tokens, generator=draw)
            self._drawn[count] = Batch(hq, *latents, *tokens)
        return Batch(*(one.to(self._device) for one in self._drawn[count] if one is not None))


def sizes(backbone: str, *, num_blocks: int | None = None, tiny: bool = False) -> Sizes:
    """Return the sizes of all networks: the published ones, or those of the profile tiny.

    `num_blocks` is how many blocks published transformers are left with.
    """
    values = yaml.safe_load(profiles.compose("tiny" if tiny else f"paper-{backbone}"))
    found = []
    for name in (backbone, f"{backbone}-discriminator", "dinov3"):
        described = values["weights"][name]
        if tiny:
            found.append(described["stand_in"])
            continue
        network = dict(PUBLISHED_SIZES[described["published"]["id"]])
        for part in ("generator", "discriminator"):
            if num_blocks is not None and "num_layers" in network.get(part, {}):
                network[part] = {**network[part], "num_layers": num_blocks}
        found.append(network)
    ours, theirs, encoder = found
    side, encoder_side = values["faces"]["size"], values["features"][backbone]["encoder_size"]
    return Sizes(side, ours, theirs, encoder, encoder_side)


def shapes_of(backbone: str, described: Sizes) -> Shapes:
    """Return the shapes of a row that these networks make."""
    assert described.encoder is not None
    assert described.encoder_side is not None
    encoder = described.encoder["encoder"]
    patches = (described.encoder_side // encoder["patch_size"]) ** 2
    family = FAMILIES[backbone].of_sizes(described.backbone["vae"], described.backbone["generator"])
    latent = family.encode(torch.empty(1, 3, described.side, described.side, device="meta"))
    tokens = (1 + encoder["num_register_tokens"] + patches, encoder["hidden_size"])
    return Shapes(described.side, tuple(latent.shape[1:]), tokens)


def parameters(
    backbone: str, folder: Path, changes: Sequence[str], recompute: Sequence[str]
) -> tuple[TrainingParams, Compute]:
    """Return the parameters of the profile paper-BACKBONE on the networks in `folder`.

    `changes` are of the section train.BACKBONE, in Hydra's grammar.
    """
    section, profile = f"train.{backbone}", f"paper-{backbone}"
    places = [
        f"weights={folder / backbone}",
        f"discriminator.weights={folder / backbone}-discriminator",
        "validation=null",
        "optimization.log_every=1",
    ]
    if yaml.safe_load(profiles.compose(profile))["train"][backbone]["losses"]["identity"]:
        places.append(f"losses.identity.network={folder / 'arcface.pth'}")
    overrides = [f"{section}.{change}" for change in (*changes, *places)]
    overrides.append(f"compute.train.recompute=[{','.join(recompute)}]")
    values = yaml.safe_load(profiles.compose(profile, overrides))
    params = Stage.load("train").params.parse(section, values)
    assert isinstance(params, TrainingParams)
    return params, Compute.parse("compute.train", values)


def make_weights(folder: Path, backbone: str, params: TrainingParams, described: Sizes) -> None:
    """Write all networks that `parameters` name; those of the perceptual loss below TORCH_HOME."""
    assert described.discriminator is not None
    opponent: Mapping[str, Any] = described.discriminator
    random_weights.write_backbone(folder / backbone, backbone, described.backbone)
    random_weights.write_discriminator(folder / f"{backbone}-discriminator", backbone, opponent)
    if params.losses.identity is not None:
        random_weights.write_arcface(params.losses.identity.network)
    if params.losses.perceptual is not None:
        random_weights.write_perceptual(params.losses.perceptual.network)


def training(
    params: TrainingParams, backbone: str, described: Sizes, shapes: Shapes
) -> RestorerTraining:
    """Return what a stage would send to its workers; the weights must be there."""
    spec = params.spec(backbone, "sdfm", size=described.side, encoder_size=described.encoder_side)
    return RestorerTraining.of(
        params, spec, token_width=shapes.tokens[1], needs={}, licences=(), lineage={}
    )
