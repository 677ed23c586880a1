"""Q-Align from a local folder gives what pyiqa gives, with a tiny random network."""

from pathlib import Path

import pytest
import torch

from components.metrics.catalogue import open_metrics
from components.metrics.qalign import _debugging_absent

WORDS = ["<unk>", "<s>", "</s>", "▁excellent", "▁good", "▁fair", "▁poor", "▁bad"]
PROMPT = "USER: How would you rate the quality of this image?\nASSISTANT: The quality is"
VISUAL = {
    "visual_model": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "visual_abstractor": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_learnable_queries": 4,
        "encoder_hidden_size": 16,
        "grid_size": 2,
    },
}


def write_network(folder: Path) -> None:
    from pyiqa.archs.q_align import modeling_mplug_owl2 as published
    from pyiqa.archs.q_align.configuration_mplug_owl2 import MPLUGOwl2Config
    from transformers import CLIPImageProcessor, LlamaTokenizer

    letters = sorted({*PROMPT, *"".join(WORDS)})
    vocab = {word: place for place, word in enumerate([*WORDS, *letters])}
    LlamaTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    config = MPLUGOwl2Config(
        visual_config=VISUAL,
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    network = published.MPLUGOwl2LlamaForCausalLM(config).half()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, 0, 0.1)
    torch.nn.init.normal_(network.lm_head.weight, 0, 3)  # so that a small change is seen
    network.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_local_folder_gives_the_scores_of_pyiqas_own_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyiqa

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "q-future/one-align"  # which transformers prefers to the hub's
    folder.mkdir(parents=True)
    with _debugging_absent():
        write_network(folder)
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    (tmp_path / "hub/hdrface/one-align").symlink_to(folder)
    metrics, unavailable = open_metrics(["qalign"], identity_network=None)
    assert not unavailable
    faces = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    scores = metrics["qalign"](faces, None)
    published = pyiqa.create_metric("qalign", device=torch.device("cpu"))
    assert scores == pytest.approx([float(published(face[None])) for face in faces], abs=1e-6)
    assert list(metrics["qalign"].how.protocol["files"]) == ["hdrface/one-align/model.safetensors"]
