"""bfloat16 and activations that are computed again: what changes, and what does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.backbones.catalogue import BackboneName
from components.params import Recomputable
from components.training.loop import Opponent
from components.training.recomputing import recomputing
from components.training.restorer_training import RestorerTraining
from components.training.step import Batch, TrainingStep
from components.weights.manifest import write_manifest
from components.weights.precision import Precision, settle
from components.weights.shared import share
from tests.small_networks import SEES, SIZE

ALL: tuple[Recomputable, ...] = ("generator", "decoder", "losses", "discriminator")
MADE: Any = {
    **{"name": "weights", "kind": "stand-in", "source": "a test"},
    **{"revision": None, "licence": "none"},
}


def training(networks: Path, backbone: BackboneName, precision: Precision, **spec: Any) -> Any:
    losses = {
        "pixel": {"weight": 1.0, "range": "signed"},
        "adversarial": {"weight": 0.1, "loss": "relativistic"},
    }
    return RestorerTraining.model_validate(
        {
            "spec": {
                "backbone": backbone,
                "condition": "sdfm",
                "trainable": "full",
                "size": SIZE,
                "encoder_size": 32,
                "seed": 1,
                **spec,
            },
            "losses": losses,
            "identity_network": None,
            "optimization": {
                **{"steps": 2, "batch_size": 2, "learning_rate": 1e-3},
                **{"checkpoint_every": 1, "log_every": 1},
            },
            "clean_condition": 1,
            "weights": share(networks / backbone),
            "discriminator": {
                "weights": networks / f"{backbone}-discriminator",
                "condition": SEES[backbone],
                "optimization": {"learning_rate": 1e-3},
            },
            "discriminator_weights": share(networks / f"{backbone}-discriminator"),
            "precision": precision,
            "token_width": 32,
            "needs": {},
            "licences": (),
        }
    )


def one_step(step: TrainingStep, opponent: Opponent | None) -> dict[str, Tensor]:
    """Take both turns; return the losses and every gradient by name."""
    draw = torch.Generator().manual_seed(1)
    hq = torch.rand(2, 3, SIZE, SIZE, generator=draw)
    lq_latent, hq_latent = torch.randn(2, 2, 4, SIZE // 2, SIZE // 2, generator=draw)
    tokens = torch.randn(2, 2, 9, 32, generator=draw)
    batch = Batch(hq, lq_latent, hq_latent, tokens[0], tokens[1])
    noise = torch.Generator().manual_seed(2)
    assert opponent is not None
    results: dict[str, Tensor] = {}
    for turn in (lambda: step(batch, noise), lambda: opponent.module(noise)):
        losses = turn()
        losses["loss"].backward()
        results |= {name: value.detach() for name, value in losses.items()}
    for module in (step, opponent.module):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                results[f"gradient of {name}"] = parameter.grad
    return results


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_activations_that_are_computed_again_change_no_bit(
    networks: Path, backbone: BackboneName, precision: Precision
) -> None:
    made = training(networks, backbone, precision)
    kept = one_step(*made.start(torch.device("cpu")))
    again = one_step(*made.start(torch.device("cpu"), ALL))
    assert kept.keys() == again.keys()
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_a_step_keeps_fewer_activations_with_each_part_that_computes_them_again(
    networks: Path, backbone: BackboneName
) -> None:
    made = training(networks, backbone, "float32")

    def kept(parts: tuple[Recomputable, ...]) -> int:
        sizes: dict[int, int] = {}

        def save(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        step, opponent = made.start(torch.device("cpu"), parts)
        assert opponent is not None
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            one_step(step, opponent)
        return sum(sizes.values())

    everything = kept(())
    for part in ("generator", "decoder", "discriminator"):
        assert kept((part,)) < everything, part


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_with_bf16_frozen_matrices_are_small_and_what_trains_is_float32(
    networks: Path, backbone: BackboneName, trainable: str
) -> None:
    lora = {"rank": 2, "alpha": 2} if trainable == "lora" else None
    step, opponent = training(networks, backbone, "bf16", trainable=trainable, lora=lora).start(
        torch.device("cpu")
    )
    for name, parameter in step.named_parameters():
        frozen_matrix = not parameter.requires_grad and parameter.dim() > 1
        expected = torch.bfloat16 if frozen_matrix else torch.float32
        assert parameter.dtype == expected, name
    results = one_step(step, opponent)
    assert all(torch.isfinite(value).all() for value in results.values())
    assert all(value.dtype == torch.float32 for value in results.values())


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_bf16_weights_train_and_the_trained_folder_loads_in_float32(
    networks: Path, backbone: BackboneName, tmp_path: Path
) -> None:
    frugal = {"algorithm": "adamw-8bit", "weights": "bf16"}
    made = training(networks, backbone, "bf16")
    discriminator = made.discriminator
    assert discriminator is not None
    theirs = discriminator.optimization.model_copy(update=frugal)
    changes = {
        "optimization": made.optimization.model_copy(update=frugal),
        "discriminator": discriminator.model_copy(update={"optimization": theirs}),
    }
    step, opponent = made.model_copy(update=changes).start(torch.device("cpu"))
    assert opponent is not None
    for network in (step.restorer.backbone.generator, opponent.module):
        for name, parameter in network.named_parameters():
            expected = torch.bfloat16 if parameter.dim() > 1 else torch.float32
            assert parameter.dtype == expected, name
    gate = step.restorer.condition.parameters()
    assert {parameter.dtype for parameter in gate} == {torch.float32}
    results = one_step(step, opponent)
    assert all(torch.isfinite(value).all() for value in results.values())
    generator = step.restorer.backbone.generator
    generator.save_pretrained(tmp_path)
    loaded = type(generator).from_pretrained(tmp_path)
    for name, tensor in generator.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32, name
        assert torch.equal(loaded.state_dict()[name], tensor.float()), name


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_bf16_is_close_to_float32(networks: Path, backbone: BackboneName) -> None:
    exact, rounded = (
        one_step(*training(networks, backbone, precision).start(torch.device("cpu")))
        for precision in ("float32", "bf16")
    )
    assert rounded["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.02)
    for name in ("pixel", "adversarial"):
        assert rounded[name].item() == pytest.approx(exact[name].item(), rel=0.02)
        assert rounded[name] != exact[name]
    gate = next(name for name in exact if name.endswith("fusion.channel_mlp.0.weight"))
    cosine = nn.functional.cosine_similarity(rounded[gate].flatten(), exact[gate].flatten(), dim=0)
    assert cosine > 0.98


def test_without_gradients_nothing_is_computed_twice() -> None:
    calls = 0

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x)

    module = Counted(2, 2)
    recomputing([module])
    x = torch.ones(1, 2)
    with torch.no_grad():
        module(x)
    assert calls == 1
    module(x).sum().backward()
    assert calls == 3


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 4).half().requires_grad_(requires_grad=False)
        self.trained = nn.Linear(3, 4).bfloat16()
        self.index = nn.Parameter(torch.arange(4).view(2, 2), requires_grad=False)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_part_is_settled_by_itself_and_twice_is_as_once(precision: Precision) -> None:
    module = Mixed()
    before = {name: value.float() for name, value in module.state_dict().items()}
    settle(module.frozen.modules(), precision, torch.device("cpu"))
    assert module.trained.weight.dtype == torch.bfloat16  # not its turn
    for _ in range(2):
        old = {name: parameter.data_ptr() for name, parameter in module.named_parameters()}
        settle(module.modules(), precision, torch.device("cpu"))
        assert all(p.data_ptr() != old[name] for name, p in module.named_parameters())
        matrix = torch.bfloat16 if precision == "bf16" else torch.float32
        assert module.frozen.weight.dtype == matrix
        assert module.index.dtype == torch.int64
        for parameter in (module.frozen.bias, module.trained.weight, module.trained.bias):
            assert parameter.dtype == torch.float32
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name].to(value.dtype)), name


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_on_files_in_bf16_is_that_on_the_same_numbers_in_float32(
    networks: Path, tmp_path: Path, backbone: BackboneName, precision: Precision
) -> None:
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        root = shutil.copytree(networks, tmp_path / str(dtype))
        for file in [*(root / backbone).rglob("diffusion*.safetensors")]:
            rounded = {name: t.bfloat16().to(dtype) for name, t in load_file(file).items()}
            save_file(rounded, file)
        write_manifest(root / backbone, **MADE)
        made = training(root, backbone, precision, trainable="lora", lora={"rank": 2, "alpha": 2})
        results.append(one_step(*made.start(torch.device("cpu"))))
    half, whole = results
    assert half.keys() == whole.keys()
    assert [name for name in half if not torch.equal(half[name], whole[name])] == []


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_a_training_on_cached_latents_leaves_out_what_encodes(
    networks: Path, tmp_path: Path, backbone: BackboneName
) -> None:
    made = training(networks, backbone, "float32")
    step, _ = made.start(torch.device("cpu"))
    names = {name for name, _ in step.restorer.backbone.vae.named_children()}
    assert names == {"decoder", "post_quant_conv"}
    with pytest.raises(AttributeError, match="encoder"):
        step.encode(torch.zeros(1, 3, SIZE, SIZE))
    made.export(step, tmp_path / "trained", is_first_rank=True)
    kept = {path.name for path in (tmp_path / "trained").iterdir()}
    folder = step.restorer.backbone.generator_folder
    assert {"restorer.json", "fusion.safetensors", "projection.safetensors", folder} == kept
    plain = training(networks, backbone, "float32", condition="text", encoder_size=None)
    step, _ = plain.start(torch.device("cpu"))
    assert step.encode(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 4, SIZE // 2, SIZE // 2)
