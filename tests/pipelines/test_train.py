"""The stage `train`: from features to a trained folder, by its own `plan` and `work`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from components import images, tables
from components.params import Compute
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer
from components.tracking.runs import TrainingRun
from components.weights.store import open_model, open_weights
from pipelines import train
from pipelines.train import TrainParams
from tests.first_restorers import write_results
from tests.pipelines.seats import Reports
from tests.small_networks import DINO, SIZE, VAE, trained
from tests.small_tables import FINGERPRINT, in_8_bits, smooth_pairs, write_pairs, write_table
from tests.small_training import without_rate

NUM_TOKENS = 1 + 4 + 4  # the class, registers, patches
OPTIMIZATION = {
    **{"steps": 4, "batch_size": 2, "learning_rate": 1e-2},
    **{"checkpoint_every": 2, "log_every": 2, "seed": 1},
}


def feature_rows(number: int) -> pa.Table:
    """Make features of two faces; what is learned from them does not matter here."""
    draw = np.random.default_rng(number)
    rows = smooth_pairs(["train"] * 2, SIZE)
    latent, token = (
        (VAE["latent_channels"], SIZE // 2, SIZE // 2),
        (NUM_TOKENS, DINO["hidden_size"]),
    )
    shapes = {"lq_tokens": token, "sr_tokens": token, "lq_latent": latent, "hq_latent": latent}
    tensors = {
        name: tables.tensor_column(draw.standard_normal((3, *shape)).astype(np.float16))
        for name, shape in shapes.items()
    }
    return pa.table(
        {
            "face_id": [rows[index]["face_id"] for index in (0, 0, 1)],
            "variant": pa.array([0, 0, 0], pa.int32()),
            "mirrored": pa.array([False, True, False]),
            **tensors,
        }
    )


def pairs(out: Path, tested: int = 0) -> Path:
    """Write the pairs of both shards of features, and of some test faces."""
    shards = [smooth_pairs(["train"] * 2 + ["test"] * count, SIZE) for count in (tested, 0)]
    return write_pairs(out, shards).path


@pytest.fixture
def params(tmp_path: Path, networks: Path) -> TrainParams:
    pairs(tmp_path / "pairs")
    write_table(
        tmp_path / "features",
        [feature_rows(1), feature_rows(2)],
        stage="features@sd21",
        fingerprint="fea7" * 16,
        inputs={"pairs": FINGERPRINT},
    )
    return TrainParams.model_validate(
        {
            "pairs": tmp_path / "pairs",
            "features": tmp_path / "features",
            "weights": networks / "sd21",
            "encoder": networks / "dinov3",
            "encoder_size": DINO["image_size"],
            "intermediate": trained(tmp_path / "first", networks, "qwen", "text"),
            "models": tmp_path / "models",
            "trainable": "full",
            "losses": {"latent": 1.0},
            "clean_condition": 1,
            "optimization": OPTIMIZATION,
            "workers": 1,
            "seed": 42,
        }
    )


def changed(params: TrainParams, **values: Any) -> TrainParams:
    return TrainParams.model_validate({**params.model_dump(), **values})


def work(params: TrainParams, reports: Reports, resume_from: Path | None = None) -> None:
    _, restorer = train.plan(params, "sd21", "sdfm")
    train.work(train.worker_config(params, restorer, Compute()), reports.seat(resume_from))


def test_work_writes_a_trained_folder_that_restores(params: TrainParams, tmp_path: Path) -> None:
    reports = Reports(tmp_path / "checkpoints")
    work(params, reports)
    assert [point["step"] for point in reports.points] == [2, 4]
    out = params.out("sd21", "sdfm")
    shutil.copytree(reports.folder / "4" / "trained", out)

    restorer = load_restorer(out)  # with what it names: the hints lead there
    lq_B3HW = images.to_tensor([images.decode_png(smooth_pairs(["test"], SIZE)[0]["lq_png"])])
    restoration = restorer.restore(lq_B3HW, ["a"], [0])
    assert restoration.restored_B3HW.shape == (1, 3, SIZE, SIZE)
    assert restoration.alpha_BHW is not None
    assert (restorer.spec.backbone, restorer.spec.condition) == ("sd21", "sdfm")


@pytest.mark.parametrize("time_vectors", [False, True])
def test_a_resumed_training_writes_the_same_bytes(
    params: TrainParams, tmp_path: Path, time_vectors: bool
) -> None:
    params = changed(params, time_vectors=time_vectors)
    whole, resumed = Reports(tmp_path / "whole"), Reports(tmp_path / "resumed")
    work(params, whole)
    work(params, resumed, resume_from=whole.folder / "2")
    for file in (whole.folder / "4" / "trained").rglob("*.safetensors"):
        same = resumed.folder / "4" / file.relative_to(whole.folder / "4")
        assert same.read_bytes() == file.read_bytes()


def test_tokens_in_8_bits_train_like_float16_and_the_run_says_so(
    params: TrainParams, tmp_path: Path
) -> None:
    narrow = write_table(
        tmp_path / "narrow",
        [in_8_bits(feature_rows(1)), in_8_bits(feature_rows(2))],
        stage="features@sd21",
        params={"tokens": "int8"},
        inputs={"pairs": FINGERPRINT},
    )
    every_step = {**OPTIMIZATION, "log_every": 1}
    wide = changed(params, optimization=every_step)
    told, losses = [], []
    for name, one in (("wide", wide), ("int8", changed(wide, features=narrow.path))):
        training, restorer = train.plan(one, "sd21", "sdfm")
        reports = Reports(tmp_path / name)
        work(one, reports)
        told.append((training.labels["tokens"], restorer.lineage["params"]["features"]))
        losses.append([point["loss"] for point in reports.points])
    assert told == [("float16", {}), ("int8", {"tokens": "int8"})]
    # The rounding moves the first loss by less than 1 in 1,000, and the later ones by 1 in 100.
    assert losses[0] != losses[1]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_validation_restores_with_the_tokens_that_inference_has(
    params: TrainParams, tmp_path: Path
) -> None:
    watched = changed(
        params,
        pairs=pairs(tmp_path / "tested", tested=1),
        validation={"every": 2, "faces": 8, "metrics": ["psnr", "ssim"]},
    )
    whole, resumed, alone = (Reports(tmp_path / name) for name in ("whole", "resumed", "alone"))
    work(watched, whole)
    work(watched, resumed, resume_from=whole.folder / "2")
    work(params, alone)
    for file in (alone.folder / "4").rglob("*.safetensors"):
        for other in (whole, resumed):
            same = other.folder / "4" / file.relative_to(alone.folder / "4")
            assert same.read_bytes() == file.read_bytes()
    assert without_rate(resumed.points) == without_rate(whole.points)
    assert whole.points[-1].keys() >= {"validation_psnr", "validation_ssim"}

    out = params.out("sd21", "sdfm")
    shutil.copytree(whole.folder / "4" / "trained", out)
    row = smooth_pairs(["train", "train", "test"], SIZE)[2]
    lq, hq = (images.decode_png(row[name]) for name in ("lq_png", "hq_png"))
    done = load_restorer(out).restore(images.to_tensor([lq]), [row["face_id"]], [0])
    assert done.intermediate_B3HW is not None
    (first,), (restored,) = map(images.from_tensor, (done.intermediate_B3HW, done.restored_B3HW))
    strip = images.decode_png((whole.folder / "4" / "validation-4.png").read_bytes())
    assert (strip == np.concatenate([lq, first, restored, hq], axis=1)).all()


def test_mlflow_has_the_scores_of_a_validation_at_the_model_that_they_chose(
    params: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    watched = changed(
        params,
        pairs=pairs(tmp_path / "tested", tested=1),
        validation={"every": 2, "faces": 8, "metrics": ["psnr"], "keep_best": "psnr"},
    )
    reports = Reports(tmp_path / "reports")
    work(watched, reports)
    training, _ = train.plan(watched, "sd21", "sdfm")
    tracked = TrainingRun.begin("a", name=training.stage, params=training.params)
    tracked.log_points(reports.points)
    tracked.log_model(reports.folder / "4" / "trained")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_run(tracked.id).info.experiment_id
    [model] = client.search_logged_models([experiment])
    last = reports.points[-1]
    assert model.params is not None
    assert model.params["validation.keep_best"] == "psnr"
    assert model.params["step"] == str(int(last["best_step"]))
    found = {(one.key, one.step): one.value for one in model.metrics or ()}
    expected = {
        ("validation_psnr", point["step"]): point["validation_psnr"] for point in reports.points
    }
    kept = {("kept_psnr", last["best_step"]): expected["validation_psnr", last["best_step"]]}
    assert found == pytest.approx({**expected, **kept})


def test_vectors_of_time_do_not_go_with_low_rank_layers(params: TrainParams) -> None:
    lora = {"trainable": "lora", "lora": {"rank": 2, "alpha": 2}}
    with pytest.raises(ValueError, match="time_vectors = true with trainable = lora"):
        changed(params, time_vectors=True, **lora)


def test_a_way_to_train_that_the_family_lacks_is_named(params: TrainParams) -> None:
    other = changed(params, trainable="conditional_lora", lora={"rank": 2, "alpha": 2})
    with pytest.raises(ValueError, match="conditional_lora, but sd21 trains as full or lora"):
        train.plan(other, "sd21", "sdfm")


def with_discriminator(params: TrainParams, networks: Path) -> TrainParams:
    return changed(
        params,
        losses={"latent": 1.0, "adversarial": {"weight": 0.1, "loss": "softplus"}},
        discriminator={
            "weights": networks / "sd21-discriminator",
            "condition": "tokens",
            "lora": {"rank": 2, "alpha": 2},
            "optimization": {"learning_rate": 1e-2},
        },
    )


def test_a_training_with_a_discriminator_resumes_to_the_same_bytes(
    params: TrainParams, networks: Path, tmp_path: Path
) -> None:
    against = with_discriminator(params, networks)
    whole, resumed, alone = (Reports(tmp_path / name) for name in ("whole", "resumed", "alone"))
    work(against, whole)
    work(against, resumed, resume_from=whole.folder / "2")
    work(params, alone)
    files = sorted((whole.folder / "4").rglob("*.safetensors"))
    assert "opponent-optimizer.safetensors" in {file.name for file in files}
    for file in files:
        same = resumed.folder / "4" / file.relative_to(whole.folder / "4")
        assert same.read_bytes() == file.read_bytes()
    # What is written is a restorer, as without an opponent, but another one.
    trained = [file.relative_to(whole.folder) for file in files if "trained" in file.parts]
    assert trained == sorted(
        file.relative_to(alone.folder)
        for file in (alone.folder / "4/trained").rglob("*.safetensors")
    )
    unet = next(file for file in trained if "unet" in file.parts)
    assert (whole.folder / unet).read_bytes() != (alone.folder / unet).read_bytes()
    assert whole.points[-1].keys() >= {"adversarial", "discriminator", "share_adversarial"}


def test_the_discriminator_decides_the_fingerprint_only_where_it_plays(
    params: TrainParams, networks: Path
) -> None:
    against = with_discriminator(params, networks)
    planned, _ = train.plan(against, "sd21", "sdfm")
    assert (
        planned.inputs["discriminator"] == open_weights(networks / "sd21-discriminator").fingerprint
    )
    assert against.discriminator is not None
    faster = against.discriminator.model_dump() | {"optimization": {"learning_rate": 2e-2}}
    assert (
        train.plan(changed(against, discriminator=faster), "sd21", "sdfm")[0].fingerprint
        != planned.fingerprint
    )
    idle = changed(params, discriminator=faster)
    one, other = (train.plan(each, "sd21", "sdfm")[0].fingerprint for each in (params, idle))
    assert one == other
    with pytest.raises(ValueError, match=r"losses\.adversarial needs a discriminator"):
        changed(against, discriminator=None)


def test_the_trained_folder_says_what_is_drawn_and_features_must_agree(
    params: TrainParams, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"posterior = mean, the training has sample"):
        train.plan(changed(params, posterior="sample"), "sd21", "sdfm")
    samples = write_table(
        tmp_path / "samples",
        [feature_rows(1)],
        stage="features@sd21",
        params={"posterior": "sample"},
        inputs={"pairs": FINGERPRINT},
    )
    drawn = changed(params, features=samples.path, posterior="sample", noise_of="seed")
    _, restorer = train.plan(drawn, "sd21", "sdfm")
    assert (restorer.spec.posterior, restorer.spec.noise_of) == ("sample", "seed")
    with pytest.raises(ValueError, match="qwen takes posterior means only"):
        drawn.spec("qwen", "sdfm", size=SIZE, encoder_size=params.encoder_size)


def test_the_plan_names_all_that_the_folder_stands_on(params: TrainParams) -> None:
    training, restorer = train.plan(params, "sd21", "sdfm")
    out = params.out("sd21", "sdfm")
    places = {role: (out / need.hint).resolve() for role, need in restorer.needs.items()}
    assert places == {
        "backbone": params.weights,
        "encoder": params.encoder,
        "intermediate": params.intermediate,
    }
    assert dict(training.inputs) == {
        "features": "fea7" * 16,
        **{role: need.fingerprint for role, need in restorer.needs.items()},
    }
    assert training.inputs["intermediate"] == open_model(params.intermediate).fingerprint
    assert (restorer.spec.size, restorer.token_width) == (SIZE, DINO["hidden_size"])
    assert not params.models.exists()


def test_a_folder_of_results_is_named_and_new_faces_do_without_it(
    params: TrainParams, tmp_path: Path
) -> None:
    write_results(tmp_path / "pictures", ["a"])
    fingerprint = adopt(f"folder:{tmp_path / 'pictures'}", tmp_path / "results")
    with_results = changed(params, intermediate=tmp_path / "results")
    training, restorer = train.plan(with_results, "sd21", "sdfm")
    assert set(restorer.needs) == {"backbone", "encoder", "results"}
    assert training.inputs["results"] == fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"workers": (1, 2)},
        {"workers": (1, 2), "elastic_batch": "per_worker"},
        {"optimization": {**OPTIMIZATION, "learning_rate": 2e-2}},
        {"losses": {"latent": 2.0}},
    ],
    ids=str,
)
def test_what_decides_the_result_decides_the_fingerprint(
    params: TrainParams, values: dict[str, Any]
) -> None:
    planned, again, other = (
        train.plan(one, "sd21", "sdfm")[0].fingerprint
        for one in (params, params, changed(params, **values))
    )
    assert planned == again
    assert other != planned
    assert train.plan(params, "sd21", "dino")[0].fingerprint != planned


def test_where_inputs_and_models_lie_decides_nothing(params: TrainParams, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(params.features, tmp_path / "elsewhere")
    moved = changed(params, features=elsewhere, models=tmp_path / "other")
    one, other = (train.plan(each, "sd21", "sdfm")[0] for each in (params, moved))
    assert one.fingerprint == other.fingerprint


def test_features_of_other_pairs_are_refused_with_what_to_run(
    params: TrainParams, tmp_path: Path
) -> None:
    write_table(
        tmp_path / "others", [feature_rows(1)], stage="features@sd21", inputs={"pairs": "0" * 64}
    )
    with pytest.raises(
        ValueError,
        match=r"was made from pairs 000000000000, .*pairs is 1dea1dea1dea: run 'dvc repro features",
    ):
        train.plan(changed(params, features=tmp_path / "others"), "sd21", "sdfm")


@pytest.mark.parametrize("name", ["pairs", "features", "weights", "encoder", "intermediate"])
def test_a_missing_input_is_named(params: TrainParams, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        train.plan(changed(params, **{name: tmp_path / "gone"}), "sd21", "sdfm")
