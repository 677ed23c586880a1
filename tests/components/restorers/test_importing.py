"""Published folders become trained ones that restore as their authors' programs do."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.encoders.codebook import Codebook, CodebookSizes, published
from components.encoders.dinov3 import DINOv3
from components.hashes import sha256_of
from components.restorers.folder import begin_restorer, load_restorer
from components.restorers.import_osdface import import_osdface
from components.restorers.import_sd21 import import_sd21
from components.restorers.spec import RestorerSpec
from components.weights.manifest import Description
from components.weights.store import open_weights
from tests.offloading import assert_offloads
from tests.published_layouts import (
    RANK,
    faces,
    merged_step,
    narrow_encoder,
    write_osdface,
    write_sd21,
)
from tests.small_networks import DINO, SIZE, trained

IDS = ["a", "b"]
LORA = "pytorch_lora_weights.safetensors"
TOLERANCE = 0.5 / 255 + 1e-3  # 8 bits, and latents in float16
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def published_folders(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {
        "sd21": write_sd21(root / "sd21", networks / "sd21"),
        "osdface": write_osdface(root / "osdface", networks / "sd21"),
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow_encoder(tmp_path_factory.mktemp("weights") / "narrow")


def sdfm(sr: Tensor, lq: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Fuse by equations 3 to 7."""

    def mlp(x: Tensor, name: str) -> Tensor:
        x = x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
        return (x * x.sigmoid()) @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]

    def norm(x: Tensor) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, keepdim=True, correction=0) + 1e-5
        ) ** 0.5
        return scaled * weights["norm.weight"] + weights["norm.bias"]

    sr, lq = norm(sr), norm(lq)
    seen = torch.cat([sr, lq, (sr - lq).abs()], dim=-1)
    alpha = (
        mlp(seen.mean(1, keepdim=True), "channel_mlp").sigmoid() * mlp(seen, "token_mlp").sigmoid()
    )
    return alpha * sr + (1 - alpha) * lq


@pytest.mark.parametrize("mixed", [False, True], ids=["one spelling", "two spellings"])
def test_hdrfaces_weights_restore_as_published(
    tmp_path: Path, networks: Path, encoder: Path, *, mixed: bool
) -> None:
    base, first = networks / "sd21", trained(tmp_path, networks, "qwen", "text")
    source = write_sd21(tmp_path / "authors", base, mixed=mixed)
    read = import_sd21(
        source, tmp_path / "out", base=base, encoder=encoder, intermediate=first, size=SIZE
    )
    assert read["fusion.pth"] == 10
    lq = faces(2)
    got = load_restorer(tmp_path / "out").restore(lq, IDS, [0, 0]).restored_B3HW

    intermediate = load_restorer(first).restore(lq, IDS, [0, 0]).restored_B3HW
    dinov3 = DINOv3(encoder, input_size=DINO["image_size"])
    weights = torch.load(source / "fusion.pth", weights_only=True)
    expected = merged_step(base, lq, IDS, sdfm(dinov3(intermediate), dinov3(lq), weights))
    assert float((got - expected).abs().max()) <= TOLERANCE
    plain = merged_step(base, lq, IDS, torch.zeros(2, 5, weights["norm.bias"].numel()))
    assert float((got - plain).abs().max()) > 5 * TOLERANCE  # another condition would be seen


@torch.no_grad()
def test_osdfaces_weights_restore_as_published(tmp_path: Path, networks: Path) -> None:
    base = networks / "sd21"
    source = write_osdface(tmp_path / "authors", base)
    import_osdface(source, tmp_path / "out", base=base, encoder=None, intermediate=None, size=SIZE)
    lq = faces(2)
    restorer = load_restorer(tmp_path / "out")
    got = restorer.restore(lq, IDS, [0, 0]).restored_B3HW

    tensors = published(load_file(source / "associate_2.safetensors"))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    codebook = Codebook(CodebookSizes.of(shapes), input_size=32, num_tokens=77)
    codebook.load_state_dict(tensors)
    codes = codebook(lq)
    change = torch.load(source / "embedding_change_weights.pth", weights_only=True)
    for name in ("conv1", "conv2"):
        codes = codes @ change[f"{name}.weight"][..., 0].T + change[f"{name}.bias"]
        codes = codes * codes.sigmoid()
    expected = merged_step(base, lq, IDS, codes)
    assert float((got - expected).abs().max()) <= TOLERANCE
    plain = merged_step(base, lq, IDS, torch.zeros_like(codes))
    assert float((got - plain).abs().max()) > 5 * TOLERANCE
    alone = restorer.restore(lq[1:], ["b"], [0]).restored_B3HW
    assert float((alone - got[1:]).abs().max()) <= 1.01 / 255
    assert_offloads(tmp_path / "out", SIZE)


