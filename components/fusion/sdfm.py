"""The gate network that fuses restored and degraded tokens (paper, eq. 3-7)."""

import torch
from torch import Tensor, nn

# B batch, N tokens (CLS + registers + patches), C token width, E = 3C evidence.


class SDFM(nn.Module):
    """Fuse restored (SR) and degraded (LQ) face tokens with a learned gate (paper, eq. 3-7).

        fused = alpha * LN(sr) + (1 - alpha) * LN(lq)
        alpha = clamp(token gate * channel gate, eps, 1 - eps)

    alpha near 1 takes details from the restoration, near 0 structure from the degraded face. The
    attribute names are the keys of the published checkpoint.

    Shape: sr_BNC, lq_BNC (float32) -> fused_BNC, alpha_BNC in [eps, 1 - eps].
    Raises: ValueError if the two differ in shape or are not `width` wide.
    """

    def __init__(self, width: int, *, hidden: int = 512, eps: float = 1e-6) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.norm = nn.LayerNorm(width)  # shared: the gate compares the two on one scale
        self.channel_mlp = _gate(3 * width, hidden, width)
        self.token_mlp = _gate(3 * width, hidden, 1)

    def forward(self, sr_BNC: Tensor, lq_BNC: Tensor) -> tuple[Tensor, Tensor]:
        if sr_BNC.shape != lq_BNC.shape or sr_BNC.shape[-1] != self.width:
            got = f"sr {tuple(sr_BNC.shape)}, lq {tuple(lq_BNC.shape)}"
            raise ValueError(f"SDFM needs two (B, N, {self.width}) token tensors; got {got}")
        sr_BNC, lq_BNC = self.norm(sr_BNC), self.norm(lq_BNC)
        evidence_BNE = torch.cat([sr_BNC, lq_BNC, (sr_BNC - lq_BNC).abs()], dim=-1)
        # The mean of the concatenation is the concatenation of the means (eq. 4).
        channel_B1C = self.channel_mlp(evidence_BNE.mean(dim=1, keepdim=True)).sigmoid()
        token_BN1 = self.token_mlp(evidence_BNE).sigmoid()
        alpha_BNC = (token_BN1 * channel_B1C).clamp(self.eps, 1 - self.eps)
        return torch.lerp(lq_BNC, sr_BNC, alpha_BNC), alpha_BNC


def _gate(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, hidden), nn.SiLU(), nn.Linear(hidden, width_out))
