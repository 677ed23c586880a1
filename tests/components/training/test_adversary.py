"""Turns of generator and discriminator: who learns when, alone, on two ranks, and resumed."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from components.discriminators.discriminator import Discriminator, Draw
from components.training import loop
from components.training.adversary import AdversarialParams, Adversary, Referee
from components.training.loop import Opponent
from components.training.optimization import OptimizationParams, OptimizerParams
from components.training.seat import Seat
from tests.pipelines.seats import Reports
from tests.small_training import without_rate


class Small(Discriminator):
    """Two convolutions, conditioned on the mean token."""

    folder = "none"

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.text = nn.Linear(3, 8)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def hold(self, *args: object, **options: object) -> None:
        raise NotImplementedError

    def draw(self, latent_BCHW: Tensor, generator: torch.Generator) -> Draw:
        return Draw(torch.rand(latent_BCHW.shape[0], generator=generator))

    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor, draw: Draw) -> Tensor:
        text_BC11 = self.text(condition_BND.mean(dim=1))[:, :, None, None]
        hidden = torch.tanh(
            self.first(latent_BCHW) + text_BC11 + draw.timestep_B[:, None, None, None]
        )
        result: Tensor = self.frozen * self.last(hidden)
        return result

    def blocks(self) -> list[nn.Module]:
        return [self.first, self.last]

    @staticmethod
    def make_network(sizes: object) -> object:
        raise NotImplementedError

    @staticmethod
    def draw_prompt(network: object, tokens: int) -> dict[str, Tensor]:
        raise NotImplementedError

    @staticmethod
    def encode_prompt(layout: object, text: str) -> dict[str, Tensor]:
        raise NotImplementedError


def adversary(**params: object) -> Adversary:
    torch.manual_seed(0)
    values = {"weight": 1.0, "loss": "relativistic", **params}
    return Adversary(Small(), AdversarialParams.model_validate(values))


def latents(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    fake, real = torch.randn(2, 3, 2, 6, 6, generator=draw)
    return fake.requires_grad_(), real, torch.randn(3, 4, 3, generator=draw).requires_grad_()


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_the_generators_turn_teaches_neither_discriminator_nor_condition() -> None:
    judge = adversary()
    fake, real, condition = latents(1)
    judge.judge(fake, real, condition, noise()).backward()
    assert fake.grad is not None
    assert fake.grad.any()
    assert condition.grad is None
    assert all(parameter.grad is None for parameter in judge.parameters())
    judge(noise())
    # And in its own turn it learns again, but for what never does.
    assert [n for n, p in judge.named_parameters() if not p.requires_grad] == [
        "discriminator.frozen"
    ]


def test_the_discriminators_turn_teaches_nothing_else() -> None:
    judge = adversary(gradient_penalty=5.0)
    fake, real, condition = latents(1)
    judge.judge(fake, real, condition, noise())
    terms = judge(noise())
    terms["loss"].backward()
    assert fake.grad is None
    assert condition.grad is None
    assert all(p.grad is not None for p in judge.parameters() if p.requires_grad)
    assert terms.keys() == {"loss", "logit_real", "logit_fake"}


def test_it_learns_to_tell_and_real_and_restored_share_a_draw() -> None:
    judge = adversary(loss="softplus")
    fake, real, condition = latents(1)
    optimizer = torch.optim.AdamW([p for p in judge.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(150):
        judge.judge(fake, real, condition, noise())
        terms = judge(noise())
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert terms["loss"].item() < 0.2
    assert terms["logit_real"] > 1 > -1 > terms["logit_fake"]
    # The same latent on both sides gets the same logits: the random part is the same.
    judge.judge(real.clone(), real, condition, noise())
    terms = judge(noise())
    torch.testing.assert_close(terms["logit_real"], terms["logit_fake"])


def test_an_inventive_step_counts_five_times_one_that_stays_close() -> None:
    judge = adversary(loss="softplus")
    fake, real, condition = latents(1)
    plain = judge.judge(fake, real, condition, noise())
    stays = judge.judge(fake, real, condition, noise(), torch.zeros(3))
    invents = judge.judge(fake, real, condition, noise(), torch.ones(3))
    torch.testing.assert_close(stays, plain)
    torch.testing.assert_close(invents, 5 * plain)


def test_its_own_turn_comes_second() -> None:
    with pytest.raises(RuntimeError, match="judged nothing yet"):
        adversary()(noise())


class Step(nn.Module):
    """A generator of one convolution that only wants to pass for real."""

    def __init__(self, judge: Adversary) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self._judge = judge.judge

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        condition = batch.new_ones(batch.shape[0], 4, 3)
        restored = self.layer(0.1 * batch)
        term = self._judge(restored, batch, condition, generator)
        return {"loss": term, "adversarial": term}


class Rows:
    def __init__(self, number: int) -> None:
        self.position, self._number = 0, number

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Tensor:
        draw = torch.Generator().manual_seed(100 * self._number + self.position)
        self.position += count
        return torch.randn(count, 2, 6, 6, generator=draw)


OPTIMIZATION = OptimizationParams(
    steps=8, batch_size=2, learning_rate=0.01, accumulate=2, checkpoint_every=4, log_every=2
)
THEIRS = OptimizerParams(learning_rate=0.02, gradient_clip=1.0)


def play(seat: Seat) -> tuple[Step, Adversary]:
    judge = adversary(gradient_penalty=0.5)
    torch.manual_seed(1)
    step = Step(judge)
    loop.train(step, Rows, OPTIMIZATION, seat, opponent=Opponent(judge, THEIRS))
    return step, judge


def test_both_sides_learn_and_are_logged(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    step, judge = play(reports.seat())
    before = adversary()
    assert not torch.equal(judge.discriminator.last.weight, before.discriminator.last.weight)
    assert torch.equal(judge.discriminator.frozen, before.discriminator.frozen)
    point = reports.points[-1]
    assert point.keys() >= {
        *("adversarial", "discriminator", "logit_real", "logit_fake"),
        *("gradient_norm", "discriminator_gradient_norm"),
    }
    assert all(math.isfinite(value) and value != 0 for value in point.values())
    assert {file.name for file in (tmp_path / "8").iterdir()} >= {
        *("model.safetensors", "optimizer.safetensors"),
        *("opponent-model.safetensors", "opponent-optimizer.safetensors"),
    }
    del step


class Winner(nn.Module):
    """A discriminator that tells everything apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, generator: torch.Generator) -> dict[str, Tensor]:
        del generator
        return {
            "loss": 0.001 + self.weight.square(),
            "logit_real": torch.tensor(7.0),
            "logit_fake": torch.tensor(-7.0),
        }


