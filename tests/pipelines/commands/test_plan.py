"""`hdrface plan`: its JSON, its tables, and the changes that it offers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components import profiles
from components.params import Compute
from components.training.memory import EIGHT_BITS, Memory
from components.training.training_params import TrainingParams
from components.training.ways import EVERYTHING, Estimate, choose, ways
from pipelines.cli import app
from pipelines.stage import Stage

SMOKE = ["plan", "--profile", "smoke", "--gpus", "1", "--memory", "24"]


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.fixture(scope="module")
def found(repository: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        # One backbone is enough, and half of the time.
        words = [*SMOKE, "--json", "--faces", "100", "train.backbones=[sd21]", "plain.backbones=[]"]
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_the_json_has_parts_ways_and_sizes(found: dict[str, Any]) -> None:
    assert (found["profile"], found["gpus"], found["memory_gb"]) == ("smoke", 1, 24)
    (training,) = found["trainings"]
    assert training["training"] == "train@sd21-sdfm"
    assert training["tokens"] == 1 + 4 + 8 * 8
    by_name = {part["name"]: part for part in training["parts"]}
    assert by_name["generator"]["trained"] == by_name["generator"]["parameters"] > 1e6
    assert by_name["autoencoder, decoder"]["trained"] == 0
    for part in ("generator", "autoencoder, decoder", "discriminator learns"):
        assert by_name[part]["step_tflop"] > by_name[part]["forward_tflop"] > 0
    assert training["parameters"] == sum(part["parameters"] for part in training["parts"])
    assert training["tflop_per_row"] == sum(part["step_tflop"] for part in training["parts"])


def test_sizes_of_checkpoint_and_table_are_counted_by_hand(found: dict[str, Any]) -> None:
    (training,) = found["trainings"]
    assert training["checkpoint_gb"] == pytest.approx(training["trained"] * 12 / 1e9)
    assert training["table_rows"] == 75 * 2  # smoke tests with a quarter; one variant, mirrored
    row = 2 * 2 * (69 * 64 + 8 * 32 * 32)  # float16; tokens and latents of two pictures
    assert training["table_gb"] == pytest.approx(150 * row / 1e9)


def test_tokens_in_8_bits_make_the_table_smaller(repository: Path) -> None:
    words = [*SMOKE, "--json", "--faces", "100", "train.backbones=[sd21]", "plain.backbones=[]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        result = CliRunner().invoke(app, [*words, "features.sd21.tokens=int8"])
    assert result.exit_code == 0, result.output
    (training,) = json.loads(result.stdout)["trainings"]
    tokens = 69 * (64 + 2 * 2)  # a byte for each number, and two scales of two bytes
    row = 2 * (tokens + 2 * 8 * 32 * 32)
    assert training["table_gb"] == pytest.approx(150 * row / 1e9)


def test_every_way_says_whether_it_fits(found: dict[str, Any]) -> None:
    (training,) = found["trainings"]
    for way in training["ways"]:
        terms = ("weights", "gradients", "optimizer", "activations", "reserved")
        assert way["gpu_gb"] == pytest.approx(sum(way[f"{term}_gb"] for term in terms))
        assert way["all_gpus_gb"] == pytest.approx(way["gpus"] * way["gpu_gb"])
        assert way["fits"] == (way["gpu_gb"] <= 24)
    assert training["ways"][0]["name"] == "as the profile says"
    assert training["cheapest"] == "bf16"
    assert "train.sd21.precision=bf16" in training["overrides"]


def test_the_tables_show_the_same() -> None:
    words = ["--share", "0.5", "train.backbones=[sd21]", "plain.backbones=[]"]
    result = CliRunner().invoke(app, [*SMOKE, *words])
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "smoke on 1 x 24 GB, 50% of 989 TFLOP/s in bfloat16" in shown
    for part in ("train@sd21-sdfm: 64 x 64", "8-bit moments", "generator", "hours"):
        assert part in shown
    assert "  hdrface config use smoke train.sd21.precision=bf16" in shown
    assert "…" not in shown  # no column is cut


def training_of(profile: str, *changes: str) -> tuple[TrainingParams, Compute, str]:
    values = yaml.safe_load(profiles.compose(profile, changes))
    backbone = values["train"]["backbones"][0]
    section = f"train.{backbone}"
    params = Stage.load("train").params.parse(section, values)
    assert isinstance(params, TrainingParams)
    return params, Compute.parse("compute.train", values), section


def test_a_training_of_two_workers_takes_turns_on_one_gpu() -> None:
    params, compute, section = training_of("paper-sd21")
    profile, *_ = ways(params, compute, section, 1)
    assert (profile.num_gpus, profile.passes) == (1, 2)
    assert profile.overrides == ("train.sd21.workers=1", "train.sd21.optimization.accumulate=2")
    unchanged, *_ = ways(params, compute, section, 8)
    assert (unchanged.num_gpus, unchanged.overrides) == (2, ())


def test_accumulated_passes_spread_over_gpus_and_a_step_keeps_its_rows() -> None:
    params, compute, section = training_of("paper-qwen")
    profile, half, *_ = ways(params, compute, section, 8)
    assert (profile.num_gpus, profile.passes) == (1, 4)
    assert (half.num_gpus, half.passes) == (4, 1)
    assert "train.qwen.optimization.accumulate=1" in half.overrides


@pytest.mark.parametrize("profile", ["paper-sd21", "paper-qwen"])
@pytest.mark.parametrize("gpus", [1, 8])
def test_what_can_be_set_makes_a_valid_profile_with_these_settings(profile: str, gpus: int) -> None:
    params, compute, section = training_of(profile)
    for way in ways(params, compute, section, gpus):
        changed, its_compute, _ = training_of(profile, *way.overrides)
        precision = "bf16" if way.settings.computing == 2 else "float32"
        assert changed.precision == precision
        assert changed.time_vectors == way.settings.time_vectors
        is_sharded = way.settings.shards > 1 or way.settings.offloads
        assert changed.parallel == ("fsdp" if is_sharded else "ddp")
        assert its_compute.offload == way.settings.offloads
        for side in changed.sides().values():
            assert side.weights == ("bf16" if way.settings.weight == 2 else "float32")
            assert (side.algorithm == "adamw-8bit") == (way.settings.moment == EIGHT_BITS)
        assert changed.optimization.step_in_backward == way.settings.steps_in_backward
        changed.check_compute(its_compute)
        assert set(its_compute.recompute) == set(way.settings.recompute) <= set(EVERYTHING)
        assert changed.workers * changed.optimization.accumulate == way.num_gpus * way.passes


def test_a_profile_that_is_frugal_already_is_not_told_to_change() -> None:
    params, compute, section = training_of("one-gpu")
    names = [way.name for way in ways(params, compute, section, 1)]
    assert names == ["as the profile says", "bf16, recompute", "offloaded"]


def test_the_shards_of_a_sharded_profile_lie_on_the_gpus_that_there_are() -> None:
    changes = ["train.qwen.parallel=fsdp", "train.qwen.workers=8", "train.qwen.precision=bf16"]
    params, compute, section = training_of("paper-qwen", *changes)
    for way in ways(params, compute, section, 2):
        assert way.settings.shards == way.num_gpus == 2
        assert "train.qwen.parallel=fsdp" not in way.overrides


def test_a_way_with_fewer_rows_is_chosen_only_if_no_other_fits() -> None:
    params, compute, section = training_of("paper-qwen")
    known = {way.name: way for way in ways(params, compute, section, 1)}
    needed = Memory(0, 0, 0, 0, 0)
    whole = Estimate(known["8-bit moments"], needed, 4, 1.0, hours=8, fits=True)
    less = Estimate(known["step in backward pass"], needed, 1, 1.0, hours=2, fits=True)
    assert choose([whole, less]) == whole
    assert choose([replace(whole, fits=False), less]) == less


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.sd21.precision=bf16"], "changes belong to a profile: add --profile NAME"),
        (["--profile", "papers"], "no profile 'papers'"),
        (
            ["--profile", "paper-sd21", "weights.qwen.published.id=me/mine"],
            "the sizes of me/mine are not known",
        ),
    ],
)
def test_a_mistake_is_named(words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["plan", *words])
    assert isinstance(result.exception, ValueError)
    assert told in str(result.exception)
