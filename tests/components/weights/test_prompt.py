"""The text condition: the fixed prompt, encoded by the backbone's own text encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from components.backbones.catalogue import FAMILIES
from components.discriminators.sdxl import SdxlDiscriminator
from components.weights.prompt import REFERENCE_PROMPT, write_prompt


def test_stable_diffusion_sees_77_tokens_of_its_clip_encoder(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    """As CLIP called directly: start, words, end, then exclamation marks up to 77."""
    from transformers import CLIPTextModel, CLIPTokenizer

    encoded_LD = FAMILIES["sd21"].prompt(stable_diffusion, REFERENCE_PROMPT)
    encoded = {"prompt": encoded_LD}
    write_prompt(encoded, REFERENCE_PROMPT, tmp_path / "prompt.safetensors")
    with safe_open(tmp_path / "prompt.safetensors", "pt") as file:
        prompt_LD = file.get_tensor("prompt")
        assert file.metadata() == {"text": REFERENCE_PROMPT}
    assert prompt_LD.shape == (77, 16)
    assert prompt_LD.dtype == torch.float32

    tokenizer = CLIPTokenizer.from_pretrained(stable_diffusion / "tokenizer")
    ids = tokenizer(REFERENCE_PROMPT, add_special_tokens=False).input_ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    padded = [start, *ids, end]
    padded += [0] * (77 - len(padded))
    encoder = CLIPTextModel.from_pretrained(stable_diffusion / "text_encoder")
    with torch.no_grad():
        expected = encoder(torch.tensor([padded])).last_hidden_state[0]
    torch.testing.assert_close(prompt_LD, expected)


def test_sdxls_prompt_is_what_its_two_text_encoders_say_of_it(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    """The last but one layer of both, side by side; the second one's projection is pooled."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(stable_diffusion / name, tmp_path / name)
    shutil.copytree(tmp_path / "tokenizer", tmp_path / "tokenizer_2")
    first = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    torch.manual_seed(6)
    config = CLIPTextConfig.from_pretrained(tmp_path / "text_encoder", projection_dim=12)
    second = CLIPTextModelWithProjection(config)
    second.save_pretrained(tmp_path / "text_encoder_2")

    encoded = SdxlDiscriminator.encode_prompt(tmp_path, "a face")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer("a face", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        both = [model(ids, output_hidden_states=True) for model in (first.eval(), second.eval())]
    tokens_1LD = torch.cat([output.hidden_states[-2] for output in both], dim=-1)
    torch.testing.assert_close(encoded["prompt"], tokens_1LD[0])
    torch.testing.assert_close(encoded["pooled"], both[1].text_embeds[0])


def test_another_prompt_is_another_condition(stable_diffusion: Path) -> None:
    prompt = FAMILIES["sd21"].prompt
    first, second = (prompt(stable_diffusion, text) for text in ("a face", "a photo"))
    assert not torch.equal(first, second)
    assert torch.equal(first, prompt(stable_diffusion, "a face"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL of two narrow layers, with a byte-level vocabulary without merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("published") / "qwen"
    (folder / "tokenizer").mkdir(parents=True)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), *special])}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": special,
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 2, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 24,
    }
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    ).bfloat16()
    model.save_pretrained(folder / "text_encoder", safe_serialization=True)
    return folder


def test_qwen_drops_the_tokens_of_its_template(qwen: Path) -> None:
    """One token per byte here, so the length is known: the template minus 34, and the words."""
    words = FAMILIES["qwen"].prompt(qwen, "a face")
    longer = FAMILIES["qwen"].prompt(qwen, "a face, sharp")
    assert words.dtype == torch.float32
    assert words.shape[1] == 24
    assert len(longer) - len(words) == len(", sharp")


def test_an_unknown_text_encoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="is a 't5': prompts of StableDiffusion are encoded by a"):
        FAMILIES["sd21"].prompt(tmp_path, "a face")
