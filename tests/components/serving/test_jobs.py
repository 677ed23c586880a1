"""Jobs over HTTP, in this process: a process that works on them may be lost at any time."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from components import images
from components.photographs.face_restorer import FaceRestorer
from components.serving import api, keys
from components.serving.job_work import JobWork
from components.serving.jobs import Jobs
from components.serving.keys import Keys
from components.serving.model import FacesAnswer, FacesRequest
from components.serving.params import JobLimits
from components.serving.refusal import busy, not_ready
from components.serving.steps import Steps
from components.storage import Storage
from tests.components.photographs.videos import decoded, make_video, needs_ffmpeg
from tests.components.serving.here import ELSEWHERE, HERE, LIMITS, HereParts, picture
from tests.small_networks import SIZE

SMALL = JobLimits(max_files=4, max_upload_mb=0.4, max_jobs=2, max_mb=0.5, keep_s=3600)


class Server:
    """An endpoint whose jobs' process can be lost; its storage stays."""

    def __init__(
        self, parts: HereParts, folder: Path, limits: JobLimits, keys: Keys | None
    ) -> None:
        self.parts, self.storage, self.limits, self.keys = parts, Storage(str(folder)), limits, keys
        self.late_s = 0.0
        self.jobs: Jobs | None = None

    async def start(self) -> httpx.AsyncClient:
        """Start the jobs' process anew, and return a client."""
        if self.jobs is not None:
            await self.jobs.close()
        loop = asyncio.get_running_loop()
        started = loop.time()
        work = JobWork(Steps(self.parts, LIMITS, 1))
        self.jobs = Jobs(
            self.storage,
            self.limits,
            work,
            lambda: 1_800_000_000 + loop.time() - started + self.late_s,
        )
        await self.jobs.start()
        app = api.build(
            self.parts, limits=LIMITS, keys=self.keys, threads=1, jobs=(self.jobs, self.limits)
        )
        here = HERE if self.keys is None else ELSEWHERE
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=here), base_url="http://localhost"
        )

    async def close(self) -> None:
        if self.jobs is not None:
            await self.jobs.close()


Test = Callable[[Server], Awaitable[None]]


@pytest.fixture
def run(parts: HereParts, tmp_path: Path) -> Callable[..., None]:
    """Run a test with a server."""

    def run(test: Test, limits: JobLimits = SMALL, keys: Keys | None = None) -> None:
        async def with_server() -> None:
            (tmp_path / "jobs").mkdir()
            server = Server(parts, tmp_path / "jobs", limits, keys)
            try:
                await asyncio.wait_for(test(server), 60)
            finally:
                await server.close()

        asyncio.run(with_server())

    return run


def album(*files: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"photo {number}.png", data)) for number, data in enumerate(files)]


async def send(client: httpx.AsyncClient, *files: bytes, **headers: str) -> httpx.Response:
    data = {"aligned": "true"}
    return await client.post("/v1/jobs", files=album(*files), data=data, headers=headers)


async def finished(client: httpx.AsyncClient, job: str) -> dict[str, Any]:
    while (state := (await client.get(f"/v1/jobs/{job}")).json())["status"] != "finished":
        await asyncio.sleep(0.02)
    return state


def test_an_album_is_answered_at_once_and_its_results_are_those_of_single_requests(
    run: Callable[..., None],
    restorer: FaceRestorer,
) -> None:
    async def test(server: Server) -> None:
        async with await server.start() as client:
            server.parts.pause_s = 0.3
            sent = await send(client, picture(SIZE), b"no picture", picture(SIZE))
            assert sent.status_code == 202, sent.text
            job = sent.json()["id"]
            assert sent.headers["location"] == f"/v1/jobs/{job}"
            assert sent.json()["status"] != "finished"
            done = await finished(client, job)
            assert [file["status"] for file in done["files"]] == ["restored", "refused", "restored"]
            assert done["files"][1]["error"]["code"] == "bad_picture"
            assert done["files"][0]["record"]["num_restored"] == 1
            fetched = await client.get(done["files"][2]["url"])
            assert fetched.headers["content-type"] == "image/png"
            assert "photo%202-restored.png" in fetched.headers["content-disposition"]
            [expected] = restorer.restore([images.decode_png(picture(SIZE))])
            np.testing.assert_array_equal(images.decode_png(fetched.content), expected.image)
            assert (await client.get(f"/v1/jobs/{job}/files/1")).status_code == 404
            counted = [event.status for event in server.parts.events]
            assert sorted(counted) == [200, 200, 422]

    run(test)


