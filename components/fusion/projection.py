"""From the token width to the width that the backbone's cross-attention expects (paper, eq. 10)."""

from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 256  # between OSDFace's two layers


def projection(token_width: int, condition_width: int) -> nn.Module:
    """Return the identity if the widths are equal (DINOv3-L, SD 2.1: 1024), else one Linear layer.

    Shape: (B, N, token_width) -> (B, N, condition_width).
    """
    if token_width == condition_width:
        return nn.Identity()
    return nn.Linear(token_width, condition_width)


class EmbeddingChange(nn.Module):
    """Two layers on each token, each with SiLU after it: OSDFace's way to the backbone's width.

    They are convolutions of one position, as in the published file, whose keys they have.

    Shape: (B, T, token width) -> (B, T, condition width).
    """

    def __init__(self, token_width: int, hidden: int, condition_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(token_width, hidden, kernel_size=1)
        self.conv2 = nn.Conv1d(hidden, condition_width, kernel_size=1)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        hidden_BCT = F.silu(self.conv1(tokens_BTD.transpose(1, 2)))
        changed_BCT: Tensor = F.silu(self.conv2(hidden_BCT))
        return changed_BCT.transpose(1, 2)