def test_the_folder_says_where_it_comes_from_and_what_it_needs(
    tmp_path: Path, networks: Path, encoder: Path
) -> None:
    base = networks / "sd21"
    source = write_sd21(tmp_path / "authors", base)
    out = tmp_path / "models" / "out"
    import_sd21(source, out, base=base, encoder=encoder, intermediate=None, size=SIZE)
    content = json.loads((out / "restorer.json").read_text())
    assert content["lineage"]["imported"] == {
        "layout": "sd21",
        "files": {name: sha256_of(source / name) for name in ("fusion.pth", LORA)},
    }
    assert {
        role: (need["fingerprint"], (out / need["hint"]).resolve())
        for role, need in content["needs"].items()
    } == {
        role: (Description.read(folder).fingerprint, folder.resolve())
        for role, folder in (("backbone", base), ("encoder", encoder))
    }
    assert content["licences"] == ["HDRFace: MIT", "none"]
    assert (content["posterior"], content["encoder_size"]) == ("sample", DINO["image_size"])
    assert (content["lora"]["rank"], content["lora"]["alpha"]) == (RANK, RANK)


def changed(file: Path, change: Change) -> None:
    if file.suffix == ".pth":
        tensors = dict(torch.load(file, weights_only=True))
        change(tensors)
        torch.save(tensors, file)
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)


def first(tensors: dict[str, Tensor], *words: str) -> str:
    return next(name for name in sorted(tensors) if all(word in name for word in words))


DAMAGES: dict[str, tuple[Change, str]] = {
    "missing": (lambda t: t.pop(sorted(t)[0]), r"lacks 1 tensors, e\.g\. \w"),
    "unexpected": (lambda t: t.update(gate=torch.zeros(1)), r"has no place for 1 .* gate"),
    "shape": (
        lambda t: t.update({sorted(t)[-1]: torch.zeros(5, 7)}),
        r"has another shape of 1 tensors, e\.g\. .* is \(5, 7\), not \(",
    ),
    "half": (lambda t: t.pop(first(t, "lora_B")), r"lacks 1 tensors, e\.g\. unet\..*lora_B"),
    "no module": (
        lambda t: t.update({"unet.nowhere.lora_A.weight": torch.zeros(4, 8)}),
        r"has no place for 1 tensors, e\.g\. unet\.nowhere\.lora_A",
    ),
    "no prefix": (
        lambda t: t.update({name.removeprefix("unet."): t.pop(name) for name in list(t)}),
        r"has no place for \d+ tensors",
    ),
    "wide": (
        lambda t: t.update({first(t, "lora_A"): torch.zeros(4, 9)}),
        r"has another shape of 1 tensors",
    ),
}
CONDITION_FILES = ("fusion.pth", "embedding_change_weights.pth", "associate_2.safetensors")


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[Path]:
    out = tmp_path / "models" / "out"
    out.parent.mkdir()
    yield out
    assert list(out.parent.iterdir()) == []


