"""What one training step computes: the restored latent, its picture and the losses.

B batch, C latent channels, N tokens; H and W of the image or of the latent.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from components.losses.perceptual import PERCEPTUAL, PerceptualName
from components.losses.pixel import PixelLoss, PixelRange
from components.params import Params
from components.restorers.hdrface import HDRFace, as_cached
from components.training.adversary import AdversarialParams, Adversary
from components.training.finite import Watch
from components.weights.precision import Precision, computing


class Batch(NamedTuple):
    """Faces of one step. Images are RGB in [0, 1]; latents are scaled as the backbone expects."""

    hq_B3HW: Tensor
    lq_latent_BCHW: Tensor
    hq_latent_BCHW: Tensor
    lq_tokens_BNC: Tensor | None
    sr_tokens_BNC: Tensor | None


class PixelParams(Params):
    """METHOD: 2.0 on clamped [0, 1] (`unit`) for SD 2.1, 1.0 on [-1, 1] (`signed`) for Qwen."""

    weight: NonNegativeFloat
    range: PixelRange


class PerceptualParams(Params):
    """METHOD: 1.0 · DISTS of picture and edges for SD 2.1, 1.0 · LPIPS (VGG) for Qwen-Image."""

    weight: NonNegativeFloat
    network: PerceptualName


class IdentityParams(Params):
    """METHOD: 0.5 · (1 - cos) with ArcFace iResNet-50 for SD 2.1; `network` is its file."""

    weight: NonNegativeFloat
    network: Path
    range: PixelRange = "signed"  # what the network sees; the reference: unit


class LossParams(Params):
    """The weighted sum that a training minimises; an omitted term is not computed.

    `latent` (mean squared error on latents) is ours: a small generator learns far faster from it
    than from pixels through the decoder. The paper has no such term: its profiles leave it at 0.
    """

    latent: NonNegativeFloat = 0.0
    pixel: PixelParams | None = None
    perceptual: PerceptualParams | None = None
    identity: IdentityParams | None = None
    adversarial: AdversarialParams | None = None


class TrainingStep(nn.Module):
    """Restore a batch and compare: the module that is trained, called once per step.

    It returns the weighted sum as `loss`, every unweighted term by its name and, of several terms,
    the share of each in the sum as `share_NAME`; all are scalars.
    """

    def __init__(
        self,
        restorer: HDRFace,
        params: LossParams,
        *,
        clean_condition: float = 0.5,
        adversary: Adversary | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Load what the losses need; `adversary` is needed for the adversarial term, and no other.

        It trains by itself, so it is no part of this module.

        Raises: FileNotFoundError naming a missing network.
        """
        super().__init__()
        self.restorer = restorer
        self.clean_condition = clean_condition
        self.precision: Precision = precision
        self._judge = None if adversary is None else adversary.judge
        self._fidelity_aware = False
        self.weights = {"latent": params.latent}
        self.image_losses = nn.ModuleDict()
        self.watch = Watch()
        if params.pixel is not None:
            self._add("pixel", params.pixel.weight, PixelLoss(params.pixel.range))
        if params.perceptual is not None:
            network = PERCEPTUAL[params.perceptual.network]()
            self._add("perceptual", params.perceptual.weight, network)
        if params.identity is not None:
            self._add("identity", params.identity.weight, _identity_loss(params.identity))
        if params.adversarial is not None:
            self.weights["adversarial"] = params.adversarial.weight
            self._fidelity_aware = params.adversarial.fidelity_aware
        if not any(self.weights.values()):
            raise ValueError("losses: every weight is 0, so there is nothing to minimise")

    def _add(self, name: str, weight: float, loss: nn.Module) -> None:
        self.weights[name] = weight
        self.image_losses[name] = loss

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Return the scaled latent of pictures in [0, 1], rounded as a features table does.

        If latents are samples of the posterior, return its moments: (B, 2C, h, w).
        """
        backbone = self.restorer.backbone
        encode = backbone.encode if self.restorer.spec.posterior == "mean" else backbone.moments
        with computing(self.precision, image_B3HW.device):
            latent_BCHW = encode(image_B3HW)
        return as_cached(latent_BCHW)

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        backbone = self.restorer.backbone
        noise = backbone.training_noise(
            batch.lq_latent_BCHW, generator, clean_condition=self.clean_condition
        )
        tokens = None
        if batch.sr_tokens_BNC is not None and batch.lq_tokens_BNC is not None:
            tokens = (batch.sr_tokens_BNC, batch.lq_tokens_BNC)
        condition_BND, _ = self.restorer.conditioned(batch.lq_latent_BCHW.shape[0], tokens)
        with computing(self.precision, batch.hq_B3HW.device):
            latent_BCHW = backbone.step(batch.lq_latent_BCHW, condition_BND, noise)
        seen = {**_rows(batch), "gate": condition_BND, "generator": latent_BCHW}
        terms = {"latent": F.mse_loss(latent_BCHW, batch.hq_latent_BCHW)}
        if self.image_losses:
            with computing(self.precision, batch.hq_B3HW.device):
                restored_B3HW = backbone.decode(latent_BCHW)
            seen["decoder"] = restored_B3HW = restored_B3HW.float()
            for name, loss in self.image_losses.items():
                seen[f"loss {name}"] = terms[name] = loss(restored_B3HW, batch.hq_B3HW)
        if self._judge is not None:
            invention_B = backbone.invention(noise) if self._fidelity_aware else None
            terms["adversarial"] = self._judge(
                latent_BCHW, batch.hq_latent_BCHW, condition_BND, generator, invention_B
            )
            seen["discriminator"] = terms["adversarial"]
        self.watch.look(seen)
        weighted = {name: w * terms[name] for name, w in self.weights.items() if w}
        total = torch.stack(list(weighted.values())).sum()
        return {"loss": total, **terms, **_shares(weighted, total)}


def _rows(batch: Batch) -> dict[str, Tensor]:
    rows: Mapping[str, Tensor | None] = batch._asdict()
    return {f"rows ({name})": value for name, value in rows.items() if value is not None}


def _shares(weighted: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    """Return each term's part of the sum; nothing if one term makes all of it."""
    parts = {name: part.detach() / total.detach() for name, part in weighted.items()}
    return {f"share_{name}": part for name, part in parts.items()} if len(parts) > 1 else {}


def _identity_loss(params: IdentityParams) -> nn.Module:
    from components.encoders.arcface import ArcFace
    from components.losses.identity import IdentityLoss

    return IdentityLoss(ArcFace.load(params.network, input_range=params.range))