def test_a_lost_process_is_replaced_and_goes_on_where_it_was(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        async with await server.start() as client:
            server.parts.pause_s = 0.2
            job = (await send(client, *[picture(side) for side in (40, 41, 42)])).json()["id"]
            while not (await client.get(f"/v1/jobs/{job}")).json()["num_finished"]:
                await asyncio.sleep(0.02)
        async with await server.start() as client:
            state = (await client.get(f"/v1/jobs/{job}")).json()
            assert (state["status"], state["num_finished"]) == ("running", 1)
            await finished(client, job)
            assert len(server.parts.events) == 3  # what was done is not done again
        async with await server.start() as client:
            done = await finished(client, job)
            sides = [
                images.decode((await client.get(file["url"])).content).shape[0]
                for file in done["files"]
            ]
            assert sides == [40, 41, 42]

    run(test)


def test_results_are_kept_for_the_stated_time_and_files_as_they_came_are_not(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.serving.jobs._CLEAN_EVERY_S", 0.02)

    async def test(server: Server) -> None:
        async with await server.start() as client:
            job = (await send(client, picture())).json()["id"]
            done = await finished(client, job)
            while f"{job}/done.json" not in server.storage.sizes():
                await asyncio.sleep(0.02)
            kept = set(server.storage.sizes())
            assert kept == {
                f"{job}/{name}" for name in ("job.json", "0.out", "0.json", "done.json")
            }
            assert done["made"] < done["expires"] < "2027-01-15T09:01"  # an hour after 08:00
            server.late_s = 3500
            await asyncio.sleep(0.1)
            assert (await client.get(done["files"][0]["url"])).status_code == 200
            server.late_s = 3700
            while server.storage.sizes():
                await asyncio.sleep(0.02)
            assert (await client.get(f"/v1/jobs/{job}")).status_code == 404

    run(test)


def test_a_key_has_so_many_jobs_and_bytes_and_a_deleted_job_makes_room(
    run: Callable[..., None],
) -> None:
    async def test(server: Server) -> None:
        async with await server.start() as client:
            large = picture(230)  # 160 kB
            assert (await send(client, *[picture()] * 5)).json()["error"]["code"] == "bad_form"
            refused = await send(client, large, large, large)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
            assert "0.4 MB" in refused.json()["error"]["message"]
            server.parts.pause_s = 30
            first = (await send(client, large, large)).json()["id"]
            full = await send(client, large, large)
            assert (full.status_code, full.json()["error"]["code"]) == (429, "jobs_full")
            assert full.headers["retry-after"] == "60"
            assert (await client.delete(f"/v1/jobs/{first}")).status_code == 204
            assert (await client.get(f"/v1/jobs/{first}")).status_code == 404
            assert not server.storage.sizes()
            assert (await send(client, large, large)).status_code == 202
            assert (await send(client, picture())).status_code == 202
            assert "2 jobs are kept" in (await send(client, picture())).text

    run(test)


def test_a_job_is_its_keys_alone(run: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    anna, ben = ({"x-api-key": keys.add(file, name)} for name in ("anna", "ben"))

    async def test(server: Server) -> None:
        async with await server.start() as client:
            assert (await send(client, picture())).status_code == 401
            job = (await send(client, picture(), **anna)).json()["id"]
            for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/files/0"):
                assert (await client.get(path)).status_code == 401
                assert (await client.get(path, headers=ben)).status_code == 404
            assert (await client.delete(f"/v1/jobs/{job}", headers=ben)).status_code == 404
            assert (await client.get(f"/v1/jobs/{job}", headers=anna)).status_code == 200

    run(test, keys=Keys(file))


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"files": album(picture()), "data": {"scale": "9"}}, 422, "bad_options"),
        ({"files": album(picture()), "data": {"timeout_s": "9"}}, 422, "bad_options"),
        ({"files": album(picture()), "data": {"model": "other"}}, 404, "no_such_model"),
        ({"files": album(b"")}, 400, "no_picture"),
        ({"files": [*album(picture()), ("video", b"x")]}, 400, "bad_form"),
        ({"content": picture(), "headers": {"content-type": "image/png"}}, 415, "unsupported_type"),
    ],
)
def test_a_bad_job_is_refused_before_it_is_kept(
    run: Callable[..., None], asked: dict[str, Any], status: int, code: str
) -> None:
    async def test(server: Server) -> None:
        async with await server.start() as client:
            refused = await client.post("/v1/jobs", **asked)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
            assert not server.storage.sizes()

    run(test)


