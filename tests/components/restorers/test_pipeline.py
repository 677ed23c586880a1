"""A trained folder as diffusers' users know a model: call it, move it, save it, share it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from components import images
from components.backbones.catalogue import BackboneName
from components.restorers.folder import load_restorer
from components.restorers.pipeline import HDRFacePipeline
from components.restorers.protocol import RestoresFaces
from tests.small_networks import SIZE, trained


def face(seed: int, size: int = SIZE) -> PIL.Image.Image:
    draw = np.random.default_rng(seed)
    return PIL.Image.fromarray(draw.integers(256, size=(size, size, 3), dtype=np.uint8))


def tensor(*faces: PIL.Image.Image) -> Tensor:
    return images.to_tensor([np.asarray(one) for one in faces])


def restored_by(restorer: RestoresFaces, *faces: PIL.Image.Image) -> list[np.ndarray]:
    """Restore as `hdrface restore` does: noise keyed by a face's pixels."""
    keys = [hashlib.sha256(np.asarray(one).tobytes()).hexdigest() for one in faces]
    done = restorer.restore(tensor(*faces), keys, [0] * len(faces))
    return images.from_tensor(done.restored_B3HW)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    """Return SD's trained folder: first restored by Qwen-Image, whose noise is drawn."""
    return trained(tmp_path_factory.mktemp("models"), networks, "sd21", "sdfm")


def test_a_face_is_restored_as_by_the_restorer_and_has_its_gate(gated: Path) -> None:
    pipe = HDRFacePipeline.from_pretrained(gated)
    done = pipe([face(1), face(2)])
    expected = restored_by(load_restorer(gated), face(1), face(2))
    for got, wanted in zip(done.images, expected, strict=True):
        assert np.array_equal(np.asarray(got), wanted)
    assert done.gate is not None
    assert done.gate.shape == (2, 2, 2)
    assert np.array_equal(np.asarray(pipe(face(2)).images[0]), np.asarray(done.images[1]))


