"""What replaces the text embedding: the conditions of the paper's ablation (Tab. 4, Fig. 5).

text       one fixed prompt's embedding, the same for all images: the plain restorer
dino       tokens of the intermediate restoration only, no gate
lr         tokens of the degraded face only
sdfm       both, fused by the gate: the method
codebook   codes of the degraded face only: OSDFace's, which is imported and not trained here
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.encoders.codebook import Codebook, CodebookSizes
from components.fusion.projection import HIDDEN, EmbeddingChange, projection
from components.fusion.sdfm import SDFM
from components.weights.placed import PlacedModule

TokenConditionName = Literal["dino", "lr", "sdfm"]
TrainableConditionName = Literal["text", TokenConditionName]
ConditionName = Literal[TrainableConditionName, "codebook"]


class TextCondition(nn.Module):
    """The cached embedding of one fixed prompt, for every image; it is not trained.

    Shape: batch size -> (B, L, condition width).
    """

    prompt_LC: Tensor

    def __init__(self, prompt_LC: Tensor) -> None:
        super().__init__()
        self.register_buffer("prompt_LC", prompt_LC, persistent=False)

    @classmethod
    def load(cls, file: Path) -> "TextCondition":
        """Read `prompt` (L, width) from a safetensors file of a backbone's weights."""
        return cls(load_file(file)["prompt"].float())

    def forward(self, batch_size: int) -> Tensor:
        return self.prompt_LC.expand(batch_size, -1, -1)


class TokenCondition(PlacedModule):
    """DINOv3 tokens as the condition: of one picture only, or of both through the SDFM gate.

    Shape: sr_tokens_BNC, lq_tokens_BNC -> condition (B, N, condition width) and, with the gate,
    alpha_BNC in (0, 1).
    """

    def __init__(self, name: ConditionName, token_width: int, condition_width: int) -> None:
        super().__init__()
        self.name = name
        self.fusion = SDFM(token_width) if name == "sdfm" else None
        self.projection = projection(token_width, condition_width)

    def forward(self, sr_tokens_BNC: Tensor, lq_tokens_BNC: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.fusion is not None:
            fused_BNC, alpha_BNC = self.fusion(sr_tokens_BNC, lq_tokens_BNC)
            return self.projection(fused_BNC), alpha_BNC
        tokens = sr_tokens_BNC if self.name == "dino" else lq_tokens_BNC
        return self.projection(tokens), None


class CodebookCondition(PlacedModule):
    """Codes of the degraded face as the condition; `find` finds them, `forward` projects them.

    Shape: codes_BTD -> condition (B, T, condition width), and no gate.
    """

    def __init__(self, codebook: Codebook, projection: EmbeddingChange) -> None:
        super().__init__()
        self.codebook = codebook
        self.projection = projection

    @classmethod
    def of_shapes(
        cls,
        codebook: Mapping[str, Sequence[int]],
        projection: Mapping[str, Sequence[int]],
        condition_width: int,
    ) -> Self:
        """Make one as large as its two files of tensors say, given as shapes by name."""
        sizes = CodebookSizes.of(codebook)
        hidden = projection.get("conv1.bias", (HIDDEN,))[0]
        return cls(
            Codebook(sizes, input_size=sizes.input_size),
            EmbeddingChange(sizes.code_width, hidden, condition_width),
        )

    def find(self, lq_B3HW: Tensor) -> Tensor:
        """Return the codes of degraded faces, RGB in [0, 1]: (B, T, D)."""
        codes_BTD: Tensor = self.codebook(lq_B3HW)
        return codes_BTD

    def forward(self, codes_BTD: Tensor) -> tuple[Tensor, None]:
        return self.projection(codes_BTD), None


def mean_alpha(alpha_BNC: Tensor) -> Tensor:
    """Return the gate averaged over channels: one value per token, (B, N)."""
    return torch.mean(alpha_BNC, dim=-1)
