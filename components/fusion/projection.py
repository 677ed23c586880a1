"""From the token width to the width that the backbone's cross-attention expects (paper, eq. 10)."""

from torch import nn


def projection(token_width: int, condition_width: int) -> nn.Module:
    """Return the identity if the widths are equal (DINOv3-L, SD 2.1: 1024), else one Linear layer.

    Shape: (B, N, token_width) -> (B, N, condition_width).
    """
    if token_width == condition_width:
        return nn.Identity()
    return nn.Linear(token_width, condition_width)
