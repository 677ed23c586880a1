"""Fig. 5: what is drawn are the gate's own tokens, at their places in the face."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components import images
from components.images import Image
from components.paper import heat_maps, writing
from components.paper.heat_maps import STREAMS, FaceTokens, Tokens, principal_colours
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from tests.small_networks import SIZE, networks, trained

__all__ = ["networks"]


def layer_norm(tokens: Tokens, weight: Tokens, bias: Tokens) -> Tokens:
    mean, variance = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    return np.asarray((tokens - mean) / np.sqrt(variance + 1e-5) * weight + bias)


def faces(count: int) -> list[Image]:
    drawn = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return images.from_tensor(drawn)


def test_tokens_are_those_of_the_gate(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "sd21", "sdfm"))
    assert isinstance(restorer, HDRFace)
    lqs = faces(2)
    looked_at = heat_maps.look_at(restorer, lqs, ["a", "b"])
    restoration = restorer.restore(images.to_tensor(lqs), ["a", "b"], [0, 0])
    encoder, alpha_Bhw = restorer.encoder, restoration.alpha_BHW
    assert encoder is not None
    assert alpha_Bhw is not None
    norm = {
        name: value.double().numpy()
        for name, value in restorer.condition.state_dict().items()
        if "norm" in name
    }
    weight, bias = norm["fusion.norm.weight"], norm["fusion.norm.bias"]
    side = encoder.patches_per_side
    raw_BNC = encoder(images.to_tensor(lqs)).half().double().numpy()
    for number, one in enumerate(looked_at):
        assert (one.pictures["LQ"] == lqs[number]).all()
        lq = layer_norm(raw_BNC[number, -side * side :], weight, bias).reshape(side, side, -1)
        assert one.tokens["LQ"] == pytest.approx(lq, abs=1e-4)
        # fused = alpha SR + (1 - alpha) LQ: alpha's mean over channels is the gate's map.
        sr, fused = one.tokens["SR"], one.tokens["fused"]
        apart = np.abs(sr - one.tokens["LQ"]) > 1e-2
        alpha = np.where(apart, (fused - one.tokens["LQ"]) / np.where(apart, sr - lq, 1), np.nan)
        assert np.nanmean(alpha, axis=-1) == pytest.approx(
            alpha_Bhw[number].double().numpy(), abs=0.05
        )


def test_a_model_without_a_gate_is_refused_by_name(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "qwen", "text"))
    with pytest.raises(ValueError, match=r"qwen-text has no gate: name a model .* 'sdfm'"):
        heat_maps.look_at(restorer, faces(1), ["a"])


def test_colours_are_the_components_of_all_streams_together() -> None:
    """Against the eigenvectors of the covariance; tokens of one plane need two colours."""
    random = np.random.default_rng(3)
    basis = np.linalg.qr(random.normal(size=(12, 2)))[0]
    tokens_SNC = random.normal(size=(3, 25, 2)) * [5, 2] @ basis.T + random.normal(size=12)
    colours = principal_colours(tokens_SNC)
    flat = tokens_SNC.reshape(75, 12)
    _, vectors = np.linalg.eigh(np.cov(flat.T))
    for place in (0, 1):
        component = (flat - flat.mean(0)) @ vectors[:, -1 - place]
        inside = np.abs(component) < np.percentile(np.abs(component), 90)
        matched = np.corrcoef(component[inside], colours.reshape(75, 3)[inside, place])[0, 1]
        assert abs(matched) > 0.99
    assert colours.min() == 0
    assert colours.max() == 1


def test_equal_tokens_have_equal_colours_in_every_stream() -> None:
    one = np.random.default_rng(4).normal(size=(1, 16, 8))
    colours = principal_colours(np.repeat(one, 3, axis=0))
    assert (colours == colours[:1]).all()


def test_the_longest_token_is_the_brightest_patch_and_stays_at_its_place() -> None:
    tokens = np.random.default_rng(5).normal(size=(4, 4, 8))
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    tokens[3, 0] *= 4  # the lower left
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    one = FaceTokens({"LQ": black, "SR": black, "restored": black}, dict.fromkeys(STREAMS, tokens))
    sheet = heat_maps.draw([one, one], cell=80)
    gap, top = 4, 20
    assert sheet.shape == (top + 2 * (80 + gap), gap + 9 * (80 + gap), 3)
    left = gap + 3 * (80 + gap)
    cell = sheet[top : top + 80, left : left + 80].astype(int)
    patches = cell.reshape(4, 20, 4, 20, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(patches.argmax(), (4, 4)) == (3, 0)
    with pytest.raises(ValueError, match="no face to draw"):
        heat_maps.draw([])


def test_faces_of_a_folder_are_resized_and_evenly_chosen(tmp_path: Path, networks: Path) -> None:
    model = trained(tmp_path, networks, "sd21", "sdfm")
    folder = tmp_path / "lq"
    folder.mkdir()
    for number, face in enumerate(faces(4)):
        file = folder / f"{number}.png"
        file.write_bytes(images.encode_png(images.resize(face, 2 * SIZE)))
    looked_at = writing.look_at_set(str(model), folder, 2)
    assert len(looked_at) == 2
    assert {one.pictures["restored"].shape for one in looked_at} == {(SIZE, SIZE, 3)}
    (folder / "1.png").write_bytes(images.encode_png(np.zeros((40, 60, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"1 of .*lq is 60 x 40: aligned faces are square"):
        writing.look_at_set(str(model), folder, 4)
