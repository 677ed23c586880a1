"""What a trained restorer is: enough to build it again from its folder."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from components.backbones.backbone import Posterior, Trainable
from components.backbones.catalogue import BackboneName
from components.backbones.conditional_lora import BaseNumbers, Mlp
from components.fusion.condition import ConditionName
from components.params import Params
from components.weights.lora import LoraParams

NoiseOf = Literal["face", "seed"]


class RestorerSpec(Params):
    """Backbone, condition, what was trained, sizes, and what is drawn at inference."""

    backbone: BackboneName
    condition: ConditionName
    trainable: Trainable
    lora: LoraParams | None = None  # of `lora` and `conditional_lora`
    # The frozen weights as the authors had them when they trained `conditional_lora`.
    mlp: Mlp = "gelu"
    base_numbers: BaseNumbers = "stored"
    size: PositiveInt  # pixels of the square face
    encoder_size: PositiveInt | None = None  # what DINOv3 sees, if the condition is its tokens
    seed: int  # of what is drawn at inference
    posterior: Posterior = "mean"  # of a degraded face: what its latent is
    # face: each face and variant has its own draw; seed: all have the same one, as in the
    # reference, which sets its seed anew for each picture.
    noise_of: NoiseOf = "face"

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read it from what `restorer.json` holds, which is more. Raises: ValueError."""
        # A key that is newer than the folder has its default.
        return cls.model_validate({key: content[key] for key in cls.model_fields if key in content})

    @model_validator(mode="after")
    def _tokens_need_an_encoder(self) -> Self:
        if (self.condition in ("text", "codebook")) != (self.encoder_size is None):
            raise ValueError(
                f"condition {self.condition!r} with encoder_size {self.encoder_size}: 'text' and "
                "'codebook' need none, every other condition needs one"
            )
        return self

    @model_validator(mode="after")
    def _a_changed_base_belongs_to_its_layers(self) -> Self:
        if (self.mlp, self.base_numbers) != ("gelu", "stored") and (
            self.trainable != "conditional_lora"
        ):
            raise ValueError(
                f"mlp {self.mlp!r} and base_numbers {self.base_numbers!r} belong to trainable "
                f"'conditional_lora', not to {self.trainable!r}"
            )
        return self


class Need(Params):
    """A folder that a restorer cannot do without, named by hash; `hint` is where it lay last."""

    name: str
    fingerprint: str
    hint: str
