"""AdamW in fewer bytes, against AdamW as its paper writes it and against PyTorch's."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, init_device_mesh

from components.training.frugal_adamw import (
    BLOCK,
    FrugalAdamW,
    pack,
    round_stochastically,
    unpack,
)
from components.training.optimization import OptimizationParams, OptimizerParams
from tests.components.training.test_loop import optimization, run

Numbers = npt.NDArray[np.float64]


def adamw(weights: Numbers, gradients: list[Numbers], rate: float, decay: float) -> Numbers:
    """Take AdamW's steps in float64 (Loshchilov and Hutter, algorithm 2)."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        direction = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weights = weights - rate * direction - rate * decay * weights
    return weights


def descend(parameter: nn.Parameter, gradients: list[Numbers], **how: object) -> Tensor:
    values = {"learning_rate": 0.01, "weight_decay": 0.1, **how}
    optimizer = OptimizerParams.model_validate(values).optimizer([parameter])
    assert isinstance(optimizer, FrugalAdamW)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def draws(count: int, *shape: int) -> list[Numbers]:
    draw = np.random.default_rng(0)
    scale = 10.0 ** draw.uniform(-3, 0, shape)  # some numbers have far larger gradients than others
    return [scale * (draw.standard_normal(shape) + 0.5) for _ in range(count)]


def test_a_float32_vector_takes_the_steps_of_adamw() -> None:
    gradients, start = draws(50, 300), np.linspace(-1, 1, 300)
    parameter = nn.Parameter(torch.from_numpy(start).float())
    found = descend(parameter, gradients, algorithm="adamw-8bit")  # vectors keep float32 moments
    expected = adamw(start, gradients, 0.01, 0.1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)


def test_moments_of_8_bits_stay_within_a_tenth_of_the_way_of_adamw() -> None:
    gradients, start = draws(50, 30, 70), np.linspace(-1, 1, 2100).reshape(30, 70)
    parameter = nn.Parameter(torch.from_numpy(start).float())
    found = descend(parameter, gradients, algorithm="adamw-8bit").numpy()
    expected = adamw(start, gradients, 0.01, 0.1)
    way = np.sqrt(np.mean((expected - start) ** 2))
    assert np.sqrt(np.mean((found - expected) ** 2)) < way / 10
    assert not np.allclose(found, expected, atol=1e-4)


def test_bf16_weights_follow_adamw_where_the_nearest_number_would_stand_still() -> None:
    """Each step is a hundredth of the distance to the next bfloat16."""
    gradients, start = [np.ones((64, 64))] * 100, np.full((64, 64), 1.5)
    params = {"weights": "bf16", "learning_rate": 2**-7 / 100, "weight_decay": 0}
    parameter = nn.Parameter(torch.from_numpy(start).to(torch.bfloat16))
    found = descend(parameter, gradients, **params)
    expected = adamw(start, gradients, 2**-7 / 100, 0)
    assert found.dtype == torch.bfloat16
    # Of 4096 numbers, each rounded a hundred times: the mean's deviation is below 2e-4.
    assert found.double().mean().item() == pytest.approx(expected.mean(), abs=6e-4)
    assert expected.mean() == pytest.approx(1.5 - 2**-7)


@pytest.mark.parametrize("value", [1.001, -1.001, 3e-5, -7.77e7])
def test_stochastic_rounding_gives_the_two_neighbours_and_their_mean_is_the_value(
    value: float,
) -> None:
    noise = torch.Generator().manual_seed(0)
    count = 100_000
    rounded = round_stochastically(torch.full((count,), value), noise).double()
    below, above = sorted(set(rounded.tolist()))
    exact = float(np.float32(value))
    gap = above - below
    assert below < exact < above
    assert gap == pytest.approx(2.0 ** (math.floor(math.log2(abs(value))) - 7))
    assert rounded.mean().item() == pytest.approx(exact, abs=5 * gap / 2 / math.sqrt(count))


def test_what_bfloat16_has_is_not_rounded() -> None:
    exact = torch.tensor([0.0, -0.0, 1.5, -2.0, math.inf])
    found = round_stochastically(exact, torch.Generator().manual_seed(0))
    assert torch.equal(found.float(), exact)
    assert round_stochastically(torch.tensor([math.nan]), torch.Generator()).isnan().all()


