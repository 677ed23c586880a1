"""Tiny random networks in the published layouts, as a publisher's folder would hold them."""

import json
from pathlib import Path

import pytest
import torch

WORDS = ("high", "quality", "portrait", "photo", "detailed", "face", "sharp", "focus")


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published folder of SD's kind, not to be written into."""
    folder = tmp_path_factory.mktemp("published") / "sd21"
    write_stable_diffusion(folder)
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty store; the home is empty too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def write_stable_diffusion(folder: Path, *, width: int = 16) -> None:
    """Write a diffusers folder of SD's kind: bytes as UNet and VAE, a real CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"part": part}))
        weights = folder / part / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(f"weights of the {part}".encode())
        (folder / part / "diffusion_pytorch_model.bin").write_bytes(b"a pickle, not to be touched")
    tokens = write_clip_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=0,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder", safe_serialization=True)


def write_clip_tokenizer(folder: Path) -> int:
    """Write a byte-pair vocabulary of the prompt's letters and some words; return its size."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [","]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces = ["".join(pair), *pieces[2:]]
    vocabulary = ["!", *letters, *(f"{letter}</w>" for letter in ["!", *letters])]
    vocabulary += ["".join(pair) for pair in merges]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    index = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(index))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    # As in SD 2.1's own tokenizer: 77 places, padded with the exclamation mark.
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)
