"""SDFM against the reference's numbers and the equations of the paper written out in NumPy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.fusion.condition import TokenCondition, mean_alpha
from components.fusion.sdfm import SDFM

Floats = npt.NDArray[np.float64]
GOLDEN = Path(__file__).parents[2] / "golden" / "sdfm.npz"


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def mlp(x: Floats, weights: dict[str, Floats], name: str) -> Floats:
    hidden = x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
    hidden = hidden * sigmoid(hidden)
    return hidden @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]


def equations_3_to_7(sr: Floats, lq: Floats, weights: dict[str, Floats]) -> tuple[Floats, Floats]:
    def layer_norm(x: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights["norm.weight"] + weights["norm.bias"]

    fs, fl = layer_norm(sr), layer_norm(lq)
    d = np.abs(fs - fl)
    means = np.concatenate([fs.mean(1), fl.mean(1), d.mean(1)], axis=-1)
    channel = sigmoid(mlp(means, weights, "channel_mlp"))[:, None, :]
    token = sigmoid(mlp(np.concatenate([fs, fl, d], axis=-1), weights, "token_mlp"))
    alpha = np.clip(token * channel, 1e-6, 1 - 1e-6)
    return alpha * fs + (1 - alpha) * fl, alpha


def test_the_reference_weights_give_the_reference_numbers() -> None:
    golden = np.load(GOLDEN)
    weights = {key[7:]: golden[key] for key in golden if key.startswith("weight.")}
    sdfm = SDFM(48, hidden=32).double()
    sdfm.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    with torch.no_grad():
        fused, alpha = sdfm(torch.from_numpy(golden["sr"]), torch.from_numpy(golden["lr"]))
    np.testing.assert_allclose(fused.numpy(), golden["fused"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(alpha.numpy(), golden["alpha"], rtol=0, atol=1e-12)
    transcribed = equations_3_to_7(golden["sr"], golden["lr"], weights)
    np.testing.assert_allclose(transcribed[0], golden["fused"], rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 9), scale=st.floats(0.01, 100))
def test_fused_tokens_lie_between_the_two_normalised_streams(
    seed: int, tokens: int, scale: float
) -> None:
    torch.manual_seed(seed)
    sdfm = SDFM(8, hidden=16).double()
    sr, lq = scale * torch.randn(2, 3, tokens, 8, dtype=torch.float64)
    fused, alpha = sdfm(sr, lq)
    weights = {key: value.numpy() for key, value in sdfm.state_dict().items()}
    expected, _ = equations_3_to_7(sr.numpy(), lq.numpy(), weights)
    np.testing.assert_allclose(fused.detach().numpy(), expected, rtol=0, atol=1e-10)
    streams = torch.stack([sdfm.norm(sr), sdfm.norm(lq)])
    low, high = streams.amin(0), streams.amax(0)
    assert bool((fused >= low - 1e-12).all() and (fused <= high + 1e-12).all())
    assert float(alpha.detach().min()) >= 1e-6
    assert float(alpha.detach().max()) <= 1 - 1e-6


def test_tokens_of_another_width_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(B, N, 8\).*sr \(1, 5, 8\), lq \(1, 4, 8\)"):
        SDFM(8)(torch.zeros(1, 5, 8), torch.zeros(1, 4, 8))


def test_each_condition_takes_the_tokens_it_names() -> None:
    sr, lq = torch.randn(2, 1, 4, 6)
    for name, taken in (("dino", sr), ("lr", lq)):
        condition, alpha = TokenCondition(name, 6, 6)(sr, lq)  # type: ignore[arg-type]
        assert torch.equal(condition, taken)
        assert alpha is None
    condition, alpha = TokenCondition("sdfm", 6, 10)(sr, lq)
    assert condition.shape == (1, 4, 10)
    assert mean_alpha(alpha).shape == (1, 4)
