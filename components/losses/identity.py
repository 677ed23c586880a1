"""Whether the restored face is still the same person (METHOD, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.losses.pixel import in_range


class IdentityLoss(nn.Module):
    """L_id = 1 - cos(A(restored), A(hq)), mean over the batch; 0 for the same identity, at most 2.

    `network` A turns pictures in [0, 1] into identity vectors (`encoders.arcface.ArcFace`). The
    reference weighs w - w² cos with w = 0.5: its gradient is that of this loss with weight 0.25.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(requires_grad=False)

    def forward(self, restored_B3HW: Tensor, hq_B3HW: Tensor) -> Tensor:
        restored_BE = self.network(in_range(restored_B3HW, "unit"))
        with torch.no_grad():
            hq_BE = self.network(hq_B3HW)
        return (1 - F.cosine_similarity(restored_BE, hq_BE, dim=1)).mean()

    def train(self, mode: bool = True) -> "IdentityLoss":
        """Stay in evaluation mode: the network is never trained."""
        del mode
        return super().train(mode=False)
