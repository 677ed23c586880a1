"""The endpoint as people start it: `hdrface serve`, on a Ray of its own."""

import asyncio
import contextlib
import signal
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from components import images
from components.params import ParamsError
from components.photographs import photograph
from components.profiles import use
from components.serving import keys, running
from components.serving.params import load
from tests import spans
from tests.components.photographs.test_restoration import SHOWN
from tests.end_to_end.checkout import REPOSITORY
from tests.endpoint import HEADERS, Endpoint, picture
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, trained

pytestmark = [pytest.mark.ray, pytest.mark.slow]
DETECTOR = REPOSITORY.parent / "shared/weights/det_500m.onnx"
MAX_QUEUED = 16


@pytest.fixture(scope="module")
def endpoint(
    tmp_path_factory: pytest.TempPathFactory, networks: Path, repository: Path
) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    model = trained(folder, networks, "sd21", "sdfm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        use("tiny", file=folder / "params.yaml")
    onnx_network(folder / "half.onnx", side=SIZE)
    settings = [
        f"models={{small: {model}, half: 'onnx:half.onnx'}}",
        *("self_test_psnr=5", f"max_queued={MAX_QUEUED}"),
        *("ingress.min=2", "ingress.max=2"),  # the page's one process is behind both
    ]
    if DETECTOR.is_file():
        settings.append(f"detector={DETECTOR}")
    (folder / "spans").mkdir()
    environment = {**spans.SETTINGS, spans.FOLDER: str(folder / "spans")}
    running = Endpoint(folder, repository, *settings, **environment)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def test_the_steps_of_a_photograph_are_spans_below_those_of_ray_serve(endpoint: Endpoint) -> None:
    assert endpoint.restore(picture(0)).status_code == 200
    end = time.monotonic() + 20
    while not _is_traced(spans.read(endpoint.log.with_name("spans"))):  # Ray's own ends last
        assert time.monotonic() < end
        time.sleep(0.2)


def _is_traced(found: list[dict[str, Any]]) -> bool:
    """Say whether all steps of a photograph are below one span that has none above it."""
    steps = {"decode", "find", "restore", "finish"}
    traces = [one["context"]["trace_id"] for one in found if one["parent_id"] is None]
    below = {
        (one["context"]["trace_id"], one["name"]) for one in found if one["parent_id"] is not None
    }
    return any(steps <= {name for trace, name in below if trace == root} for root in traces)


def test_equal_requests_get_equal_answers_that_name_the_model(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(endpoint.restore, map(picture, [*range(8)] * 2)))
    assert {answer.status_code for answer in answers} == {200}
    for one, other in zip(answers[:8], answers[8:], strict=True):
        apart = images.decode_png(one.content).astype(int) - images.decode_png(other.content)
        assert np.abs(apart).max() <= 1  # sums of another batch
    assert answers[0].headers["x-hdrface-model"] == "sd21-sdfm"
    models: list[dict[str, Any]] = httpx.get(f"{endpoint.url}/v1/models").json()
    expected = [("small", SIZE), ("half", SIZE)]
    assert [(model["name"], model["size"]) for model in models] == expected
    wait_until_counted(endpoint, 'hdrface_requests_total{model="small",status="200"}')


@pytest.mark.parametrize("name", ["model-small", "finder"])
def test_a_killed_replica_loses_no_request(endpoint: Endpoint, name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(endpoint.restore, picture(seed)) for seed in range(40)]
        time.sleep(0.3)
        [replica] = endpoint.replicas(name)
        replica.kill()
        codes = {answer.result().status_code for answer in waiting}
    assert codes == {200}


def test_a_job_survives_the_loss_of_any_replica(endpoint: Endpoint) -> None:
    files = [("image", (f"{seed}.png", picture(seed))) for seed in range(60)]
    sent = httpx.post(f"{endpoint.url}/v1/jobs", files=files, data={"aligned": "true"}, timeout=60)
    assert sent.status_code == 202, sent.text
    job = f"{endpoint.url}{sent.headers['location']}"
    for lost in [endpoint.replicas(name)[0] for name in ("jobs", "ingress")]:
        lost.kill()
    end = time.monotonic() + 120
    state: dict[str, Any] = {"status": "unknown"}
    while state["status"] != "finished":
        assert time.monotonic() < end, state
        time.sleep(0.5)
        with contextlib.suppress(httpx.TransportError):  # an ingress is lost
            answer = httpx.get(job, timeout=60)
            if answer.status_code == 200:
                state = answer.json()
    assert {file["status"] for file in state["files"]} == {"restored"}
    last = httpx.get(f"{endpoint.url}{state['files'][59]['url']}").content
    expected = images.decode_png(endpoint.restore(picture(59)).content).astype(int)
    assert np.abs(images.decode_png(last) - expected).max() <= 1
    assert httpx.delete(job).status_code == 204


def test_a_full_queue_returns_429_and_a_client_that_leaves_frees_its_place(
    endpoint: Endpoint,
) -> None:
    wait_until_whole(endpoint)
    [model] = endpoint.replicas("model-small")
    model.suspend()
    try:
        # More than two ingresses hold and the proxy keeps waiting.
        refused, num_waiting = asyncio.run(ask_until_refused(endpoint, 5 * MAX_QUEUED))
        assert {answer.status_code for answer in refused} == {429}, [one.text for one in refused]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert num_waiting >= MAX_QUEUED
        end = time.monotonic() + 20
        while (answer := impatient(endpoint)) is not None:  # not all have been heard to leave
            assert time.monotonic() < end, answer.text
    finally:
        model.resume()
    assert endpoint.restore(picture(0)).status_code == 200
    wait_until_counted(endpoint, 'hdrface_requests_total{model="",status="499"}')


def wait_until_whole(endpoint: Endpoint) -> None:
    """Wait until an ingress that was killed is back and knows the models."""
    end = time.monotonic() + 60
    in_a_row = 0
    while in_a_row < 16 or len(endpoint.replicas("ingress")) < 2:
        assert time.monotonic() < end, endpoint.log.read_text()
        in_a_row = in_a_row + 1 if httpx.get(f"{endpoint.url}/readyz").status_code == 200 else 0


def wait_until_counted(endpoint: Endpoint, what: str) -> None:
    """Wait until the counters, which are sent in intervals, have an entry."""
    end = time.monotonic() + 20
    while what not in (counted := httpx.get(f"{endpoint.url}/metrics").text):
        assert time.monotonic() < end, counted
        time.sleep(0.5)


async def ask_until_refused(
    endpoint: Endpoint, num_requests: int
) -> tuple[list[httpx.Response], int]:
    """Send requests at once; when some are refused, cancel the others. Return both."""
    url = f"{endpoint.url}/v1/restore?aligned=true"
    async with httpx.AsyncClient(timeout=90, limits=httpx.Limits(max_connections=None)) as client:
        asked = [
            asyncio.create_task(client.post(url, content=picture(0), headers=HEADERS))
            for _ in range(num_requests)
        ]
        await asyncio.wait(asked, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        answered, waiting = await asyncio.wait(asked, timeout=1)
        for request in waiting:
            request.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [request.result() for request in answered], len(waiting)


def impatient(endpoint: Endpoint) -> httpx.Response | None:
    """Send a request; cancel it after some seconds."""
    try:
        return endpoint.restore(picture(0), timeout_s=4)
    except httpx.ReadTimeout:
        return None


@pytest.mark.shared
def test_counted_faces_are_restored_in_whole_photographs(
    endpoint: Endpoint, shared_dir: Path
) -> None:
    for name, count in SHOWN.items():
        data = (shared_dir / "faces/whole" / name).read_bytes()
        answer = httpx.post(f"{endpoint.url}/v1/restore", files={"image": data}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-hdrface-faces"] == str(count)
        before, after = photograph.read(data), photograph.read(answer.content)
        assert (after.format, after.pixels.shape) == (before.format, before.pixels.shape)


@pytest.mark.browser
def test_the_page_restores_shows_and_downloads_a_photograph(
    endpoint: Endpoint, browser: Any, tmp_path: Path, repository: Path
) -> None:
    photograph, broken = tmp_path / "anna.png", tmp_path / "broken.png"
    photograph.write_bytes(picture(3))
    broken.write_bytes(picture(3)[:200])
    page = browser.new_page(viewport={"width": 390, "height": 800})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(endpoint.url)
    choose = page.locator("#photograph input[type=file]")

    choose.set_input_files(broken)
    page.locator("#message", has_text="Not restored").wait_for()
    assert "/tmp" not in page.locator("#message").inner_text()
    assert not page.locator("#slider").is_visible()
    page.reload()

    if DETECTOR.is_file():
        page.get_by_text("More options", exact=True).click()
        page.get_by_label("The picture is one aligned face").check()
    choose.set_input_files(photograph)
    page.locator("#message", has_text="1 of 1 faces restored by sd21-sdfm").wait_for()
    assert page.locator("#slider img").count() == 2
    page.locator("#faces button", has_text="face 1").click()
    page.locator("#gate img").wait_for()

    handle = page.locator("#slider .outer")
    before = handle.bounding_box()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert handle.bounding_box()["x"] > before["x"]

    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "anna-restored.png"
    given = images.decode_png(Path(download.value.path()).read_bytes()).astype(int)
    expected = images.decode_png(endpoint.restore(picture(3)).content)
    assert np.abs(given - expected).max() <= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(url.startswith((endpoint.url, "data:", "blob:")) for url in requests)
    (repository / "reports").mkdir(exist_ok=True)
    page.screenshot(path=repository / "reports/endpoint-page.png", full_page=True)


@pytest.mark.browser
def test_an_album_is_restored_on_a_phone_and_found_again(
    endpoint: Endpoint, browser: Any, tmp_path: Path, repository: Path
) -> None:
    files = [tmp_path / f"photo {number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(picture(number))
    files[1].write_bytes(picture(1)[:200])
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(endpoint.url)
    if DETECTOR.is_file():
        page.get_by_text("More options", exact=True).click()
        page.get_by_label("The picture is one aligned face").check()
    page.get_by_text("Several photographs", exact=True).click()
    page.locator("#album-files input[type=file]").set_input_files(files)
    page.get_by_text("photo 2").first.wait_for()  # it is uploaded
    page.locator("#restore-album").click()
    told = page.locator("#album-message", has_text="2 of 3 photographs restored")
    told.wait_for(timeout=90_000)
    assert "photo 1.png" in told.inner_text()
    with page.expect_download() as download:
        page.locator("#album-download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["001-photo 0.png", "002-photo 2.png"]
        given = images.decode_png(archive.read("002-photo 2.png")).astype(int)
    expected = images.decode_png(endpoint.restore(picture(2)).content)
    assert np.abs(given - expected).max() <= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    (repository / "reports").mkdir(exist_ok=True)
    page.screenshot(path=repository / "reports/endpoint-album.png", full_page=True)

    job = page.locator("#album-job input, #album-job textarea").input_value()
    page.reload()
    page.get_by_text("Several photographs", exact=True).click()
    page.locator("#album-job input, #album-job textarea").fill(job)
    page.locator("#album-job button", has_text="Show").click()
    told.wait_for()


@pytest.mark.browser
@pytest.mark.shared
def test_one_face_of_many_can_be_chosen_on_the_page(
    endpoint: Endpoint, browser: Any, shared_dir: Path, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(endpoint.url)
    name = "solvay_1927.png"
    page.locator("#photograph input[type=file]").set_input_files(shared_dir / "faces/whole" / name)
    page.locator("#message", has_text=f"{SHOWN[name]} of {SHOWN[name]} faces restored").wait_for()
    choices = page.locator("#faces button.thumbnail-item")
    assert choices.count() == 1 + SHOWN[name]
    shown = page.locator("#slider img").first
    whole = shown.get_attribute("src")
    assert not page.locator("#gate img").is_visible()
    choices.nth(SHOWN[name]).click()
    page.locator("#gate img").wait_for()
    assert shown.get_attribute("src") != whole
    page.screenshot(path=tmp_path / "picked.png", full_page=True)
    choices.nth(0).click()
    page.locator("#gate img").wait_for(state="hidden")


def test_a_port_in_use_is_refused(endpoint: Endpoint, repository: Path) -> None:
    port = int(endpoint.url.rpartition(":")[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        with pytest.raises(ValueError, match=rf"port {port} of 127\.0\.0\.1 cannot be used"):
            running.run(load(), host="127.0.0.1", port=port)


def test_ctrl_c_finishes_requests_and_removes_photographs(endpoint: Endpoint) -> None:
    """Must be the last test: it stops the endpoint."""
    before = page_folders()
    [model] = endpoint.replicas("model-small")
    model.suspend()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(endpoint.restore, picture(seed)) for seed in range(4)]
        time.sleep(3)  # until they are in
        endpoint.process.send_signal(signal.SIGINT)
        time.sleep(2)
        model.resume()
        assert {answer.result().status_code for answer in waiting} == {200}
    endpoint.process.wait(60)
    assert f"model small: sd21-sdfm, faces of {SIZE} pixels" in endpoint.log.read_text()
    assert len(before - page_folders()) == 1  # others may be those of other endpoints


def page_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("hdrface-page-*"))


def test_an_address_that_other_machines_reach_needs_keys(tmp_path: Path, repository: Path) -> None:
    keys.add(tmp_path / "keys.json", "anna")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        params = load()
        with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached from other machines"):
            running.run(params, host="0.0.0.0", port=1)
        with_keys = load([f"keys={tmp_path}/keys.json"])
        with pytest.raises(ValueError, match=r"0\.0\.0\.0 is no name .* list these in serve.hosts"):
            running.run(with_keys, host="0.0.0.0", port=1)
        with pytest.raises(ParamsError, match="hosts"):
            load(["hosts=['https://restore.example:443']"])
        with pytest.raises(ParamsError, match="max_batch"):
            load(["max_batch=0"])
