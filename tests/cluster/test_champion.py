"""An endpoint that follows `@champion` of a tracking server, from before there is one."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import torch

from components.profiles import use
from components.restorers.folder import load_restorer, save_restorer
from components.restorers.spec import Need
from components.weights.store import open_weights
from tests.endpoint import PATIENCE_S, Endpoint, picture
from tests.pipelines.registered import GIT, NAMES, Project, make_models
from tests.servers import MlflowServer, s3_environment, s3_server
from tests.small_networks import trained

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]
SDFM, TEXT = NAMES
BROKEN = "sd21-text"


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, networks: Path
) -> Iterator[tuple[Project, MlflowServer]]:
    """Run a tracking server with nothing in it, beside models that can be registered."""
    monkeypatch.chdir(tmp_path)  # no checkout of the project, whose lock would have to know these
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    models = make_models(tmp_path / "trained", networks)
    _break(trained(models, networks, "sd21", "text"), networks)
    store = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'server.db')}"
    with s3_server() as s3, MlflowServer(store, s3_environment(s3), tmp_path / "log") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield Project.make(tmp_path, models), server


def _break(folder: Path, networks: Path) -> None:
    """Save a trained folder anew with weights that are no numbers."""
    restorer = load_restorer(folder)
    with torch.no_grad():
        for parameter in restorer.backbone.parameters():
            parameter.fill_(float("nan"))
    weights = open_weights(networks / "sd21")
    hint = os.path.relpath(networks / "sd21", folder)
    shutil.rmtree(folder)
    save_restorer(
        restorer,
        folder,
        needs={"backbone": Need(name=weights.name, fingerprint=weights.fingerprint, hint=hint)},
        licences=["none"],
        lineage={"git": GIT, "training": f"training-of-{folder.name}"},
        weights=weights.root,
    )
    (folder / "history.json").write_text("[]")


@pytest.fixture
def endpoint(project: tuple[Project, MlflowServer], repository: Path) -> Iterator[Endpoint]:
    """Start an endpoint while the server is away."""
    models, server = project
    server.stop()
    folder = models.root / "endpoint"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        use("tiny", file=folder / "params.yaml")
    settings = ("models={faces: 'models:/hdrface@champion'}", "look_every_s=0.5")
    running = Endpoint(folder, repository, *settings, "self_test_psnr=9", "page=false")
    try:
        yield running
    finally:
        running.stop()


class Asking(threading.Thread):
    """Asks without end, and notes who answered."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.over = endpoint, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.versions: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            answer = self.endpoint.restore(picture(1))
            self.statuses[answer.status_code] += 1
            version = answer.headers.get("x-hdrface-model", "")
            if not self.versions or self.versions[-1] != version:
                self.versions.append(version)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "nothing changes"
        time.sleep(0.2)


def answer_to(endpoint: Endpoint, path: str, *, patience_s: float = 10) -> httpx.Response | None:
    try:
        answer = httpx.get(f"{endpoint.url}/{path}", timeout=patience_s)
    except httpx.TransportError:
        return None
    return None if answer.status_code == 404 else answer  # Serve's own, while there is no endpoint


def said_by(endpoint: Endpoint) -> str:
    """Give what keeps the model from being ready, or nothing."""
    answer = answer_to(endpoint, "readyz")
    if answer is None:
        return ""
    assert answer.status_code == 503
    return str(answer.json()["problems"]["faces"])


def test_a_new_champion_takes_over_and_a_broken_one_or_a_lost_server_changes_nothing(
    project: tuple[Project, MlflowServer], endpoint: Endpoint
) -> None:
    models, server = project
    until(lambda: answer_to(endpoint, "healthz") is not None)
    # Who asks now leaves before the model's replica is there: that ends his request alone.
    answer_to(endpoint, "readyz", patience_s=1)
    until(lambda: "has not answered" in said_by(endpoint))
    server.start()
    until(lambda: "hdrface has no @champion" in said_by(endpoint))
    refused = endpoint.restore(picture(1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")

    models.ready(TEXT, gain=1)
    assert models.register(TEXT)[TEXT]["alias"] == "champion"
    endpoint.wait_until_ready()
    assert endpoint.restore(picture(1)).headers["x-hdrface-model"] == "hdrface/1"

    asking = Asking(endpoint)
    asking.start()
    models.ready(SDFM, gain=2)
    assert models.register(SDFM)[SDFM]["alias"] == "champion"
    until(lambda: asking.versions[-1] == "hdrface/2")

    models.ready(BROKEN, gain=3)
    assert models.register(BROKEN)[BROKEN]["alias"] == "champion"
    problem = "hdrface/3 failed its self-test"
    until(lambda: problem in httpx.get(f"{endpoint.url}/v1/models").text)

    server.stop()
    time.sleep(3)
    asking.over.set()
    asking.join()
    assert asking.versions == ["hdrface/1", "hdrface/2"]
    assert set(asking.statuses) == {200}
    assert endpoint.restore(picture(1)).status_code == 200
