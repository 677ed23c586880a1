import math
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from components.training import loop
from components.training.finite import NonFiniteLossError
from components.training.optimization import OptimizationParams
from components.training.seat import Seat
from components.weights.precision import computing, settle
from tests.small_training import without_rate


class Pair(NamedTuple):
    x_BD: Tensor
    y_BD: Tensor


class Rows:
    """Rows that depend on their number."""

    def __init__(self, stream: int = 0, poison: int | None = None) -> None:
        self.position, self.stream, self.poison = 0, stream, poison

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Pair:
        numbers = torch.arange(self.position, self.position + count).float()
        self.position += count
        x_BD = torch.stack([torch.sin(numbers * k + self.stream) for k in range(1, 5)], dim=1)
        y_BD = 2 * x_BD + 1
        if self.poison is not None and self.position > self.poison:
            y_BD = y_BD * math.inf
        return Pair(x_BD, y_BD)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.layer = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.1)

    def forward(self, batch: Pair, generator: torch.Generator) -> dict[str, Tensor]:
        noise_BD = torch.randn(batch.x_BD.shape, generator=generator)
        out_BD = self.layer(self.dropout(batch.x_BD) + 0.01 * noise_BD)
        pixel = (out_BD - batch.y_BD).square().mean()
        return {"loss": 2 * pixel, "pixel": pixel}


def optimization(**changes: object) -> OptimizationParams:
    values = {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 0.05,
        "checkpoint_every": 6,
        "log_every": 3,
        **changes,
    }
    return OptimizationParams.model_validate(values)


def seat(report: Callable[..., None], resume_from: Path | None = None) -> Seat:
    """Return the only seat of a training in this process."""
    return Seat(0, 1, 1, torch.device("cpu"), resume_from, report)


def run(
    params: OptimizationParams,
    folder: Path | None = None,
    resume_from: Path | None = None,
    export: Callable[[Path], None] | None = None,
) -> tuple[Step, list[dict[str, float]], list[int]]:
    """Train, keep checkpoints as `folder/STEP`, and return model, points and checkpoint steps."""
    points: list[dict[str, float]] = []
    kept: list[int] = []

    def report(new: list[dict[str, float]], checkpoint: Path | None) -> None:
        points.extend(new)
        if checkpoint is not None:
            kept.append(int(points[-1]["step"]))
            if folder is not None:
                copytree(checkpoint, folder / str(kept[-1]))

    step = Step()
    loop.train(step, Rows, params, seat(report, resume_from), export=export)
    return step, points, kept


def weights(step: nn.Module) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in step.parameters()])


def test_it_learns_and_does_not_change_frozen_parameters() -> None:
    before = Step()
    step, points, kept = run(optimization())
    assert points[-1]["loss"] < 0.5 * points[0]["loss"]
    assert torch.equal(step.frozen.weight, before.frozen.weight)
    assert [point["step"] for point in points] == [3, 6, 9, 12, 15, 18, 20]
    assert kept == [6, 12, 18, 20]
    assert points[0].keys() == {
        *("step", "loss", "pixel", "gradient_norm", "images_per_s", "workers", "learning_rate"),
        "system/host_memory_gb",
    }
    assert all(point["loss"] == pytest.approx(2 * point["pixel"]) for point in points)


@pytest.mark.parametrize(
    ("stopped", "algorithm"), [(6, "adamw"), (18, "adamw"), (20, "adamw"), (6, "rmsprop")]
)
def test_a_resumed_training_ends_with_the_same_bits_and_history(
    tmp_path: Path, stopped: int, algorithm: str
) -> None:
    params = optimization(
        algorithm=algorithm, schedule="cosine", warmup_steps=3, accumulate=2, gradient_clip=0.5
    )
    whole, points, _ = run(params, tmp_path)
    torch.manual_seed(99)
    resumed, again, kept = run(params, resume_from=tmp_path / str(stopped))
    assert torch.equal(weights(whole), weights(resumed))
    assert without_rate(again) == without_rate(points)
    assert kept == [step for step in (6, 12, 18, 20) if step > stopped]


FRUGAL: list[dict[str, object]] = [
    {"algorithm": "adamw-8bit"},
    {"weights": "bf16"},
    {"algorithm": "adamw-8bit", "weights": "bf16"},
]