@pytest.mark.parametrize(("codes", "levels"), [(torch.int8, 127), (torch.uint8, 255)])
def test_codes_are_the_nearest_roots_of_the_shares_in_a_block(
    codes: torch.dtype, levels: int
) -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 211) * torch.logspace(-4, 2, 211)
    values = values.abs() if codes == torch.uint8 else values
    packed, scale_K = pack(values, codes)
    assert (packed.dtype, packed.shape, scale_K.shape) == (codes, (3, BLOCK), (3,))
    found = unpack(packed, scale_K, values.shape).flatten().numpy().astype(float)
    flat = values.flatten().numpy().astype(float)
    for first in range(0, flat.size, BLOCK):
        block, again = flat[first : first + BLOCK], found[first : first + BLOCK]
        largest = np.abs(block).max()
        roots, its_roots = (np.sqrt(np.abs(x) / largest) for x in (block, again))
        half = 0.5 / levels if codes == torch.int8 else 1 / levels  # 0 has the code 1
        assert np.abs(roots - its_roots).max() <= half + 1e-6
        kept = again != 0
        assert (np.sign(again) == np.sign(block))[kept].all()
        assert again[np.abs(block).argmax()] == pytest.approx(block[np.abs(block).argmax()])


def test_what_a_step_is_divided_by_does_not_become_0_beside_large_numbers() -> None:
    """A small steady gradient ends, beside large ones whose mean is small: its mean remains."""
    gradients = [np.full((1, BLOCK), (-1.0) ** step) for step in range(20)]
    for gradient in gradients:
        gradient[0, 0] = 3e-6
    gradients[-1][0, 0] = 0
    parameter = nn.Parameter(torch.zeros(1, BLOCK))
    descend(parameter, gradients, algorithm="adamw-8bit")
    assert parameter[0, 0].abs() < 20 * 0.01  # AdamW's steps are at most the learning rate here


def test_blocks_of_zeros_stay_zeros() -> None:
    for codes in (torch.int8, torch.uint8):
        assert not unpack(*pack(torch.zeros(2, 3), codes), torch.Size((2, 3))).any()


@pytest.mark.parametrize("weights_as", ["float32", "bf16"])
def test_a_matrix_keeps_8_bits_and_a_vector_float32(weights_as: str) -> None:
    matrix, vector = nn.Parameter(torch.ones(2, BLOCK)), nn.Parameter(torch.ones(2 * BLOCK))
    params = OptimizerParams.model_validate(
        {"learning_rate": 0.1, "algorithm": "adamw-8bit", "weights": weights_as}
    )
    optimizer = params.optimizer([matrix, vector])
    for parameter in (matrix, vector):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    sizes = {
        parameter: sum(v.nbytes for k, v in optimizer.state[parameter].items() if k != "step")
        for parameter in (matrix, vector)
    }
    assert sizes == {matrix: 2 * (2 * BLOCK + 2 * 4), vector: 2 * 4 * 2 * BLOCK}


def test_noise_depends_on_seed_and_step_and_not_on_the_process() -> None:
    params = OptimizationParams.model_validate(
        {**optimization().model_dump(), "weights": "bf16", "weight_decay": 0, "learning_rate": 1e-3}
    )

    def changed(seed: int, process: int) -> Tensor:
        torch.manual_seed(process)
        parameter = nn.Parameter(torch.ones(32, 32, dtype=torch.bfloat16))
        optimizer = params.optimizer([parameter], seed=seed)
        before = []
        for _ in range(2):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            before.append(parameter.detach().clone())
        return torch.stack(before)

    assert torch.equal(changed(1, 1), changed(1, 2))
    assert not torch.equal(changed(1, 1), changed(2, 1))
    first, second = changed(1, 1) < 1
    assert not torch.equal(first, second)


@pytest.mark.parametrize("changes", [{"algorithm": "adamw-8bit"}, {"weights": "bf16"}])
def test_a_training_learns_as_with_adamw(changes: dict[str, object]) -> None:
    _, expected, _ = run(optimization())
    _, found, _ = run(optimization(**changes))
    assert found[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.05)
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]


def test_sharded_parameters_are_refused() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        shard = nn.Parameter(DTensor.from_local(torch.zeros(2, 2), mesh))
        params = OptimizerParams(learning_rate=0.1, algorithm="adamw-8bit")
        with pytest.raises(ValueError, match="these are sharded: set optimization"):
            params.optimizer([shard])
    finally:
        torch.distributed.destroy_process_group()


def test_bf16_weights_with_rmsprop_are_refused() -> None:
    with pytest.raises(ValueError, match="weights = bf16 needs algorithm = adamw or adamw-8bit"):
        OptimizerParams(learning_rate=0.1, algorithm="rmsprop", weights="bf16")
