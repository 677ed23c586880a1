"""The restorer: intermediate restoration -> encoder -> SDFM -> projection -> backbone.

A trained folder holds what was trained and names by hash all else that restoring takes:

    restorer.json            what it is, what it needs, lineage, licences, its files
    fusion.safetensors       SDFM                                    (condition `sdfm`)
    projection.safetensors   tokens to the backbone's width          (where the widths differ)
    unet/ or transformer/    the generator, trained in full, or pytorch_lora_weights.safetensors

B batch, C latent channels, N tokens, H and W of the image or of the latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components import images
from components.backbones.catalogue import BackboneName, load_backbone
from components.backbones.protocol import Backbone, LoraParams, StepNoise, Trainable
from components.encoders.dinov3 import DINOv3
from components.files import write_json
from components.fusion.condition import ConditionName, TextCondition, TokenCondition, mean_alpha
from components.keyed_random import normal
from components.params import Params
from components.weights.manifest import FORMAT, RESTORER, seal
from components.weights.store import WeightsFolder, find_need, open_model, open_weights


class RestorerSpec(Params):
    """What a restorer is: enough to build it again from its folder."""

    backbone: BackboneName
    condition: ConditionName
    trainable: Trainable
    lora: LoraParams | None = None
    size: PositiveInt  # pixels of the square face
    encoder_size: PositiveInt | None = None  # what DINOv3 sees; None for `text`
    seed: int  # of the noise at inference


class Need(Params):
    """A folder that a restorer cannot do without, named by hash; `hint` is where it lay last."""

    name: str
    fingerprint: str
    hint: str


@dataclass(frozen=True)
class Restoration:
    """A batch of restored faces, RGB in [0, 1], and how they came about."""

    restored_B3HW: Tensor
    intermediate_B3HW: Tensor | None  # what the condition was taken from
    alpha_BHW: Tensor | None  # the gate, averaged over channels, a patch: 1 takes the intermediate


class Restorer(nn.Module):
    """One-step restorer of aligned faces of `size`² under one condition."""

    def __init__(
        self,
        spec: RestorerSpec,
        backbone: Backbone,
        condition: TextCondition | TokenCondition,
        *,
        encoder: DINOv3 | None = None,
        intermediate: "Restorer | None" = None,
        fingerprint: str = "",
    ) -> None:
        """Put the parts together; training on cached tokens needs no encoder or intermediate."""
        super().__init__()
        self.spec, self.fingerprint = spec, fingerprint
        self.backbone_module = cast("nn.Module", backbone)
        self.condition = condition
        self.encoder = encoder
        self.intermediate = intermediate

    @property
    def backbone(self) -> Backbone:
        return cast("Backbone", self.backbone_module)

    @classmethod
    def untrained(
        cls, spec: RestorerSpec, weights: WeightsFolder, *, token_width: int | None
    ) -> Self:
        """Build what a training starts from: pretrained generator and fresh gate, both trainable.

        Raises: ValueError if the condition takes tokens and their width is not given.
        """
        backbone = load_backbone(spec.backbone, weights.root)
        backbone.train_only(spec.trainable, spec.lora)
        condition: TextCondition | TokenCondition
        if spec.condition == "text":
            condition = TextCondition.load(weights.path("prompt.safetensors"))
        elif token_width is None:
            raise ValueError(f"condition {spec.condition!r} takes tokens: their width is missing")
        else:
            condition = TokenCondition(spec.condition, token_width, backbone.condition_width)
        return cls(spec, backbone, condition)

    @classmethod
    def load(cls, folder: Path, hints: Sequence[Path] = ()) -> Self:
        """Load a trained folder, ready to restore, with everything that it names by hash.

        What it names is looked for at `hints`, where it lay last, and in the stores (see
        `components.weights.store`). Raises: FileNotFoundError or ValueError naming what is missing
        or damaged.
        """
        described = open_model(folder)
        content = described.content
        spec = RestorerSpec.model_validate({key: content[key] for key in RestorerSpec.model_fields})
        found = {role: find_need(folder, need, hints) for role, need in described.needs.items()}
        weights = open_weights(found["backbone"])
        backbone = load_backbone(spec.backbone, weights.root, generator=_generator(spec, folder))
        if spec.trainable == "lora":
            backbone.load_lora(folder)
        encoder = intermediate = None
        condition: TextCondition | TokenCondition
        if spec.condition == "text":
            condition = TextCondition.load(weights.path("prompt.safetensors"))
        else:
            encoder_root = open_weights(found["encoder"]).root
            encoder = DINOv3(encoder_root, input_size=cast("int", spec.encoder_size))
            intermediate = cls.load(found["intermediate"], hints)
            condition = TokenCondition(spec.condition, encoder.width, backbone.condition_width)
            _load_condition(condition, folder)
        restorer = cls(
            spec,
            backbone,
            condition,
            encoder=encoder,
            intermediate=intermediate,
            fingerprint=described.fingerprint,
        )
        return restorer.eval().requires_grad_(requires_grad=False)

    def save(
        self,
        folder: Path,
        *,
        needs: Mapping[str, Need],
        licences: Sequence[str],
        lineage: Mapping[str, Any],
    ) -> str:
        """Write a trained folder and return its fingerprint, the hash of its content.

        Args:
            folder: made if it is not there.
            needs: `backbone`, and for a condition of tokens `encoder` and `intermediate`.
            licences: of the weights that it stands on.
            lineage: commit, inputs and parameters, as JSON values.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.save_trained(folder, self.spec.trainable)
        if isinstance(self.condition, TokenCondition):
            _save_condition(self.condition, folder)
        content = {
            "format": FORMAT,
            **self.spec.model_dump(mode="json"),
            "needs": {role: need.model_dump() for role, need in needs.items()},
            "licences": sorted(set(licences)),
            "lineage": dict(lineage),
        }
        write_json(folder / RESTORER, content, sort_keys=True)
        return seal(folder)

    def predict(
        self,
        lq_latent_BCHW: Tensor,
        noise: StepNoise | None,
        tokens: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Take the step: LQ latent and (SR, LQ) tokens -> restored latent, gate alpha_BNC.

        `tokens` is None for the condition `text` alone.
        """
        alpha_BNC = None
        if isinstance(self.condition, TextCondition):
            condition_BND = self.condition(lq_latent_BCHW.shape[0])
        elif tokens is None:
            raise ValueError(f"condition {self.spec.condition!r} needs tokens; got none")
        else:
            condition_BND, alpha_BNC = self.condition(*tokens)
        return self.backbone.step(lq_latent_BCHW, condition_BND, noise), alpha_BNC

    @torch.no_grad()
    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float = 1.0,
    ) -> Restoration:
        """Restore aligned faces, RGB in [0, 1].

        Noise is keyed by (seed, face_id, variant), so a face's result does not depend on its batch.
        What a cache would hold is rounded as the cache does (8-bit pictures, float16 tensors), so
        both ways give the same numbers. `fidelity` in [0, 1] is Qwen-Image's (METHOD, section 4).

        Raises: ValueError if the faces are not of the restorer's size.
        """
        if lq_B3HW.shape[1:] != (3, self.spec.size, self.spec.size):
            raise ValueError(
                f"this restorer takes faces of (3, {self.spec.size}, {self.spec.size}); "
                f"got {tuple(lq_B3HW.shape[1:])}: resize or align them first"
            )
        intermediate = None
        tokens = None
        if self.encoder is not None and self.intermediate is not None:
            first = self.intermediate.restore(lq_B3HW, face_ids, variants)
            intermediate = first.restored_B3HW
            sr_tokens, lq_tokens = self.encoder(torch.cat([intermediate, lq_B3HW])).chunk(2)
            tokens = (as_cached(sr_tokens), as_cached(lq_tokens))
        latent_BCHW = as_cached(self.backbone.encode(lq_B3HW))
        noise = self._noise(latent_BCHW, face_ids, variants, fidelity)
        restored_latent, alpha_BNC = self.predict(latent_BCHW, noise, tokens)
        restored = self.backbone.decode(restored_latent)
        return Restoration(
            restored_B3HW=images.to_tensor(images.from_tensor(restored)).to(lq_B3HW.device),
            intermediate_B3HW=intermediate,
            alpha_BHW=self._patches(alpha_BNC),
        )

    def _noise(
        self, latent_BCHW: Tensor, face_ids: Sequence[str], variants: Sequence[int], fidelity: float
    ) -> StepNoise | None:
        if not self.backbone.takes_noise:
            return None
        shape = tuple(latent_BCHW.shape[1:])
        keys = zip(face_ids, variants, strict=True)
        drawn = np.stack(
            [normal(self.spec.seed, face, variant, "noise", shape) for face, variant in keys]
        )
        return self.backbone.inference_noise(torch.from_numpy(drawn).to(latent_BCHW), fidelity)

    def _patches(self, alpha_BNC: Tensor | None) -> Tensor | None:
        if alpha_BNC is None or self.encoder is None:
            return None
        return self.encoder.patch_map(mean_alpha(alpha_BNC))


def as_cached(tensor: Tensor) -> Tensor:
    """Round to the dtype of the tables (float16), keeping float32."""
    return tensor.half().float()


def _generator(spec: RestorerSpec, folder: Path) -> Path | None:
    if spec.trainable == "lora":
        return None
    return folder / {"sd21": "unet", "qwen": "transformer"}[spec.backbone]


def _parts(condition: TokenCondition) -> dict[Literal["fusion", "projection"], nn.Module]:
    parts: dict[Literal["fusion", "projection"], nn.Module] = {}
    if condition.fusion is not None:
        parts["fusion"] = condition.fusion
    if not isinstance(condition.projection, nn.Identity):
        parts["projection"] = condition.projection
    return parts


def _save_condition(condition: TokenCondition, folder: Path) -> None:
    for name, part in _parts(condition).items():
        save_file(part.state_dict(), folder / f"{name}.safetensors")


def _load_condition(condition: TokenCondition, folder: Path) -> None:
    for name, part in _parts(condition).items():
        part.load_state_dict(load_file(folder / f"{name}.safetensors"))
