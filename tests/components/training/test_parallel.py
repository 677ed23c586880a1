"""Sharded training: the numbers of DDP, resumed bit for bit, on other ranks, and written whole."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

from components import history
from components.history import HISTORY, HistoryPoint
from components.restorers.folder import load_restorer
from components.restorers.spec import Need
from components.training import loop
from components.training.optimization import OptimizationParams
from components.training.restorer_training import RestorerTraining
from components.training.seat import Seat
from components.training.step import Batch
from components.weights.store import open_model
from tests.components.training.test_precision import training
from tests.small_networks import SIZE, trained
from tests.small_training import without_rate

CPU = torch.device("cpu")
STEPS, STOPPED = 20, 16
OPTIMIZATION = OptimizationParams(
    steps=STEPS,
    batch_size=1,
    learning_rate=1e-4,
    accumulate=2,
    gradient_clip=1.0,
    checkpoint_every=STOPPED,
    log_every=4,
)


class Rows:
    """Faces that depend on their number and their stream."""

    def __init__(self, number: int) -> None:
        self.position, self._number = 0, number

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Batch:
        draw = torch.Generator().manual_seed(1000 * self._number + self.position)
        self.position += count
        hq = torch.rand(count, 3, SIZE, SIZE, generator=draw)
        latents = torch.randn(2, count, 4, SIZE // 2, SIZE // 2, generator=draw)
        tokens = torch.randn(2, count, 9, 32, generator=draw)
        return Batch(hq, *latents, *tokens)


def run(made: RestorerTraining, folder: Path, seat: dict[str, Any], **options: bool) -> Any:
    """Train on this rank; keep its parts of checkpoints as `folder/STEP`; return the history."""
    so_far: list[HistoryPoint] = []

    def report(points: list[HistoryPoint], checkpoint: Path | None) -> None:
        so_far.extend(points)
        if checkpoint is not None:
            copytree(checkpoint, folder / f"{so_far[-1]['step']:.0f}", dirs_exist_ok=True)
        if seat["world_size"] > 1:  # then the parts of all ranks are there, too
            numbers: list[Any] = [None, None]
            dist.all_gather_object(numbers, place.pulse.last.number)
            assert numbers[0] == numbers[1], "a rank that waits would count as one that is behind"

    step, opponent = made.start(CPU, **options)

    def export(where: Path) -> None:
        made.export(step, where / "trained", is_first_rank=seat["rank"] == 0)

    place = Seat(device=CPU, report=report, **{"num_streams": 2, "resume_from": None, **seat})
    loop.train(
        step,
        Rows,
        made.optimization,
        place,
        opponent=opponent,
        export=export,
    )
    return so_far


def _all_on_one_rank(rank: int, made: RestorerTraining, folder: Path) -> None:
    """Train as DDP, sharded, sharded and resumed, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
    )
    seat: dict[str, Any] = {"rank": rank, "world_size": 2}
    sharded = made.model_copy(update={"parallel": "fsdp"})
    run(made, folder / "ddp", seat)
    whole = run(sharded, folder / "fsdp", seat)
    resume_from = folder / "fsdp" / str(STOPPED)
    again = run(sharded, folder / "resumed", {**seat, "resume_from": resume_from})
    assert without_rate(again) == without_rate(whole)
    dist.destroy_process_group()


def on_two_ranks(work: Callable[..., None], made: RestorerTraining, folder: Path) -> None:
    """Run `work` in two processes, of a server that has imported all this and has no threads.

    A copy of this process could have a lock that a thread held, which nobody frees there.
    """
    mp.set_forkserver_preload([__name__])
    mp.start_processes(work, (made, folder), nprocs=2, start_method="forkserver")


