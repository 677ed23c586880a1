"""HDRFace: intermediate restoration -> encoder -> SDFM -> projection -> backbone.

B batch, C latent channels, N tokens, H and W of the image or of the latent.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components import images
from components.backbones.backbone import Backbone, StepNoise, sampled
from components.backbones.color_fix import ColorFix
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import (
    CodebookCondition,
    TextCondition,
    TokenCondition,
    mean_alpha,
)
from components.keyed_random import Key, normals
from components.restorers.protocol import (
    Intermediates,
    Restoration,
    RestoresFaces,
    check_first,
    refuse_intermediates,
    where_from,
)
from components.restorers.spec import RestorerSpec
from components.weights.placed import PlacedModule
from components.weights.precision import InferencePrecision, computing

Condition = TextCondition | TokenCondition | CodebookCondition


class HDRFace(PlacedModule):
    """Restore aligned faces of `size`² in one step, under one condition."""

    def __init__(
        self,
        spec: RestorerSpec,
        backbone: Backbone,
        condition: Condition,
        *,
        encoder: DINOv3 | None = None,
        intermediate: RestoresFaces | None = None,
        fingerprint: str = "",
    ) -> None:
        """Put the parts together; training on cached tokens needs no encoder or intermediate.

        Without an intermediate restorer, first restorations come with the faces.

        Raises: ValueError if the intermediate restorer has another size.
        """
        super().__init__()
        self.spec, self.fingerprint = spec, fingerprint
        self.precision: InferencePrecision = "float32"  # in which `restore` computes
        self.is_preview = False  # whether `restore` decodes roughly
        self.backbone = backbone
        self.condition = condition
        self.encoder = encoder
        self.intermediate: RestoresFaces | None = None
        if intermediate is not None:
            self.build_on(intermediate)

    def build_on(self, intermediate: RestoresFaces) -> None:
        """Take first restorations from another restorer.

        Raises: ValueError if it has another size, or the condition uses none.
        """
        uses_one = self.spec.encoder_size is not None
        check_first(intermediate, self.name, self.size, uses_one=uses_one)
        # PyTorch replaces a module by nothing but a module, and another project's is none.
        del self.intermediate
        self.intermediate = intermediate

    @property
    def name(self) -> str:
        return f"{self.spec.backbone}-{self.spec.condition}"

    @property
    def size(self) -> int:
        return self.spec.size

    @property
    def fidelity(self) -> float | None:
        return 1.0 if self.backbone.takes_noise else None

    @property
    def color_fix(self) -> ColorFix:
        return self.backbone.color_fix

    @property
    def intermediates(self) -> Intermediates:
        return "unused" if self.encoder is None else where_from(self.intermediate)

    def predict(
        self,
        lq_latent_BCHW: Tensor,
        noise: StepNoise | None,
        tokens: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Take the step: LQ latent and (SR, LQ) tokens -> restored latent, gate alpha_BNC.

        For the condition `codebook`, `tokens` are (codes,); for `text` they are None.
        """
        condition_BND, alpha_BNC = self.conditioned(lq_latent_BCHW.shape[0], tokens)
        return self.backbone.step(lq_latent_BCHW, condition_BND, noise), alpha_BNC

    def conditioned(
        self, batch_size: int, tokens: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the backbone is conditioned on, (B, N, D), and the gate alpha_BNC."""
        if isinstance(self.condition, TextCondition):
            return self.condition(batch_size), None
        if tokens is None:
            raise ValueError(f"condition {self.spec.condition!r} needs tokens; got none")
        condition_BND, alpha_BNC = self.condition(*tokens)
        return condition_BND, alpha_BNC

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
        """Restore aligned faces, RGB in [0, 1].

        Noise is keyed by (seed, face_id, variant), so a face's result does not depend on its batch;
        with the spec's `noise_of: seed`, all faces have the same noise.
        What a cache would hold is rounded as the cache does (8-bit pictures, float16 tensors), so
        both ways give the same numbers. `fidelity` in [0, 1] is Qwen-Image's (METHOD, section 4), 1
        if it is None.

        Raises: ValueError if the faces are not of the restorer's size, or as the protocol says;
            ArithmeticError if bfloat16 was not enough for a face.
        """
        if lq_B3HW.shape[1:] != (3, self.spec.size, self.spec.size):
            raise ValueError(
                f"this restorer takes faces of (3, {self.spec.size}, {self.spec.size}); "
                f"got {tuple(lq_B3HW.shape[1:])}: resize or align them first"
            )
        tokens: tuple[Tensor, ...] | None = None
        if self.encoder is None:
            refuse_intermediates(self.name, intermediate_B3HW)
        else:
            if intermediate_B3HW is None:
                intermediate_B3HW = self._first(lq_B3HW, face_ids, variants)
            with computing(self.precision, self.device):
                tokens = look_twice(lq_B3HW, intermediate_B3HW, self.encoder)
        if isinstance(self.condition, CodebookCondition):
            tokens = (self.condition.find(lq_B3HW),)
        latent_BCHW = self.encode(lq_B3HW, face_ids, variants)
        restored_B3HW, alpha_BNC = self.finish(
            latent_BCHW, tokens, face_ids, variants, fidelity=fidelity
        )
        return Restoration(
            restored_B3HW=restored_B3HW,
            intermediate_B3HW=intermediate_B3HW,
            alpha_BHW=self._patches(alpha_BNC),
        )

    @torch.no_grad()
    def encode(self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]) -> Tensor:
        """Return the latent that restoring starts from, rounded as a features table does."""
        with computing(self.precision, self.device):
            return as_cached(self._encode(lq_B3HW, face_ids, variants))

    @torch.no_grad()
    def finish(
        self,
        latent_BCHW: Tensor,
        tokens: tuple[Tensor, ...] | None,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Restore from what `encode` and `look_twice` return.

        Returns: RGB in [0, 1], rounded to 8 bits, (B, 3, H, W), and the gate alpha_BNC.
        """
        noise = self._noise(latent_BCHW, face_ids, variants, 1.0 if fidelity is None else fidelity)
        condition_BND, alpha_BNC = self.conditioned(latent_BCHW.shape[0], tokens)
        with computing(self.precision, self.device):
            restored_latent = self.backbone.step(latent_BCHW, condition_BND, noise)
            restored_B3HW = self.backbone.decode(restored_latent)
        if self.precision != "float32" and not restored_B3HW.isfinite().all():
            # Seen with Qwen-Image's autoencoder by others, for a few pictures.
            raise ArithmeticError(
                f"{self.name} gives no finite picture in {self.precision}: restore with precision "
                "float32"
            )
        return images.rounded(restored_B3HW), alpha_BNC

    def _first(self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]) -> Tensor:
        """Make the first restorations."""
        if self.intermediate is None:
            raise ValueError(
                f"{self.name} has no first restorer: give first restorations with the faces "
                "(--intermediate DIR, or 'intermediate' in a request)"
            )
        return self.intermediate.restore(lq_B3HW, face_ids, variants).restored_B3HW

    def _encode(self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]) -> Tensor:
        if self.spec.posterior == "mean":
            return self.backbone.encode(lq_B3HW)
        keys = self._keys("lq posterior", face_ids, variants)
        return sampled(self.backbone.moments(lq_B3HW), keys)

    def _noise(
        self, latent_BCHW: Tensor, face_ids: Sequence[str], variants: Sequence[int], fidelity: float
    ) -> StepNoise | None:
        if not self.backbone.takes_noise:
            return None
        shape = self.backbone.noise_shape(latent_BCHW)
        drawn = normals(self._keys("noise", face_ids, variants), shape)
        return self.backbone.inference_noise(torch.from_numpy(drawn).to(latent_BCHW), fidelity)

    def _keys(self, purpose: str, face_ids: Sequence[str], variants: Sequence[int]) -> list[Key]:
        faces = list(zip(face_ids, variants, strict=True))
        if self.spec.noise_of == "seed":
            faces = [("", 0)] * len(faces)
        return [(self.spec.seed, face_id, variant, purpose) for face_id, variant in faces]

    def _patches(self, alpha_BNC: Tensor | None) -> Tensor | None:
        if alpha_BNC is None or self.encoder is None:
            return None
        return self.encoder.patch_map(mean_alpha(alpha_BNC))


@torch.no_grad()
def look_twice(
    lq_B3HW: Tensor, first_B3HW: Tensor, encoder: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the tokens (SR, LQ) of a first restoration and of the face, as a features table."""
    sr_tokens, lq_tokens = encoder(torch.cat([first_B3HW, lq_B3HW])).chunk(2)
    return as_cached(sr_tokens), as_cached(lq_tokens)


def as_cached(tensor: Tensor) -> Tensor:
    """Round to the dtype of the tables (float16), keeping float32."""
    return tensor.half().float()