def import_any(source: Path, out: Path, networks: Path, encoder: Path) -> None:
    base = networks / "sd21"
    if (source / "fusion.pth").is_file():
        import_sd21(source, out, base=base, encoder=encoder, intermediate=None, size=SIZE)
    else:
        import_osdface(source, out, base=base, encoder=None, intermediate=None, size=SIZE)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in CONDITION_FILES
            for damage in ("missing", "unexpected", "shape")
        ),
        *itertools.product([LORA], ("half", "no module", "no prefix", "wide")),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    published_folders: Mapping[str, Path],
    tmp_path: Path,
    networks: Path,
    encoder: Path,
    nothing_left: Path,
    name: str,
    damage: str,
) -> None:
    layout = "sd21" if name == "fusion.pth" else "osdface"
    source = shutil.copytree(published_folders[layout], tmp_path / "authors")
    change, told = DAMAGES[damage]
    changed(source / name, change)
    with pytest.raises(ValueError, match=rf"(?s){name} .*{told}"):
        import_any(source, nothing_left, networks, encoder)


def test_all_files_are_compared_before_it_is_refused(
    tmp_path: Path, networks: Path, nothing_left: Path
) -> None:
    source = write_osdface(tmp_path / "authors", networks / "sd21")
    for name in (*CONDITION_FILES[1:], LORA):
        changed(source / name, lambda tensors: tensors.update(more=torch.zeros(1)))
    with pytest.raises(ValueError, match="nothing was written") as refused:
        import_any(source, nothing_left, networks, networks)
    for name in (*CONDITION_FILES[1:], LORA):
        assert f"{name} has no place for 1 tensors, e.g. more" in str(refused.value)


def test_the_pickle_of_a_training_is_never_read(
    tmp_path: Path, networks: Path, nothing_left: Path
) -> None:
    source = write_osdface(tmp_path / "authors", networks / "sd21")
    (source / "associate_2.safetensors").rename(source / "associate_2.ckpt")
    with pytest.raises(FileNotFoundError, match=r"associate_2\.ckpt as docs/published\.md shows"):
        import_any(source, nothing_left, networks, networks)


def test_the_pages_lines_make_the_file_that_is_read(
    published_folders: Mapping[str, Path],
    tmp_path: Path,
    networks: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = shutil.copytree(published_folders["osdface"], tmp_path / "authors")
    file = source / "associate_2.safetensors"
    expected = load_file(file)
    others = {f"vqvae_{name}.weight": torch.zeros(2) for name in ("HQ.encoder", "LQ.decoder")}
    torch.save({"state_dict": expected | others, "epoch": 3}, source / "associate_2.ckpt")
    file.unlink()
    page = (repository / "docs/published.md").read_text()
    monkeypatch.chdir(source)
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})
    found = load_file(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    import_any(source, tmp_path / "out", networks, networks)


def test_the_codebook_is_refused_as_a_condition_to_train(networks: Path) -> None:
    values = {"backbone": "sd21", "condition": "codebook", "trainable": "full", "seed": 1}
    spec = RestorerSpec.model_validate(values | {"size": SIZE})
    with pytest.raises(ValueError, match="condition 'codebook' is not trained, only imported"):
        begin_restorer(spec, open_weights(networks / "sd21"), token_width=32)


def test_files_that_are_missing_are_named_together(
    tmp_path: Path, networks: Path, encoder: Path, nothing_left: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no fusion\.pth, no pytorch_lora"):
        import_sd21(
            tmp_path / "empty",
            nothing_left,
            base=networks / "sd21",
            encoder=encoder,
            intermediate=None,
            size=SIZE,
        )


def test_an_encoder_of_another_width_is_named(
    tmp_path: Path, networks: Path, nothing_left: Path
) -> None:
    source = write_sd21(tmp_path / "authors", networks / "sd21")
    with pytest.raises(ValueError, match=r"dinov3 makes tokens 32 wide, and .*sd21 takes 24"):
        import_any(source, nothing_left, networks, networks / "dinov3")


def test_a_first_restorer_of_another_size_is_refused(
    tmp_path: Path, networks: Path, encoder: Path, nothing_left: Path
) -> None:
    first = trained(tmp_path / "first", networks, "qwen", "text")
    source = write_sd21(tmp_path / "authors", networks / "sd21")
    with pytest.raises(ValueError, match=r"qwen-text restores faces of 32 pixels, not of 512"):
        import_sd21(
            source,
            nothing_left,
            base=networks / "sd21",
            encoder=encoder,
            intermediate=first,
            size=512,
        )
