"""What a trained restorer is: enough to build it again from its folder."""

from typing import Self

from pydantic import PositiveInt, model_validator

from components.backbones.backbone import Trainable
from components.backbones.catalogue import BackboneName
from components.fusion.condition import ConditionName
from components.params import Params
from components.weights.lora import LoraParams


class RestorerSpec(Params):
    """Backbone, condition, what was trained, sizes and seed."""

    backbone: BackboneName
    condition: ConditionName
    trainable: Trainable
    lora: LoraParams | None = None
    size: PositiveInt  # pixels of the square face
    encoder_size: PositiveInt | None = None  # what DINOv3 sees; None for `text`
    seed: int  # of the noise at inference

    @model_validator(mode="after")
    def _tokens_need_an_encoder(self) -> Self:
        if (self.condition == "text") != (self.encoder_size is None):
            raise ValueError(
                f"condition {self.condition!r} with encoder_size {self.encoder_size}: 'text' needs "
                "none, every other condition needs one"
            )
        return self


class Need(Params):
    """A folder that a restorer cannot do without, named by hash; `hint` is where it lay last."""

    name: str
    fingerprint: str
    hint: str