def test_given_pictures_take_the_place_of_the_first_restoration(gated: Path) -> None:
    pipe = HDRFacePipeline.from_pretrained(gated)
    first = load_restorer(gated).intermediate
    assert first is not None
    own, given, other = (
        pipe(face(1), intermediate=picture)
        for picture in (None, PIL.Image.fromarray(restored_by(first, face(1))[0]), face(9))
    )
    assert np.array_equal(own.gate, given.gate)
    assert np.array_equal(np.asarray(own.images[0]), np.asarray(given.images[0]))
    assert not np.allclose(own.gate, other.gate)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image": PIL.Image.new("RGB", (40, 32))}, r"image\[0\] is 40 x 32: .* aligned faces"),
        ({"image": []}, "image is an empty list"),
        ({"image": face(1), "fidelity": 0.5}, r"fidelity = 0.5: sd21-sdfm accepts only 1"),
        ({"image": face(1), "intermediate": [face(1)] * 2}, "has 2 pictures, image has 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    gated: Path, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        HDRFacePipeline.from_pretrained(gated)(**arguments)
    with pytest.raises(ValueError, match="compute in float32"):
        HDRFacePipeline.from_pretrained(gated).to(torch.float16)


def test_a_picture_of_another_size_is_resized(gated: Path) -> None:
    large = face(3, 2 * SIZE)
    small = PIL.Image.fromarray(images.resize(np.asarray(large), SIZE))
    pipe = HDRFacePipeline.from_pretrained(gated)
    assert np.array_equal(np.asarray(pipe(large).images[0]), np.asarray(pipe(small).images[0]))


def test_a_generator_draws_the_noise(tmp_path: Path, networks: Path) -> None:
    pipe = HDRFacePipeline.from_pretrained(trained(tmp_path, networks, "qwen", "text"))

    def restored(seed: int | None) -> np.ndarray:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return np.asarray(pipe(face(1), generator=generator).images[0])

    assert np.array_equal(restored(7), restored(7))
    assert not np.array_equal(restored(7), restored(8))
    assert np.array_equal(restored(None), restored(None))
    once = torch.Generator().manual_seed(7)
    two = [np.asarray(pipe(face(1), generator=once).images[0]) for _ in range(2)]
    assert not np.array_equal(*two)


def test_the_colour_fix_takes_the_colours_of_the_first_restoration(gated: Path) -> None:
    grey = PIL.Image.new("RGB", (SIZE, SIZE), (90, 120, 150))
    fixed = HDRFacePipeline.from_pretrained(gated)(face(1), intermediate=grey, color_fix="adain")
    mean = np.asarray(fixed.images[0]).mean(axis=(0, 1))
    assert np.abs(mean - [90, 120, 150]).max() < 2


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_offloading_moves_each_network_when_it_is_called(
    tmp_path: Path, networks: Path, backbone: BackboneName, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = HDRFacePipeline.from_pretrained(trained(tmp_path, networks, backbone, "sdfm"))
    expected = np.asarray(pipe(face(1)).images[0], int)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    generator = {"sd21": "unet", "qwen": "transformer"}[backbone]
    assert parts.keys() == {"vae", generator, "encoder", "condition", "intermediate"}
    of_components = {id(p) for part in parts.values() for p in part.parameters()}
    assert of_components == {id(p) for p in pipe.opened.restorer.parameters()}

    pipe.enable_model_cpu_offload(device="cpu:0")  # stands for a GPU: another name, so it is moved
    moved: list[str] = []
    for name, part in parts.items():
        original = part._hf_hook.pre_forward

        def noted(*given: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            moved.append(name)
            return original(*given, **more)

        monkeypatch.setattr(part._hf_hook, "pre_forward", noted)
    assert np.abs(np.asarray(pipe(face(1)).images[0], int) - expected).max() <= 1
    assert list(dict.fromkeys(moved)) == ["intermediate", "encoder", "vae", "condition", generator]
    assert moved[-1] == "vae"  # decodes last


def test_a_saved_pipeline_opens_where_nothing_else_is(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(networks, tmp_path / "here" / "weights")
    folder = trained(tmp_path / "here", own, "sd21", "sdfm")
    pipe = HDRFacePipeline.from_pretrained(folder)
    expected = np.asarray(pipe(face(1)).images[0])
    pipe.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "here")
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "empty"))
    again = HDRFacePipeline.from_pretrained(tmp_path / "saved")
    assert np.array_equal(np.asarray(again(face(1)).images[0]), expected)
    again.save_pretrained(tmp_path / "saved again")
    assert files_below(tmp_path / "saved again") == files_below(tmp_path / "saved")
    with pytest.raises(FileExistsError, match="holds a trained folder already"):
        again.save_pretrained(tmp_path / "saved")


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_lora_of_a_trained_folder_loads_in_plain_diffusers(
    tmp_path: Path, networks: Path
) -> None:
    from diffusers import (
        AutoencoderKL,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    folder = trained(tmp_path, networks, "sd21", "text", rank=2)
    weights = networks / "sd21"
    unused: dict[str, Any] = dict.fromkeys(
        ["text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor"]
    )
    plain: Any = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(weights / "vae"),
        unet=UNet2DConditionModel.from_pretrained(weights / "unet"),
        **unused,
        requires_safety_checker=False,
    )
    torch.manual_seed(0)
    latent, condition = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 24)
    with torch.no_grad():
        before = plain.unet(latent, 399, condition).sample
        plain.load_lora_weights(folder)
        after = plain.unet(latent, 399, condition).sample
        ours = load_restorer(folder).backbone.generator(latent, 399, condition).sample
    assert float((after - before).abs().max()) > 1e-2
    torch.testing.assert_close(after, ours, atol=1e-5, rtol=1e-4)


def test_what_is_pushed_to_the_hub_opens_where_it_is_fetched(
    gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.utils import hub_utils
    from huggingface_hub import ModelCard, ModelCardData, RepoUrl

    uploads: list[str] = []

    def upload_folder(*, repo_id: str, folder_path: str, **_: Any) -> str:  # the hub's side
        shutil.copytree(folder_path, tmp_path / "hub")
        uploads.append(repo_id)
        return "a commit"

    def no_card(*_: Any, **__: Any) -> ModelCard:
        return ModelCard.from_template(ModelCardData(), template_str="---\n{{ card_data }}\n---\n")

    def create_repo(repo_id: str, **_: Any) -> RepoUrl:
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    for name, fake in (
        ("upload_folder", upload_folder),
        ("create_repo", create_repo),
        ("load_or_create_model_card", no_card),
    ):
        monkeypatch.setattr(hub_utils, name, fake)
    pipe = HDRFacePipeline.from_pretrained(gated)
    assert pipe.push_to_hub("someone/faces") == "a commit"
    assert uploads == ["someone/faces"]
    fetched = HDRFacePipeline.from_pretrained(tmp_path / "hub")
    assert fetched.opened.restorer.fingerprint == pipe.opened.restorer.fingerprint
    assert "diffusers" in (tmp_path / "hub" / "README.md").read_text()
