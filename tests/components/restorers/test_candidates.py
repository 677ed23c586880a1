"""Several first restorations: each way to choose, against its definition, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from components import images
from components.restorers.candidates import Candidates, local_agreement
from components.restorers.folder import load_alone, load_restorer
from components.restorers.hdrface import as_cached
from components.restorers.protocol import Restoration
from tests.small_networks import OTHER, SIZE, trained

IDS, VARIANTS = ["a", "b", "c"], [0, 1, 0]


@dataclass
class Painter:
    """A first restorer that returns one picture for every face."""

    picture_3HW: Tensor
    size: int = SIZE
    name: str = "painter"
    fingerprint: str = "painter"
    fidelity: float | None = None
    color_fix: str = "none"
    precision: str = "float32"
    is_preview: bool = False
    intermediates: str = "unused"

    def restore(
        self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]
    ) -> Restoration:
        del face_ids, variants
        return Restoration(self.picture_3HW.expand_as(lq_B3HW))


class Redness:
    """Stands where an identity network would: the less red, the smaller the angle."""

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        del hq_B3HW
        return images_B3HW[:, 0].double().mean(dim=(1, 2)).numpy()


def faces(count: int = 3, seed: int = 0) -> Tensor:
    draw = np.random.default_rng(seed)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


@pytest.mark.parametrize("choice", ["gate", "local"])
def test_one_candidate_is_the_model_itself(tmp_path: Path, networks: Path, choice: str) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    first = load_restorer(tmp_path / "qwen-text")
    one = Candidates(load_alone(folder), [first], choice=choice).restore(faces(), IDS, VARIANTS)
    same = load_restorer(folder).restore(faces(), IDS, VARIANTS)
    assert torch.equal(one.restored_B3HW, same.restored_B3HW)
    assert torch.equal(one.intermediate_B3HW, same.intermediate_B3HW)
    assert torch.equal(one.alpha_BHW, same.alpha_BHW)


def test_draws_of_a_restorer_with_noise_are_different_and_do_not_depend_on_the_batch(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    first = load_restorer(tmp_path / f"{OTHER['sd21']}-text")
    several = Candidates(load_alone(folder), [first], draws=3)
    made = several._candidates(faces(), IDS, VARIANTS)
    assert len({one.numpy().tobytes() for one in made}) == 3
    assert torch.equal(made[0], first.restore(faces(), IDS, VARIANTS).restored_B3HW)
    whole = several.restore(faces(), IDS, VARIANTS)
    alone = several.restore(faces()[1:2], IDS[1:2], VARIANTS[1:2])
    torch.testing.assert_close(
        whole.restored_B3HW[1:2], alone.restored_B3HW, atol=1.1 / 255, rtol=0
    )


def test_the_gate_takes_each_token_from_the_candidate_that_it_trusts_most(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    pictures = faces(2, seed=9)
    model = load_alone(folder)
    found = Candidates(model, [Painter(one) for one in pictures]).restore(faces(), IDS, VARIANTS)
    encoder, gate = model.encoder, model.condition.fusion
    lq = as_cached(encoder(faces()))
    sr = [as_cached(encoder(one.expand(3, -1, -1, -1))) for one in pictures]
    trust = [gate(one, lq)[1].mean(dim=-1) for one in sr]
    tokens = torch.where((trust[1] > trust[0]).unsqueeze(-1), sr[1], sr[0])
    assert 0 < float((trust[1] > trust[0]).float().mean()) < 1  # or nothing is chosen
    expected, _ = model.finish(model.encode(faces(), IDS, VARIANTS), (tokens, lq), IDS, VARIANTS)
    torch.testing.assert_close(found.restored_B3HW, expected, atol=1.1 / 255, rtol=0)


def test_local_agreement_is_the_difference_at_low_resolution_of_each_patch(
    tmp_path: Path, networks: Path
) -> None:
    encoder = load_alone(trained(tmp_path, networks, "sd21", "sdfm")).encoder
    side = encoder.patches_per_side
    lq, candidate = faces(seed=1), faces(seed=2)
    found = local_agreement(candidate, lq, encoder, num_tokens=5 + side**2).numpy()
    patch = SIZE // side
    half = patch // 2
    for row in range(side):
        for column in range(side):
            errors = [
                np.square(block.numpy().mean(axis=(-1, -2))).mean(axis=-1)
                for y in (0, half)
                for x in (0, half)
                for block in [
                    (candidate - lq)[
                        ...,
                        row * patch + y : row * patch + y + half,
                        column * patch + x : column * patch + x + half,
                    ]
                ]
            ]
            np.testing.assert_allclose(
                found[:, 5 + row * side + column], -np.mean(errors, axis=0), rtol=1e-4
            )
    np.testing.assert_allclose(found[:, 0], found[:, 5:].mean(axis=1), rtol=1e-4)


def test_identity_takes_a_whole_candidate(tmp_path: Path, networks: Path) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    red, blue = torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE)
    red[0], blue[2] = 1, 1
    chosen = Candidates(
        load_alone(folder), [Painter(red), Painter(blue)], choice="identity", angle=Redness()
    )
    found = chosen.restore(faces(), IDS, VARIANTS)
    assert torch.equal(found.intermediate_B3HW, blue.expand(3, -1, -1, -1))
    given = load_restorer(folder).restore(
        faces(), IDS, VARIANTS, intermediate_B3HW=blue.expand(3, -1, -1, -1)
    )
    assert torch.equal(found.restored_B3HW, given.restored_B3HW)


def test_what_cannot_choose_is_refused(tmp_path: Path, networks: Path) -> None:
    painter = Painter(torch.zeros(3, SIZE, SIZE))
    dino = load_alone(trained(tmp_path, networks, "sd21", "dino"))
    with pytest.raises(ValueError, match="sd21-dino has no gate: choose by 'local'"):
        Candidates(dino, [painter])
    with pytest.raises(ValueError, match="needs an identity network"):
        Candidates(dino, [painter], choice="identity")
    text = load_alone(trained(tmp_path, networks, "sd21", "text"))
    with pytest.raises(ValueError, match="sd21-text uses no first restorations"):
        Candidates(text, [painter], choice="local")
