"""Face restorers of other projects, from their own checkpoints: GFPGAN, RestoreFormer, CodeFormer.

spandrel knows the architectures. Its own calls scale pictures for RestoreFormer alone; all three
networks take and give RGB in [-1, 1], so they are called directly.

B batch, H and W of the face.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from components import images
from components.backbones.color_fix import ColorFix
from components.hashes import sha256_of
from components.restorers.protocol import Intermediates, Restoration, refuse_intermediates
from components.weights.checkpoints import read_tensors
from components.weights.placed import PlacedModule
from components.weights.precision import InferencePrecision


class Known(NamedTuple):
    """A published face restorer: its licence, and the fidelity that its authors use, if any."""

    licence: str
    fidelity: float | None = None


KNOWN: Mapping[str, Known] = {  # by spandrel's name of the architecture
    "GFPGAN": Known("Apache-2.0, with parts of StyleGAN2 and DFDNet (non-commercial)"),
    "RestoreFormer": Known("Apache-2.0"),
    "CodeFormer": Known("S-Lab License 1.0 (non-commercial)", fidelity=0.5),
}


class SpandrelRestorer(PlacedModule):
    """Restore FFHQ-aligned faces of 512 pixels by another project's network.

    CodeFormer's fidelity w in [0, 1] keeps more of the degraded face with larger values; its
    authors use 0.5. What GFPGAN draws at random is keyed by the face.
    """

    size: ClassVar[int] = 512
    precision: ClassVar[InferencePrecision] = "float32"
    is_preview: ClassVar[bool] = False
    color_fix: ClassVar[ColorFix] = "none"
    intermediates: ClassVar[Intermediates] = "unused"

    def __init__(self, file: Path, *, device: torch.device, fingerprint: str | None = None) -> None:
        """Load a checkpoint.

        Raises: FileNotFoundError; ValueError if spandrel knows no face restorer of this layout.
        """
        super().__init__()
        found = _load(file)
        self.name: str = found.architecture.id
        self.fidelity = KNOWN[self.name].fidelity
        self.licence = KNOWN[self.name].licence
        self.fingerprint = fingerprint or sha256_of(file)
        self._network = found.model.to(device).eval().requires_grad_(requires_grad=False)

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
        """Restore aligned faces, RGB in [0, 1], one by one: a face's batch changes nothing."""
        refuse_intermediates(self.name, intermediate_B3HW)
        options: dict[str, Any] = {}
        if self.fidelity is not None:
            options["weight"] = self.fidelity if fidelity is None else fidelity
        restored = [
            self._restore(lq_13HW, f"{face_id} {variant}", options)
            for lq_13HW, face_id, variant in zip(lq_B3HW[:, None], face_ids, variants, strict=True)
        ]
        return Restoration(torch.cat(restored))

    def _restore(self, lq_13HW: Tensor, key: str, options: Mapping[str, Any]) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            signed_13HW: Tensor = self._network(2 * lq_13HW - 1, **options)[0]
        return images.rounded((signed_13HW + 1) / 2)


def _load(file: Path) -> Any:
    """Return spandrel's description of a checkpoint."""
    import spandrel

    registry = spandrel.ArchRegistry()
    registry.add(*spandrel.MAIN_REGISTRY)
    try:
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # torch.jit.script
            import spandrel_extra_arches

        registry.add(*spandrel_extra_arches.EXTRA_REGISTRY)
        lacks = ""
    except ImportError:
        lacks = "; for CodeFormer, run 'pip install spandrel-extra-arches' (non-commercial)"
    try:
        found = spandrel.ModelLoader(registry=registry).load_from_state_dict(read_tensors(file))
    except spandrel.UnsupportedModelError as error:
        raise ValueError(f"{file} holds no network that spandrel knows{lacks}") from error
    if found.architecture.id not in KNOWN:
        raise ValueError(
            f"{file} holds a network of the kind {found.architecture.id}, not a face restorer: "
            f"there are {', '.join(KNOWN)}"
        )
    return found