def test_a_busy_server_is_asked_again_and_a_faulty_one_is_not(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.serving.job_work._AGAIN_AFTER_S", 0.02)
    left = [busy().refusal(), not_ready("it loads").refusal(), RuntimeError("no memory at /srv/x")]

    async def test(server: Server) -> None:
        restore = server.parts.restore

        async def fails_first(model: str, asked: FacesRequest) -> FacesAnswer:
            if left:
                raise left.pop(0)
            return await restore(model, asked)

        server.parts.restore = fails_first
        async with await server.start() as client:
            job = (await send(client, picture(), picture())).json()["id"]
            first, second = (await finished(client, job))["files"]
            assert first["error"]["code"] == "failed"
            assert "/srv" not in first["error"]["message"]
            assert second["status"] == "restored"

    run(test)


def test_what_half_a_job_left_behind_is_deleted(run: Callable[..., None]) -> None:
    async def test(server: Server) -> None:
        (server.storage / "abc").write("0.in", picture())
        async with await server.start():
            assert not server.storage.sizes()

    run(test)


@needs_ffmpeg
def test_a_video_is_restored_frame_by_frame_and_says_how_far_it_is(
    run: Callable[..., None], tmp_path: Path
) -> None:
    frames = [np.full((SIZE, SIZE, 3), 25 * number, dtype=np.uint8) for number in range(10)]
    data = make_video(tmp_path / "film.mp4", frames).read_bytes()
    plain = make_video(tmp_path / "plain.mkv", frames[:2]).read_bytes()

    async def test(server: Server) -> None:
        async with await server.start() as client:
            server.parts.pause_s = 0.2
            asked = {"files": {"video": ("film.mkv", data)}, "data": {"aligned": "true"}}
            sent = await client.post("/v1/jobs", **asked)
            job = sent.json()["id"]
            while (await client.get(f"/v1/jobs/{job}")).json()["progress"] != "8 of 10 frames":
                await asyncio.sleep(0.01)
            [file] = (await finished(client, job))["files"]
            assert file["status"] == "restored", file
            assert (file["record"]["num_frames"], file["record"]["num_restored"]) == (10, 10)
            fetched = await client.get(file["url"])
            assert "film-restored.mp4" in fetched.headers["content-disposition"]
            (tmp_path / "restored.mp4").write_bytes(fetched.content)
            assert len(decoded(tmp_path / "restored.mp4")) == 10
            asked["data"] = {"max_angle": "30"}
            refused = await finished(client, (await client.post("/v1/jobs", **asked)).json()["id"])
            assert refused["files"][0]["error"]["code"] == "bad_options"

            # One without a face keeps its bytes, and so its kind, whatever it was called.
            asked["files"] = {"video": ("film", plain)}
            asked["data"] = {}
            await client.delete(f"/v1/jobs/{job}")  # two are kept
            sent = await client.post("/v1/jobs", **asked)
            assert sent.status_code == 202, sent.text
            [file] = (await finished(client, sent.json()["id"]))["files"]
            fetched = await client.get(file["url"])
            assert fetched.content == plain
            assert fetched.headers["content-type"] == "video/x-matroska"
            assert "film-restored.mkv" in fetched.headers["content-disposition"]

    run(test)
