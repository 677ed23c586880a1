"""Several first restorations of a face, of which the best is taken, token by token.

The paper takes one, and names several as future work (section 6). Candidates come from several
first restorers, or from several draws of one that draws noise. What is compared:

    gate      SDFM's alpha of each token: how much it would take from the candidate
    local     how little the candidate differs from the degraded face at low resolution, patch by
              patch; for tokens of no patch, in the mean
    identity  the angle between the candidate's and the degraded face's identity, for all tokens

K candidates, B batch, N tokens, C token width, H and W of the face.
"""

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from components.backbones.color_fix import ColorFix
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import TokenCondition, mean_alpha
from components.fusion.sdfm import SDFM
from components.metrics.identity import IdentityAngle
from components.restorers.choice import Choice
from components.restorers.hdrface import HDRFace, as_cached
from components.restorers.protocol import (
    Intermediates,
    Restoration,
    RestoresFaces,
    refuse_intermediates,
)

_POINTS = 2  # per side of a patch, at which a candidate is compared with the degraded face


class Candidates:
    """Restore with the best of several first restorations, token by token."""

    intermediates: ClassVar[Intermediates] = "made"

    def __init__(
        self,
        model: HDRFace,
        firsts: Sequence[RestoresFaces],
        *,
        draws: int = 1,
        choice: Choice = "gate",
        angle: IdentityAngle | None = None,
    ) -> None:
        """Take a model, and the restorers that make its candidates.

        Args:
            model: with an encoder; its own first restorer is not used.
            firsts: one or more restorers of the model's size.
            draws: first restorations of each of them; only one that draws noise makes several.
            choice: what is compared.
            angle: for the choice `identity`.

        Raises: ValueError if the model cannot choose, or a restorer has another size.
        """
        if not firsts:
            raise ValueError(f"{model.name} has no first restorer to make candidates: name one")
        for first in firsts:
            model.build_on(first)  # checks that it fits
        assert model.encoder is not None  # as `build_on` has found
        self._model, self._encoder = model, model.encoder
        self._firsts, self._draws, self._choice, self._angle = firsts, draws, choice, angle
        self._gate = _gate(model)
        if choice == "gate" and self._gate is None:
            raise ValueError(f"{model.name} has no gate: choose by 'local' or 'identity'")
        if choice == "identity" and angle is None:
            raise ValueError("the choice 'identity' needs an identity network: give its file")
        self.name, self.size, self.device = model.name, model.size, model.device
        self.precision = model.precision
        self.is_preview = model.is_preview
        self.fidelity: float | None = model.fidelity
        self.color_fix: ColorFix = model.color_fix
        named = [model.fingerprint, *(one.fingerprint for one in firsts), str(draws), choice]
        self.fingerprint = hashlib.sha256(" ".join(named).encode()).hexdigest()

    @torch.no_grad()
    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
        intermediate_B3HW: Tensor | None = None,
    ) -> Restoration:
        """Restore aligned faces, RGB in [0, 1]; the first candidate is the one that is made alone.

        The intermediate in the result is the candidate that most tokens were taken from.

        Raises: ValueError if the faces have another size, or first restorations are given.
        """
        refuse_intermediates(f"{self.name} with candidates", intermediate_B3HW)
        candidates_KB3HW = self._candidates(lq_B3HW, face_ids, variants)
        count = len(candidates_KB3HW)
        pictures = [*candidates_KB3HW, lq_B3HW]
        *tokens, lq_BNC = as_cached(self._encoder(torch.cat(pictures))).chunk(count + 1)
        tokens_KBNC = torch.stack(tokens)
        scores_KBN = self._scores(candidates_KB3HW, tokens_KBNC, lq_B3HW, lq_BNC)
        best_BN = scores_KBN.argmax(dim=0)  # the first among equals
        taken_KBN = F.one_hot(best_BN, count).movedim(-1, 0)
        sr_BNC = (taken_KBN.unsqueeze(-1) * tokens_KBNC).sum(dim=0)
        restored_B3HW, alpha_BNC = self._model.finish(
            self._model.encode(lq_B3HW, face_ids, variants),
            (sr_BNC, lq_BNC),
            face_ids,
            variants,
            fidelity=fidelity,
        )
        most_B = taken_KBN.sum(dim=-1).argmax(dim=0)
        return Restoration(
            restored_B3HW=restored_B3HW,
            intermediate_B3HW=candidates_KB3HW[most_B, torch.arange(len(most_B))],
            alpha_BHW=(
                None if alpha_BNC is None else self._encoder.patch_map(mean_alpha(alpha_BNC))
            ),
        )

    def _candidates(
        self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]
    ) -> Tensor:
        """Make the first restorations, (K, B, 3, H, W)."""
        made = [
            first.restore(
                lq_B3HW, [_drawn(face_id, draw) for face_id in face_ids], variants
            ).restored_B3HW
            for first in self._firsts
            for draw in range(self._draws)
        ]
        return torch.stack(made)

    def _scores(
        self, candidates_KB3HW: Tensor, tokens_KBNC: Tensor, lq_B3HW: Tensor, lq_BNC: Tensor
    ) -> Tensor:
        """Score each candidate for each token: the higher, the better."""
        if self._choice == "gate":
            assert self._gate is not None  # as the constructor has found
            gate = self._gate
            return torch.stack([mean_alpha(gate(sr_BNC, lq_BNC)[1]) for sr_BNC in tokens_KBNC])
        if self._choice == "local":
            return torch.stack(
                [
                    local_agreement(one_B3HW, lq_B3HW, self._encoder, lq_BNC.shape[1])
                    for one_B3HW in candidates_KB3HW
                ]
            )
        assert self._angle is not None  # as the constructor has found
        angles_KB = torch.stack(
            [torch.from_numpy(self._angle(one, lq_B3HW)) for one in candidates_KB3HW]
        )
        return -angles_KB.unsqueeze(-1).expand(-1, -1, lq_BNC.shape[1])


def local_agreement(
    candidate_B3HW: Tensor, lq_B3HW: Tensor, encoder: DINOv3, num_tokens: int
) -> Tensor:
    """Return minus the squared difference at low resolution, of each token's patch: (B, N).

    Tokens of no patch have the mean of all.
    """
    side = encoder.patches_per_side
    points = (side * _POINTS, side * _POINTS)
    coarse = F.adaptive_avg_pool2d(candidate_B3HW - lq_B3HW, points)
    error_BHW = F.adaptive_avg_pool2d(coarse.square().mean(dim=1), side)
    error_BP = error_BHW.flatten(1)
    others_BM = error_BP.mean(dim=1, keepdim=True).expand(-1, num_tokens - error_BP.shape[1])
    return -torch.cat([others_BM, error_BP], dim=1)


def _gate(model: HDRFace) -> SDFM | None:
    return model.condition.fusion if isinstance(model.condition, TokenCondition) else None


def _drawn(face_id: str, draw: int) -> str:
    """Return the key of a draw; the first is that of a face without candidates."""
    return face_id if draw == 0 else f"{face_id} draw {draw}"