def test_the_loop_tells_that_the_discriminator_has_won(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = OPTIMIZATION.model_copy(update={"steps": 2 * (Referee.PATIENCE + 3)})
    seat = Reports(tmp_path).seat()
    loop.train(Step(adversary()), Rows, params, seat, opponent=Opponent(Winner(), THEIRS))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"step {2 * Referee.PATIENCE}: the discriminator has won")


def test_a_resumed_game_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = Reports(tmp_path / "whole"), Reports(tmp_path / "resumed")
    played = play(whole.seat())
    again = play(resumed.seat(resume_from=whole.folder / "4"))
    for one, other in zip(played, again, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )
    assert without_rate(resumed.points) == without_rate(whole.points)


def test_both_sides_step_in_their_own_backward_passes(tmp_path: Path) -> None:
    sides = []
    for name, in_backward in (("end", False), ("backward", True)):
        judge = adversary(gradient_penalty=0.5)
        torch.manual_seed(1)
        step = Step(judge)
        changes = {"accumulate": 1, "step_in_backward": in_backward}
        params = OPTIMIZATION.model_copy(update=changes)
        theirs = OptimizerParams(learning_rate=0.02, algorithm="adamw-8bit")
        seat = Reports(tmp_path / name).seat()
        loop.train(step, Rows, params, seat, opponent=Opponent(judge, theirs))
        sides.append({**step.state_dict(), **judge.state_dict()})
    assert all(torch.equal(sides[0][name], sides[1][name]) for name in sides[0])
    clipped = Opponent(adversary(), THEIRS)
    params = OPTIMIZATION.model_copy(update=changes)
    with pytest.raises(ValueError, match="set gradient_clip to null on both sides"):
        loop.train(step, Rows, params, seat, opponent=clipped)


def _one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    step, judge = play(Seat(rank, 2, 2, torch.device("cpu"), None, lambda *_: None))
    torch.save({**step.state_dict(), **judge.state_dict()}, f"{folder}/end-{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_end_as_one_that_serves_both_streams(tmp_path: Path) -> None:
    mp.start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"end-{rank}", weights_only=True) for rank in (0, 1))
    seat = Seat(0, 1, 2, torch.device("cpu"), None, lambda *_: None)
    step, judge = play(seat)
    alone = {**step.state_dict(), **judge.state_dict()}
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=name)


def points(loss: float, real: float, fake: float, count: int) -> list[dict[str, float]]:
    return [
        {"step": step, "discriminator": loss, "logit_real": real, "logit_fake": fake}
        for step in range(count)
    ]


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ((0.01, 6.0, -6.0), "the discriminator has won.*lower discriminator.optimization"),
        ((0.693, 0.1, 0.1), "the discriminator has collapsed.*raise discriminator.optimization"),
        ((0.5, 0.4, -0.4), None),
    ],
)
def test_a_game_that_is_over_is_told_once(
    point: tuple[float, float, float], told: str | None
) -> None:
    referee = Referee()
    said = [referee.look(one) for one in points(*point, 4 * Referee.PATIENCE)]
    heard = [words for words in said if words]
    if told is None:
        assert not heard
    else:
        (words,) = heard
        assert re.search(told, words)
        assert said.index(words) == Referee.PATIENCE - 1
    assert referee.look({"step": 1, "loss": 0.1}) is None
