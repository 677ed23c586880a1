"""Frozen DINOv3 tokens of a face (METHOD, section 1).

B batch, N tokens (1 CLS, then registers, then patches row by row), C token width.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for the moment that loading takes."""
    from transformers.utils import logging

    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if is_shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class DINOv3(nn.Module):
    """Turn images into all tokens of DINOv3's last hidden state, after the final norm (eq. 1, 2).

    Shape: image_B3HW, RGB in [0, 1] -> tokens_BNC float32,
    N = 1 + registers + (input_size / patch)².
    Images are resized to `input_size` with antialiased bilinear filtering and normalised with
    ImageNet's mean and deviation. No gradient flows.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, *, input_size: int) -> None:
        """Load a transformers folder (`config.json`, `model.safetensors`) in float32.

        Raises: ValueError if tensors are missing or do not fit, or if `input_size` is not a
            multiple of the network's patch.
        """
        super().__init__()
        from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

        # By transformers itself, which knows older names; it only warns of what does not fit.
        with _without_progress_bar():
            loaded: Any = DINOv3ViTModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        self.network, told = loaded
        if wrong := sorted(map(str, {*told["missing_keys"], *told["mismatched_keys"]})):
            raise ValueError(
                f"{folder} does not fit its config.json: {len(wrong)} tensors are missing or of "
                f"another shape, e.g. {wrong[0]}: fetch both of the same network"
            )
        self.network.train(mode=False).requires_grad_(requires_grad=False)
        patch = cast("int", self.network.config.patch_size)
        if input_size % patch:
            raise ValueError(
                f"DINOv3 input size {input_size} is not a multiple of its patch {patch}: "
                f"use {round(input_size / patch) * patch or patch}"
            )
        self.input_size = input_size
        self.width: int = self.network.config.hidden_size
        self.patches_per_side: int = input_size // patch
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        resized = F.interpolate(
            image_B3HW, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        pixels = (resized - self.mean) / self.std
        tokens_BNC: Tensor = self.network(pixel_values=pixels).last_hidden_state
        return tokens_BNC

    def patch_map(self, values_BN: Tensor) -> Tensor:
        """Return values without CLS and registers: per token (B, N) -> per patch (B, h, w)."""
        side = self.patches_per_side
        return values_BN[:, -side * side :].reshape(-1, side, side)
