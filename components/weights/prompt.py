"""The fixed text condition: one prompt, encoded once by the backbone's own text encoder.

The generator runs no text encoder afterwards (METHOD, section 2).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PROMPT_FILE = "prompt.safetensors"  # key `prompt`: (L tokens, width), float32
REFERENCE_PROMPT = (
    "high quality portrait photo, detailed face, sharp focus, professional photography"
)


def write_prompt(layout: Path, text: str, file: Path) -> None:
    """Encode `text` with `text_encoder/` and `tokenizer/` of a diffusers folder and save it.

    Raises: ValueError if the text encoder is of a kind that no backbone here uses.
    """
    prompt_LD = encode_prompt(layout, text)
    save_file({"prompt": prompt_LD.contiguous()}, file, metadata={"text": text})


@torch.no_grad()
def encode_prompt(layout: Path, text: str) -> Tensor:
    """Embed `text` as the backbone's own pipeline does: (L tokens, width), float32."""
    config = json.loads((layout / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in _ENCODERS:
        raise ValueError(
            f"{layout / 'text_encoder'} is a {kind!r}; "
            f"a prompt can be encoded by {', '.join(_ENCODERS)}"
        )
    return _ENCODERS[kind](layout, text)[0].float()


def _stable_diffusion(layout: Path, text: str) -> Tensor:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    pipeline = StableDiffusionPipeline(
        text_encoder=CLIPTextModel.from_pretrained(layout / "text_encoder", use_safetensors=True),
        tokenizer=CLIPTokenizer.from_pretrained(layout / "tokenizer"),
        requires_safety_checker=False,
        **_without("vae", "unet", "scheduler", "safety_checker", "feature_extractor"),
    )
    prompt_BLD: Tensor = pipeline.encode_prompt(
        text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]
    return prompt_BLD


def _qwen_image(layout: Path, text: str) -> Tensor:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    pipeline = QwenImagePipeline(
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(
            layout / "text_encoder", use_safetensors=True, dtype="auto"
        ),
        tokenizer=Qwen2Tokenizer.from_pretrained(layout / "tokenizer"),
        **_without("vae", "transformer", "scheduler"),
    )
    prompt_BLD: Tensor = pipeline.encode_prompt(text, device=torch.device("cpu"))[0]
    return prompt_BLD


def _without(*components: str) -> dict[str, Any]:
    """Leave out the parts of a pipeline that encoding a prompt does not use."""
    return dict.fromkeys(components)


# By `model_type` of the text encoder's config.
_ENCODERS: Mapping[str, Callable[[Path, str], Tensor]] = {
    "clip_text_model": _stable_diffusion,
    "qwen2_5_vl": _qwen_image,
}