def made_of(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a trained folder."""
    return {
        f"{file.relative_to(folder)}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
        if tensor.numel()  # a rank may have nothing of a short vector
    }


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def last(folder: Path, name: str) -> Path:
    return folder / name / str(STEPS)


def training_of(networks: Path, root: Path, **changes: Any) -> RestorerTraining:
    """Return the training of a real UNet with its gate, whose trained folder can be loaded."""
    made: RestorerTraining = training(networks, "sd21", "float32")
    folder = trained(root, networks, "sd21", "sdfm")
    needs = {role: Need.model_validate(need) for role, need in open_model(folder).needs.items()}
    made = made.model_copy(update={"optimization": OPTIMIZATION, "needs": needs})
    return made.model_copy(update=changes)


@pytest.mark.cluster
def test_shards_on_two_ranks_give_the_numbers_of_ddp_and_resume_on_one_or_two(
    networks: Path, tmp_path: Path
) -> None:
    made = training_of(networks, tmp_path / "models")
    on_two_ranks(_all_on_one_rank, made, tmp_path)

    replicated = made_of(last(tmp_path, "ddp") / "trained")
    exported = last(tmp_path, "fsdp") / "trained"
    assert largest_difference(replicated, made_of(exported)) < 1e-6
    restorer = load_restorer(exported, [tmp_path / "models/qwen-text", *networks.iterdir()])
    assert restorer.backbone.generator.config["_class_name"] == "UNet2DConditionModel"
    config = Path("trained", "unet", "config.json")
    assert (last(tmp_path, "fsdp") / config).read_bytes() == (
        last(tmp_path, "ddp") / config
    ).read_bytes()
    # Every shard, with moments and both sides, has the same bits after a stop.
    resumed = last(tmp_path, "resumed")
    assert largest_difference(made_of(last(tmp_path, "fsdp")), made_of(resumed)) == 0

    alone = alone_from(tmp_path / "fsdp" / str(STOPPED), made, tmp_path / "alone")
    assert largest_difference(made_of(exported), alone) < 1e-6


def alone_from(
    resume_from: Path | None, made: RestorerTraining, folder: Path, **options: bool
) -> dict[str, Tensor]:
    """Train sharded in one process, which serves both streams; return the trained tensors."""
    sharded = made.model_copy(update={"parallel": "fsdp"})
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run(sharded, folder, {"rank": 0, "world_size": 1, "resume_from": resume_from}, **options)
    finally:
        dist.destroy_process_group()
    return made_of(folder / str(made.optimization.steps) / "trained")


def _two_of_three_streams(rank: int, made: RestorerTraining, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
    )
    seat: dict[str, Any] = {"rank": rank, "world_size": 2, "num_streams": 3}
    for parallel in ("ddp", "fsdp"):
        run(made.model_copy(update={"parallel": parallel}), folder / parallel, seat)
    dist.destroy_process_group()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("backbone", "precision", "trainable"),
    [
        ("qwen", "float32", "conditional_lora"),
        ("sd21", "bf16", "full"),
    ],
)
def test_a_rank_with_fewer_streams_keeps_step_with_the_others(
    networks: Path, tmp_path: Path, backbone: str, precision: Any, trainable: str
) -> None:
    """Two ranks serve three streams, so one of them has a pass without rows in every step."""
    lora = {"rank": 2, "alpha": 2}
    made = training(networks, backbone, precision, trainable=trainable, lora=lora)
    made = made.model_copy(update={"optimization": _short(steps=3, checkpoint_every=3)})
    on_two_ranks(_two_of_three_streams, made, tmp_path)
    replicated, sharded = (tmp_path / name / "3" for name in ("ddp", "fsdp"))
    if precision == "float32":
        assert largest_difference(made_of(replicated / "trained"), made_of(sharded / "trained")) < (
            1e-6
        )
    # In bfloat16, AdamW makes a whole step of a gradient near zero, whatever its sign.
    close = 1e-5 if precision == "float32" else 1e-2
    points = (history.decode((folder / HISTORY).read_bytes()) for folder in (replicated, sharded))
    for one, other in zip(*points, strict=True):
        for name in ("loss", "discriminator", "gradient_norm", "discriminator_gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=close), name


def _short(**changes: int) -> OptimizationParams:
    return OPTIMIZATION.model_copy(update={"log_every": 1, **changes})


@pytest.mark.parametrize(
    ("backbone", "trainable", "offload"),
    [
        pytest.param("sd21", "full", False, marks=pytest.mark.cluster),
        ("sd21", "lora", True),
        pytest.param("qwen", "conditional_lora", False, marks=pytest.mark.cluster),
    ],
)
def test_one_process_can_be_sharded_and_has_the_same_numbers(
    networks: Path, tmp_path: Path, backbone: str, trainable: str, offload: bool
) -> None:
    made = training(
        networks, backbone, "float32", trainable=trainable, lora={"rank": 2, "alpha": 2}
    )
    made = made.model_copy(update={"optimization": _short(steps=2, checkpoint_every=2)})
    run(made, tmp_path / "whole", {"rank": 0, "world_size": 1})
    sharded = alone_from(None, made, tmp_path / "sharded", offload=offload)
    expected = made_of(tmp_path / "whole" / "2" / "trained")
    assert largest_difference(expected, sharded) < 1e-6  # 5e-7 on one CPU, 0 on another
    stored = {name.rpartition("/")[2] for name in made_of(tmp_path / "sharded" / "2" / "generator")}
    assert any("lora_A" in name for name in stored) == (trainable != "full")
    assert any("conv_in.weight" in name for name in stored) == (trainable == "full")
