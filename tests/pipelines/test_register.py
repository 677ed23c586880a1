"""The stage `register` against a real MLflow: versions, aliases, and what a version holds."""

import hashlib
import json
import shutil
import socket
from pathlib import Path

import mlflow
import numpy as np
import pytest
from typer.testing import CliRunner

from components import images
from components.images import Image
from components.restorers.folder import load_restorer
from components.restorers.int8_check import MIN_FACES
from components.tracking import manual, registry, trained_models
from components.tracking.outages import TrackingError
from components.tracking.registry import Champions
from components.weights.manifest import INT8_CHECK, RESTORER, Description
from components.weights.store import closure
from pipelines import cli
from tests.mlflow_database import KillAfter, Killed
from tests.pipelines.registered import NAMES, RULE, Project, make_models
from tests.small_networks import SIZE
from tests.small_tables import RECIPE

SDFM, TEXT = NAMES
SECRET = "hidden-5e1f"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    return make_models(tmp_path_factory.mktemp("trained"), networks)


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, models: Path
) -> Project:
    """Work beside an empty database, with the default settings and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Project.make(tmp_path, models)


def face(seed: int = 0) -> Image:
    draw = np.random.default_rng(seed)
    return draw.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


def restored_by(folder: Path, png: bytes) -> bytes:
    """Restore as a version does, with the trained folder itself."""
    found = load_restorer(folder).restore(
        images.to_tensor([images.decode_png(png)]), [hashlib.sha256(png).hexdigest()], [0]
    )
    return images.encode_png(images.from_tensor(found.restored_B3HW)[0])


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Give every file with what changes when it is written again."""
    return {
        file.relative_to(folder).as_posix(): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_first_model_that_gains_becomes_the_champion_with_its_lineage(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    run_id = project.ready(SDFM, gain=1)
    before = files_below(project.root / "mlartifacts")
    outcome = project.register(SDFM)

    assert outcome[SDFM]["version"] == "hdrface/1"
    assert outcome[SDFM]["alias"] == "champion"
    assert outcome[SDFM]["reason"].startswith("against the degraded faces: psnr better (")
    tags = project.tags("1")
    assert tags["hdrface.fingerprint"] == project.fingerprint(SDFM)
    assert tags["git.commit"].startswith("c0ffee")
    assert tags["licences"] == "none"
    assert 22 < float(tags["metric.psnr"]) < 24
    _, champion = registry.find("models:/hdrface@champion")
    assert champion.run_id == run_id
    story = project.registry.story(champion)
    assert story is not None
    assert story["tables"][str(project.root / "faces")]["rows"] == 2
    assert [weights["name"] for weights in story["weights"]] == ["sd21", "dinov3", "qwen"]
    assert project.registry.scores(champion) == json.loads(
        (project.root / "metrics" / f"{SDFM}.json").read_bytes()
    )

    # DVC's artifact is the same folder, without a second copy of a file.
    handed = project.root / "champion"
    assert Description.read(handed, RESTORER).fingerprint == project.fingerprint(SDFM)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (handed / weights).samefile(project.models / SDFM / weights)

    # What the training had stored was not stored again, and nothing is a pickle or a secret.
    after = files_below(project.root / "mlartifacts")
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if path.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    written = [project.root / "mlflow.db", *(project.root / "mlartifacts").rglob("*")]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_second_run_registers_nothing_and_decides_nothing(project: Project) -> None:
    project.ready(SDFM, gain=1)
    first = project.register(SDFM)
    database = (project.root / "mlflow.db").read_bytes()
    stored = files_below(project.root / "mlartifacts")
    assert project.register(SDFM) == first
    assert (project.root / "mlflow.db").read_bytes() == database
    assert files_below(project.root / "mlartifacts") == stored


def test_the_champion_restores_the_same_bytes_as_the_folder_anywhere(
    project: Project, models: Path, monkeypatch: pytest.MonkeyPatch, networks: Path
) -> None:
    """Loaded by MLflow, and fetched into a store, while nothing else is where it was."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.root}/mlflow.db")
    project.ready(SDFM, gain=1)
    project.register(SDFM)
    png = images.encode_png(face())
    expected, fingerprint = restored_by(models / SDFM, png), project.fingerprint(SDFM)

    places = (networks, models)
    hidden = [place.rename(place.with_name(f"{place.name}-hidden")) for place in places]
    try:
        loaded = mlflow.pyfunc.load_model("models:/hdrface@champion")
        assert loaded.predict([png, images.encode_png(face(1))])[0] == expected
        large = images.encode_png(images.resize(face(), 2 * SIZE))
        assert images.decode_png(loaded.predict([large])[0]).shape == (SIZE, SIZE, 3)

        folder = project.registry.fetch(project.registry.version_at("champion"))
        assert folder == project.root / "store" / fingerprint
        assert restored_by(folder, png) == expected
    finally:
        for elsewhere, place in zip(hidden, places, strict=True):
            elsewhere.rename(place)
    trained = models / SDFM / "unet" / "diffusion_pytorch_model.safetensors"
    assert trained.samefile(folder / "unet" / trained.name)  # MLflow and the store have no copies
    # The generator was trained in full: nobody needs the one that it started from.
    assert not list((project.root / "mlartifacts").rglob("needs/*/unet"))
    assert set(loaded.metadata.signature.inputs.input_types()) == {mlflow.types.DataType.binary}


def test_a_versions_check_in_int8_is_kept_with_it_and_reaches_other_machines(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.ready(SDFM, gain=1)
    project.register(SDFM)
    known = project.registry
    version = known.version_at("champion")
    for name in ("had-it-before", "new"):
        (project.root / name).mkdir()
    monkeypatch.setenv("HDRFACE_STORE", str(project.root / "had-it-before"))
    folder = known.fetch(version, "int8")
    with pytest.raises(ValueError, match="was not checked in int8: run 'hdrface check"):
        load_restorer(folder, precision="int8")

    monkeypatch.setenv("HDRFACE_STORE", str(project.root / "store"))
    hq = project.root / "hq"
    hq.mkdir()
    for number in range(MIN_FACES):
        (hq / f"{number}.png").write_bytes(images.encode_png(face(number)))
    recipe = {"degrade": {"recipe": RECIPE.model_dump(mode="json")}}
    (project.root / "recipe.yaml").write_text(json.dumps(recipe))
    asked = ["check", "--model", "models:/hdrface@champion", "--hq", str(hq)]
    done = CliRunner().invoke(cli.app, [*asked, "--params", str(project.root / "recipe.yaml")])
    assert done.exit_code == 0, done.output
    note = (known.fetch(version) / INT8_CHECK).read_bytes()
    assert not (project.models / SDFM / INT8_CHECK).exists()
    for name in ("had-it-before", "new"):
        monkeypatch.setenv("HDRFACE_STORE", str(project.root / name))
        found = trained_models.locate("models:/hdrface@champion", project.root, precision="int8")
        assert (found.folder / INT8_CHECK).read_bytes() == note
        assert load_restorer(found.folder, precision="int8").precision == "int8"


def test_a_model_that_does_not_gain_is_no_champion(project: Project) -> None:
    project.ready(SDFM, gain=-1)
    outcome = project.register(SDFM)
    assert outcome[SDFM]["alias"] == "challenger"
    assert "psnr not shown to be better" in outcome[SDFM]["reason"]
    assert project.registry.champions().now is None
    assert list((project.root / "champion").iterdir()) == []


def test_a_better_candidate_takes_the_place_and_a_worse_one_challenges(project: Project) -> None:
    for name, gain in ((TEXT, 1.0), (SDFM, 2.0)):
        project.ready(name, gain)
    outcome = project.register(TEXT, SDFM)
    assert [outcome[name]["alias"] for name in (TEXT, SDFM)] == [None, "champion"]
    assert outcome[SDFM]["reason"].startswith("against version 1: psnr better (+")
    assert project.registry.champions().before == ("1",)

    # The decision stands, until the scores or the rule are others.
    assert project.register(TEXT, SDFM) == outcome
    before = float(project.tags("1")["metric.psnr"])
    project.score(TEXT, gain=1.5)
    again = project.register(TEXT, SDFM)
    assert float(project.tags("1")["metric.psnr"]) == pytest.approx(before + 0.5, abs=1e-3)
    assert again[TEXT]["alias"] == "challenger"
    assert again[TEXT]["reason"].startswith("against version 2: psnr not shown to be better (-0.5")

    # A champion that is no candidate any more is handed to DVC from the registry.
    project.register(TEXT)
    handed = Description.read(project.root / "champion", RESTORER)
    assert handed.fingerprint == project.fingerprint(SDFM)
    assert project.versions() == ["1", "2"]


def test_another_rule_decides_anew(project: Project) -> None:
    for name, gain in ((TEXT, 2.0), (SDFM, 1.9)):
        project.ready(name, gain)
    assert project.register(TEXT, SDFM)[SDFM]["alias"] == "challenger"
    lenient = RULE.model_copy(update={"better": ["ssim"], "not_worse": {"psnr": 0.5}})
    reason = project.register(TEXT, SDFM, rule=lenient)[SDFM]["reason"]
    assert reason.startswith("against version 1: ssim not shown to be better (+0;")


def test_a_champion_scored_on_other_faces_stays(project: Project) -> None:
    project.ready(TEXT, gain=1)
    project.register(TEXT)
    project.track(SDFM)
    project.score(SDFM, gain=5, pairs="e0")
    outcome = project.register(SDFM)
    assert outcome[SDFM]["alias"] == "challenger"
    assert outcome[SDFM]["reason"] == (
        "against version 1: not comparable: it was scored on the pairs e0, the champion on 9f"
    )
    assert project.registry.champions().now == "1"


def test_what_a_hand_decided_stays_so(project: Project) -> None:
    for name, gain in ((TEXT, 1.0), (SDFM, 2.0)):
        project.ready(name, gain)
    project.register(TEXT, SDFM)
    assert manual.rollback("hdrface") == "hdrface/1 is the champion in place of version 2"
    stricter = RULE.model_copy(update={"seed": 2})
    outcome = project.register(TEXT, SDFM, rule=stricter)
    assert [outcome[name]["alias"] for name in (TEXT, SDFM)] == ["champion", None]
    assert outcome[TEXT]["reason"] == "rolled back to by hand in place of version 2"


def test_killed_after_any_write_the_next_run_completes_it(
    project: Project, kill_after: KillAfter
) -> None:
    project.ready(TEXT, gain=1)
    # Files, registered model, version; then two metrics, the reason, the list and the alias.
    for number in (1, 2, 2, 1, 2, 3, 4, 5):
        with pytest.raises(Killed), kill_after(number):
            project.register(TEXT)
    outcome = project.register(TEXT)
    assert outcome[TEXT]["alias"] == "champion"
    assert outcome[TEXT]["reason"].startswith("against the degraded faces: psnr better (+")
    assert project.versions() == ["1"]
    assert project.registry.champions() == Champions("1", None, ())


def test_the_command_lineage_prints_a_version_back_to_its_data(
    project: Project, models: Path
) -> None:
    run_id = project.ready(SDFM, gain=1)
    stages = {
        "faces": {
            "deps": [{"path": "/photos", "md5": "5ca1e.dir"}, {"path": "components/a.py"}],
            "params": {"params.yaml": {"faces": {"source": "/photos"}}},
        },
        "train@sd21-sdfm": {"deps": [{"path": "data/faces", "md5": "f00.dir"}]},
    }
    story = {
        "model": SDFM,
        "fingerprint": project.fingerprint(SDFM),
        "run": run_id,
        "git": {"commit": "c0ffee", "dirty": True},
        "weights": [
            {
                "name": "dinov3",
                "source": "a/hub",
                "revision": "e4e",
                "fingerprint": "ab",
                "licence": "",
            }
        ],
        "licences": ["DINOv3 License", "Apache-2.0"],
        "tables": {
            "data/faces": {"stage": "faces", "fingerprint": "1d", "rows": 167, "rejected": 3}
        },
        "stages": stages,
    }
    needed = list(closure(models / SDFM))
    project.registry.register(needed, run_id, story=story, tags={})
    told = CliRunner().invoke(cli.app, ["lineage", "hdrface/1"]).stdout
    for words in (
        *("models:/hdrface/1", run_id, "c0ffee, and changes to it"),
        *("not decided about yet", "167 rows, 3 rejected", "a/hub at e4e", "DINOv3 License"),
        *("/photos", "5ca1e.dir", "components/a.py", "f00.dir"),
    ):
        assert words in told, words


def test_a_model_without_its_run_is_refused_by_name(project: Project) -> None:
    project.score(SDFM, gain=1)
    with pytest.raises(ValueError, match=r"has no run in which .*sd21-sdfm was trained") as caught:
        project.register(SDFM)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert "dvc repro --force train@sd21-sdfm" in str(caught.value)


def test_a_run_that_holds_another_model_is_refused(project: Project, models: Path) -> None:
    project.score(SDFM, gain=1)
    other = Project(project.root, project.root / "as-trained")
    other.models.mkdir()
    (other.models / SDFM).symlink_to(models / TEXT)
    run_id = other.track(SDFM)
    with pytest.raises(
        ValueError, match=f"run {run_id} holds the model {project.fingerprint(TEXT)}"
    ):
        project.register(SDFM)


def test_scores_that_are_missing_or_of_another_model_are_refused(project: Project) -> None:
    project.track(SDFM)
    with pytest.raises(ValueError, match=r"sd21-sdfm\.json is not there: run 'dvc repro evaluate'"):
        project.register(SDFM)
    project.score(TEXT, gain=1)
    metrics = project.root / "metrics"
    (metrics / f"{TEXT}.json").rename(metrics / f"{SDFM}.json")
    with pytest.raises(ValueError, match=r"sd21-sdfm\.json has the scores of the model"):
        project.register(SDFM)


def test_an_absent_server_is_told_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    project.score(SDFM, gain=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setattr(registry, "_ASKING_LIMIT_S", 0)
    with pytest.raises(TrackingError, match=rf"MLflow at {nobody} \(MLFLOW_TRACKING_URI\) has not"):
        project.register(SDFM)
