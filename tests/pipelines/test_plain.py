"""The stage `plain`: from pairs to a trained folder, by its own `plan` and `work`."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from components import history, images
from components.history import HISTORY
from components.params import Compute
from components.restorers.folder import load_restorer
from pipelines import plain
from pipelines.plain import PlainParams
from tests.pipelines.seats import Reports
from tests.small_networks import SIZE
from tests.small_tables import FINGERPRINT, RECIPE, smooth_pairs, write_pairs
from tests.small_training import without_rate

OPTIMIZATION = {
    **{"steps": 4, "batch_size": 2, "learning_rate": 1e-2},
    **{"checkpoint_every": 2, "log_every": 2, "seed": 1},
}


@pytest.fixture
def params(tmp_path: Path, networks: Path) -> PlainParams:
    splits = ("train", "test", "train", "train")
    write_pairs(tmp_path / "pairs", [smooth_pairs(splits, SIZE), smooth_pairs(["test"], SIZE)])
    return PlainParams.model_validate(
        {
            "pairs": tmp_path / "pairs",
            "weights": networks / "sd21",
            "models": tmp_path / "models",
            "trainable": "full",
            "losses": {"latent": 1.0},
            "clean_condition": 1,
            "optimization": OPTIMIZATION,
            "workers": 1,
            "mirror": True,
            "seed": 42,
        }
    )


def changed(params: PlainParams, **values: Any) -> PlainParams:
    return PlainParams.model_validate({**params.model_dump(), **values})


def work(params: PlainParams, reports: Reports, resume_from: Path | None = None) -> None:
    _, restorer = plain.plan(params, "sd21")
    plain.work(plain.worker_config(params, restorer, Compute()), reports.seat(resume_from))


def test_work_writes_a_trained_folder_that_restores(params: PlainParams, tmp_path: Path) -> None:
    reports = Reports(tmp_path / "checkpoints")
    work(params, reports)
    assert [point["step"] for point in reports.points] == [2, 4]
    out = params.out("sd21", "text")
    shutil.copytree(reports.folder / "4" / "trained", out)

    restorer = load_restorer(out)
    lq_B3HW = images.to_tensor([images.decode_png(smooth_pairs(["test"], SIZE)[0]["lq_png"])])
    restored = restorer.restore(lq_B3HW, ["a"], [0]).restored_B3HW
    assert restored.shape == (1, 3, SIZE, SIZE)
    assert (restorer.spec.backbone, restorer.spec.condition) == ("sd21", "text")
    file = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(params.weights / file), load_file(out / file)
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_a_resumed_training_writes_the_same_bytes(params: PlainParams, tmp_path: Path) -> None:
    whole, resumed = Reports(tmp_path / "whole"), Reports(tmp_path / "resumed")
    work(params, whole)
    work(params, resumed, resume_from=whole.folder / "2")
    for file in (whole.folder / "4" / "trained").rglob("*.safetensors"):
        same = resumed.folder / "4" / file.relative_to(whole.folder / "4")
        assert same.read_bytes() == file.read_bytes()


def test_the_plan_says_what_the_folder_stands_on_and_learned_from(params: PlainParams) -> None:
    training, restorer = plain.plan(params, "sd21")
    assert training.inputs["pairs"] == FINGERPRINT
    assert restorer.spec.size == SIZE
    need = restorer.needs["backbone"]
    found = (params.out("sd21", "text") / need.hint).resolve()
    assert (found, need.fingerprint) == (params.weights, training.inputs["backbone"])
    learned = restorer.lineage["params"]
    assert learned["degrade"]["recipe"] == RECIPE.model_dump(mode="json")
    assert learned["optimization"]["steps"] == 4
    assert not params.models.exists()


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"mirror": False},
        {"workers": 2},
        {"workers": 2, "elastic_batch": "per_worker"},
        {"optimization": {**OPTIMIZATION, "learning_rate": 2e-2}},
    ],
    ids=str,
)
def test_what_decides_the_result_decides_the_fingerprint(
    params: PlainParams, values: dict[str, Any]
) -> None:
    planned, again, other = (
        plain.plan(one, "sd21")[0].fingerprint
        for one in (params, params, changed(params, **values))
    )
    assert planned == again
    assert other != planned


def test_where_inputs_and_models_lie_decides_nothing(params: PlainParams, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(params.pairs, tmp_path / "elsewhere")
    moved = changed(params, pairs=elsewhere, models=tmp_path / "other")
    assert plain.plan(moved, "sd21")[0].fingerprint == plain.plan(params, "sd21")[0].fingerprint


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _damage(folder: Path) -> None:
    next(folder.glob("*.parquet")).write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_remove, r"there is no table at .*pairs: run 'dvc repro'"),
        (_damage, r"0 bytes.*run 'dvc repro degrade'"),
    ],
)
def test_missing_or_damaged_pairs_are_named_with_what_to_do(
    params: PlainParams, harm: Callable[[Path], None], message: str
) -> None:
    harm(params.pairs)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        plain.plan(params, "sd21")


def test_missing_weights_and_empty_pairs_are_named(params: PlainParams, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        plain.plan(changed(params, weights=tmp_path / "gone"), "sd21")
    write_pairs(tmp_path / "none", [[]])
    with pytest.raises(ValueError, match=r"none has no rows: run 'dvc repro degrade'"):
        plain.plan(changed(params, pairs=tmp_path / "none"), "sd21")


VALIDATION = {"every": 2, "faces": 2, "metrics": ["psnr"]}


def test_a_validation_shows_and_scores_test_faces_and_changes_no_weight(
    params: PlainParams, tmp_path: Path
) -> None:
    watched, alone = Reports(tmp_path / "watched"), Reports(tmp_path / "alone")
    work(changed(params, validation=VALIDATION), watched)
    work(params, alone)
    for file in (alone.folder / "4").rglob("*.safetensors"):
        same = watched.folder / "4" / file.relative_to(alone.folder / "4")
        assert same.read_bytes() == file.read_bytes()

    out = params.out("sd21", "text")
    shutil.copytree(watched.folder / "4" / "trained", out)
    tests = [smooth_pairs(["train", "test"], SIZE)[1], smooth_pairs(["test"], SIZE)[0]]
    hq_B3HW, lq_B3HW = (
        images.to_tensor([images.decode_png(row[name]) for row in tests])
        for name in ("hq_png", "lq_png")
    )
    names = [row["face_id"] for row in tests]
    restorer = load_restorer(out)
    restored_B3HW = torch.cat(
        [
            restorer.restore(one_3HW[None], [name], [0]).restored_B3HW
            for one_3HW, name in zip(lq_B3HW, names, strict=True)
        ]
    )
    errors_B = (restored_B3HW - hq_B3HW).square().mean(dim=(1, 2, 3))
    expected = float((-10 * errors_B.log10()).mean())
    assert [point["step"] for point in watched.points if "validation_psnr" in point] == [2, 4]
    assert watched.points[-1]["validation_psnr"] == pytest.approx(expected, abs=1e-3)

    strip = images.decode_png((watched.folder / "4" / "validation-4.png").read_bytes())
    columns = [images.from_tensor(one) for one in (lq_B3HW, restored_B3HW, hq_B3HW)]
    assert (strip == np.concatenate([np.concatenate(one) for one in columns], axis=1)).all()
    assert not (watched.folder / "4" / "validation-2.png").exists()


def test_the_best_step_becomes_the_model_also_after_a_resume(
    params: PlainParams, tmp_path: Path
) -> None:
    """With this learning rate, every step makes it worse."""
    optimization = {**OPTIMIZATION, "learning_rate": 0.3, "steps": 6, "log_every": 1}
    values = {"optimization": optimization, "validation": {**VALIDATION, "keep_best": "psnr"}}
    whole, resumed, short = (Reports(tmp_path / name) for name in ("whole", "resumed", "short"))
    work(changed(params, **values), whole)
    scores = [point["validation_psnr"] for point in whole.points if "validation_psnr" in point]
    assert len(scores) == 3
    assert scores[0] == max(scores)
    assert whole.points[-1]["best_step"] == 2
    work(changed(params, **values), resumed, resume_from=whole.folder / "4")
    assert without_rate(resumed.points) == without_rate(whole.points)
    work(changed(params, optimization={**optimization, "steps": 2}), short)

    folder = "trained/unet/diffusion_pytorch_model.safetensors"
    expected = (short.folder / "2" / folder).read_bytes()
    assert (whole.folder / "6" / folder).read_bytes() == expected
    assert (resumed.folder / "6" / folder).read_bytes() == expected
    assert (whole.folder / "4" / "best" / folder).read_bytes() == expected
    assert not (whole.folder / "6" / "best").exists()


def _one_of_two(rank: int, folder: str, params: PlainParams) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    _, restorer = plain.plan(params, "sd21")
    reports = Reports(Path(folder) / str(rank))
    seat = replace(reports.seat(), rank=rank, world_size=2, num_streams=2)
    plain.work(plain.worker_config(params, restorer, Compute()), seat)
    dist.destroy_process_group()


def _gathered(folder: Path, step: str) -> dict[str, torch.Tensor]:
    """Return the trained tensors of a step, put together from the shards of two ranks."""
    parts = [
        load_file(file)
        for rank in ("0", "1")
        for file in (folder / rank / step / "generator").iterdir()
    ]
    names = {name for part in parts for name in part if name.startswith("model/")}
    return {
        name.rpartition("generator.")[2]: torch.cat([part[name] for part in parts if name in part])
        for name in names
    }


# A server's processes have no threads of these tests, but import everything anew: minutes when the
# machine is busy.
@pytest.mark.parametrize(
    ("parallel", "started"),
    [("ddp", "fork"), pytest.param("fsdp", "forkserver", marks=pytest.mark.cluster)],
)
def test_with_two_ranks_the_first_scores_and_draws_and_keeps_the_best(
    params: PlainParams, tmp_path: Path, parallel: str, started: str
) -> None:
    """With this learning rate, every step makes it worse."""
    splits = ("train", "test", "train")
    write_pairs(tmp_path / "two", [smooth_pairs(splits, SIZE), smooth_pairs(splits, SIZE)])
    values = {"pairs": tmp_path / "two", "workers": 2, "parallel": parallel}
    values["optimization"] = {**OPTIMIZATION, "learning_rate": 3}
    watched = changed(params, **values, validation={**VALIDATION, "keep_best": "psnr"})
    mp.set_forkserver_preload([__name__])
    mp.start_processes(_one_of_two, (str(tmp_path), watched), nprocs=2, start_method=started)
    first = tmp_path / "0/4"
    assert (first / "validation-4.png").exists()
    assert (first / "trained/restorer.json").exists()
    assert not list((tmp_path / "1").rglob("*.png"))
    assert not list((tmp_path / "1").rglob("trained/**/*.safetensors"))
    points = history.decode((first / HISTORY).read_bytes())
    assert [point["best_step"] for point in points] == [2, 2]
    model = "trained/unet/diffusion_pytorch_model.safetensors"
    assert (first / model).read_bytes() == (tmp_path / "0/2/best" / model).read_bytes()
    if parallel == "fsdp":
        kept, then = load_file(first / model), _gathered(tmp_path, "2")
        assert kept.keys() == then.keys()
        assert all(kept[name].equal(then[name]) for name in kept)


def test_a_validation_that_cannot_be_is_refused_with_what_to_do(
    params: PlainParams, tmp_path: Path
) -> None:
    for validation, told in [
        ({**VALIDATION, "every": 3}, r"every = 3 must be a multiple of .*checkpoint_every = 2"),
        ({**VALIDATION, "keep_best": "ssim"}, "keep_best = ssim is not measured"),
        ({**VALIDATION, "metrics": ["identity_angle"]}, "Input should be"),
    ]:
        with pytest.raises(ValueError, match=told):
            changed(params, validation=validation)
    reports = Reports(tmp_path / "refused")
    with pytest.raises(ValueError, match=r"cannot be measured \(lpips: weights are missing"):
        work(changed(params, validation={**VALIDATION, "metrics": ["lpips"]}), reports)
    write_pairs(tmp_path / "untested", [smooth_pairs(["train"], SIZE)])
    with pytest.raises(ValueError, match=r"no row in the split 'test': raise faces\.test_percent"):
        work(changed(params, pairs=tmp_path / "untested", validation=VALIDATION), reports)
