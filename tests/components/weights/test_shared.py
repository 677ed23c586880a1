from pathlib import Path

import pytest

from components.storage import ROOT_VARIABLE
from components.stores import STORE_VARIABLE
from components.weights.shared import share, share_file
from components.weights.store import open_model, open_weights
from tests.components.weights.test_store import make_full, make_restorer, make_weights
from tests.servers import BUCKET, s3_environment, s3_server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Make a trained folder that names weights."""
    weights = make_weights(tmp_path / "made" / "sd21")
    make_restorer(tmp_path / "made" / "sd21-sdfm", backbone=(weights, "../sd21"))
    return tmp_path / "made" / "sd21-sdfm"


@pytest.fixture(params=["folder", "s3"])
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make a data root, and a machine's empty store."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "another-machine"))
    if request.param == "folder":
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    else:
        _reach_s3(request, monkeypatch)


def _reach_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from components import storage

    server = s3_server()
    endpoint = server.__enter__()
    request.addfinalizer(lambda: server.__exit__(None, None, None))
    storage._s3.cache_clear()
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ROOT_VARIABLE, f"s3://{BUCKET}/root")


@pytest.mark.usefixtures("elsewhere")
def test_another_machine_gets_a_model_with_all_that_it_names(model: Path) -> None:
    shared = share(model)
    assert share(model) == shared
    (model.parent).rename(model.parent.with_name("gone"))

    found = shared.local()
    assert shared.local() == found
    described = open_model(found)
    assert described.fingerprint == shared.fingerprint
    [need] = described.needs.values()
    assert open_weights(found.parent / need["fingerprint"]).fingerprint == need["fingerprint"]


@pytest.mark.usefixtures("elsewhere")
def test_another_machine_gets_a_file(tmp_path: Path) -> None:
    (tmp_path / "detector.onnx").write_bytes(b"network")
    shared = share_file(tmp_path / "detector.onnx")
    (tmp_path / "detector.onnx").unlink()
    assert shared.local().read_bytes() == b"network"
    assert shared.local().read_bytes() == b"network"


def test_without_a_root_a_path_stays_the_same(model: Path) -> None:
    assert share(model).local() == model


def test_a_damaged_folder_is_not_shared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    next(model.rglob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="safetensors"):
        share(model)
    assert not list((tmp_path / "root").rglob("restorer.json"))


@pytest.mark.usefixtures("elsewhere")
def test_weights_are_whole_for_who_needs_them_whole(tmp_path: Path) -> None:
    """Also where a generator that was trained in full came first, without the one it replaces."""
    weights = tmp_path / "sd21"
    fingerprint = make_weights(weights)
    make_full(tmp_path / "full", (fingerprint, "../sd21"))
    model = share(tmp_path / "full").local()
    with pytest.raises(FileNotFoundError, match=r"unet/model\.safetensors of .* lies in none of"):
        open_weights(model.parent / fingerprint)
    assert open_weights(share(weights).local()).root == model.parent / fingerprint


def test_in_a_root_on_the_same_file_system_a_model_takes_no_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    shared = share(model).local()
    assert shared != model
    assert (shared / "fusion.safetensors").samefile(model / "fusion.safetensors")