class Bf16Step(Step):
    """The matrix that trains is stored in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        settle(self.modules(), "bf16", torch.device("cpu"), trained="bf16")

    def forward(self, batch: Pair, generator: torch.Generator) -> dict[str, Tensor]:
        with computing("bf16", torch.device("cpu")):
            return super().forward(batch, generator)


def run_frugal(
    params: OptimizationParams, folder: Path | None = None, resume_from: Path | None = None
) -> tuple[Step, list[dict[str, float]]]:
    """Train as `run` does, with weights stored as the parameters say."""
    points: list[dict[str, float]] = []

    def report(new: list[dict[str, float]], checkpoint: Path | None) -> None:
        points.extend(new)
        if checkpoint is not None and folder is not None:
            copytree(checkpoint, folder / str(points[-1]["step"]))

    step = Bf16Step() if params.weights == "bf16" else Step()
    loop.train(step, Rows, params, seat(report, resume_from))
    return step, points


@pytest.mark.parametrize("changes", FRUGAL)
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_resumed_frugal_training_ends_with_the_same_bits(
    tmp_path: Path, changes: dict[str, object], in_backward: bool
) -> None:
    params = optimization(**changes, step_in_backward=in_backward)
    whole, points = run_frugal(params, tmp_path)
    assert points[-1]["loss"] < 0.5 * points[0]["loss"]
    torch.manual_seed(99)
    resumed, again = run_frugal(params, resume_from=tmp_path / "6")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert without_rate(again) == without_rate(points)


@pytest.mark.parametrize("changes", [{}, {"algorithm": "rmsprop"}, *FRUGAL])
def test_a_step_in_the_backward_pass_gives_the_bits_of_one_at_its_end(
    changes: dict[str, object],
) -> None:
    whole, points = run_frugal(optimization(**changes))
    at_once, same = run_frugal(optimization(**changes, step_in_backward=True))
    for one, other in zip(whole.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.layer.weight.grad is not None
    assert at_once.layer.weight.grad is None  # freed
    for one, other in zip(points, same, strict=True):
        assert other["loss"] == one["loss"]
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=5e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"accumulate": 2}, "accumulate = 2 sums those of several: set accumulate to 1"),
        ({"gradient_clip": 0.5}, "gradient_clip = 0.5 needs all gradients at once"),
        ({"num_streams": 2}, "there are 2: set workers to 1"),
    ],
)
def test_steps_that_cannot_be_taken_in_the_backward_pass_are_refused(
    changes: dict[str, object], told: str
) -> None:
    num_streams = int(str(changes.pop("num_streams", 1)))
    with pytest.raises(ValueError, match=told):
        loop.train(
            Step(),
            Rows,
            optimization(**changes, step_in_backward=True),
            Seat(0, 1, num_streams, torch.device("cpu"), None, lambda *_: None),
        )


def test_rmsprop_divides_by_the_root_of_the_mean_square_of_alpha_0_9() -> None:
    gradients = np.array([1.0, -2.0, 0.5])
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optimization(algorithm="rmsprop", weight_decay=0).optimizer([parameter])
    expected, square = 0.0, 0.0
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float32)
        optimizer.step()
        square = 0.9 * square + 0.1 * gradient**2
        expected -= 0.05 * gradient / (np.sqrt(square) + 1e-8)
    assert parameter.item() == pytest.approx(expected, rel=1e-5)


def test_accumulating_gives_the_gradient_of_the_larger_batch() -> None:
    whole, accumulated = Step(), Step()
    for step in (whole, accumulated):
        step.dropout.p = 0.0
        step.forward = _without_noise(step)  # type: ignore[method-assign]
    one = optimization(steps=5, batch_size=8)
    two = optimization(steps=5, batch_size=4, accumulate=2)
    loop.train(whole, Rows, one, seat(lambda *_: None))
    loop.train(accumulated, Rows, two, seat(lambda *_: None))
    assert torch.allclose(weights(whole), weights(accumulated), atol=1e-6)


def _without_noise(step: Step) -> object:
    def forward(batch: Pair, generator: torch.Generator) -> dict[str, Tensor]:
        del generator
        return {"loss": (step.layer(batch.x_BD) - batch.y_BD).square().mean()}

    return forward


def test_a_loss_that_is_not_finite_stops_with_step_and_term_before_any_checkpoint() -> None:
    kept: list[Path] = []

    def rows(stream: int) -> Rows:
        return Rows(stream, poison=4 * 7)  # the eighth batch is the first one spoiled

    def report(_: list[dict[str, float]], checkpoint: Path | None) -> None:
        kept.extend([checkpoint] if checkpoint else [])

    with pytest.raises(NonFiniteLossError, match="step 8: pixel is inf"):
        loop.train(Step(), rows, optimization(), seat(report))
    assert len(kept) == 1  # of step 6


def test_the_last_checkpoint_has_the_exported_files(tmp_path: Path) -> None:
    run(optimization(), tmp_path, export=lambda folder: (folder / "extra").touch())
    assert (tmp_path / "20" / "extra").exists()
    assert not (tmp_path / "18" / "extra").exists()


def test_the_learning_rate_warms_up_and_goes_down_along_a_cosine() -> None:
    params = optimization(steps=24, learning_rate=1.0, warmup_steps=4, schedule="cosine")
    rates = [params.learning_rate_at(step) for step in range(24)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_every": 7}, "checkpoint_every = 7 must be a multiple of log_every = 3"),
        ({"warmup_steps": 20}, "warmup_steps = 20 must be below steps = 20"),
        ({"betas": (0.9, 1.0)}, "must be below 1"),
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimization(**changes)


def _one_of_several(
    rank: int, world_size: int, num_streams: int, folder: str, start: str | None, changes: dict
) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        store = torch.distributed.FileStore(f"{folder}/store-{start}", world_size)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    step = Step()
    with torch.no_grad():
        step.layer.weight += rank  # what rank 0 says counts
    history: list[dict[str, float]] = []

    def report(points: list[dict[str, float]], checkpoint: Path | None) -> None:
        history.extend(points)
        if checkpoint is not None:
            copytree(checkpoint, f"{folder}/{points[-1]['step']}", dirs_exist_ok=True)

    loop.train(
        step,
        Rows,
        optimization(accumulate=2, **changes),
        Seat(
            rank,
            world_size,
            num_streams,
            torch.device("cpu"),
            Path(folder, start) if start else None,
            report,
        ),
    )
    gradient = torch.cat([step.layer.weight.grad.flatten(), step.layer.bias.grad])
    torch.save((weights(step), gradient, history), f"{folder}/end-{start}-{rank}")


class End(NamedTuple):
    weights: Tensor
    gradient: Tensor  # of the last step
    history: list[dict[str, float]]


def together(
    folder: Path, world_size: int, num_streams: int, start: str | None = None, **changes: object
) -> End:
    """Train with as many processes, which must end with the same weights, and give them."""
    folder.mkdir(exist_ok=True)
    mp.start_processes(
        _one_of_several,
        (world_size, num_streams, str(folder), start, changes),
        nprocs=world_size,
        start_method="fork",
    )
    ends = [End(*torch.load(folder / f"end-{start}-{rank}")) for rank in range(world_size)]
    assert all(torch.equal(ends[0].weights, other.weights) for other in ends[1:])
    return ends[0]


@pytest.mark.slow
def test_three_ranks_keep_the_same_weights_and_resume_bit_for_bit(tmp_path: Path) -> None:
    whole = together(tmp_path, 3, 3, steps=12)
    resumed = together(tmp_path, 3, 3, steps=12, start="6")
    assert torch.equal(whole.weights, resumed.weights)
    assert without_rate(whole.history) == without_rate(resumed.history)


@pytest.mark.slow
def test_fewer_workers_have_the_same_gradient(tmp_path: Path) -> None:
    """Three workers serve four streams: two, one and one."""
    expected = together(tmp_path / "4", 4, 4, steps=1)
    for world_size in (1, 2, 3):
        found = together(tmp_path / str(world_size), world_size, 4, steps=1)
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-5, atol=1e-6)
        assert found.history[0]["loss"] == pytest.approx(expected.history[0]["loss"], rel=1e-6)
        assert found.history[0]["workers"] == world_size


@pytest.mark.slow
def test_a_training_that_shrinks_and_grows_takes_the_steps_of_one_that_does_not(
    tmp_path: Path,
) -> None:
    expected = together(tmp_path / "4", 4, 4)
    together(tmp_path / "resized", 2, 4)
    together(tmp_path / "resized", 1, 4, start="6")
    found = together(tmp_path / "resized", 2, 4, start="12")
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-5)
    assert [point["workers"] for point in found.history] == [2, 2, 1, 1, 2, 2, 2]
    for one, other in zip(found.history, expected.history, strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
