"""The HTTP side with real parts behind it, in this process."""

import asyncio
import base64
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from components import images
from components.photographs.face_restorer import FaceRestorer
from components.photographs.restoration import Prepared
from components.serving import api, keys
from components.serving.keys import Keys
from components.serving.model import (
    FollowingModel,
    Version,
)
from components.serving.rates import Rates
from tests.components.serving.here import (
    ELSEWHERE,
    HERE,
    LIMITS,
    MIN_PSNR,
    HereParts,
    asking,
    picture,
)
from tests.small_networks import SIZE


def ask(client: TestClient, data: bytes, query: str = "aligned=true", **headers: str):
    return client.post(
        f"/v1/restore?{query}", content=data, headers={"content-type": "image/png", **headers}
    )


def test_a_form_can_bring_the_first_restoration(client: TestClient, restorer: FaceRestorer) -> None:
    files = {"image": picture(SIZE), "intermediate": picture(SIZE + 8)}
    answer = client.post("/v1/restore", files=files, data={"aligned": "true"})
    assert answer.status_code == 200, answer.text
    face = images.decode(files["image"])
    first = images.resize(images.decode(files["intermediate"]), SIZE)
    [expected] = restorer.restore([face], intermediates=[first])
    assert np.array_equal(images.decode(answer.content), expected.image)
    [own] = restorer.restore([face])
    assert not np.array_equal(own.image, expected.image)


@pytest.mark.parametrize(
    ("first", "code", "told"),
    [
        (b"", "no_picture", "the picture is empty"),
        (b"no picture", "bad_picture", "not a JPEG"),
    ],
)
def test_a_first_restoration_that_cannot_be_used_is_refused(
    client: TestClient, first: bytes, code: str, told: str
) -> None:
    files = {"image": picture(SIZE), "intermediate": first}
    answer = client.post("/v1/restore", files=files, data={"aligned": "true"})
    assert answer.json()["error"]["code"] == code
    assert told in answer.json()["error"]["message"]


def test_a_picture_comes_back_restored_and_its_headers_say_how(
    client: TestClient, restorer: FaceRestorer
) -> None:
    answer = ask(client, picture(SIZE))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-hdrface-model"] == "small"
    assert answer.headers["x-hdrface-run"] == "run"
    assert answer.headers["x-hdrface-size"] == str(SIZE)
    assert (answer.headers["x-hdrface-faces"], answer.headers["x-hdrface-restored"]) == ("1", "1")
    assert "restore;dur=" in answer.headers["server-timing"]
    [expected] = restorer.restore([images.decode_png(picture(SIZE))])
    np.testing.assert_array_equal(images.decode_png(answer.content), expected.image)


def test_form_and_raw_bytes_give_the_same_json_with_boxes_and_gates(
    client: TestClient,
) -> None:
    raw = ask(client, picture(), "aligned=true&scale=2&format=jpeg", accept="application/json")
    form = client.post(
        "/v1/restore?scale=3",
        files={"image": ("x.png", picture(), "image/png")},
        data={"aligned": "true", "scale": "2", "format": "jpeg"},
        headers={"accept": "application/json"},
    )
    assert raw.status_code == form.status_code == 200, form.text
    one, other = raw.json(), form.json()
    assert one["picture"] == other["picture"]
    assert one["media_type"] == "image/jpeg"
    assert images.decode(base64.b64decode(one["picture"])).shape == (96, 96, 3)
    assert one["record"]["faces"][0]["box"] == [0, 0, 48, 48]
    [gate] = one["gates"]
    assert images.decode_png(base64.b64decode(gate)).shape == (SIZE, SIZE, 3)
    assert one["model"] == {"name": "small", "fingerprint": "id", "run_id": "run"}


@pytest.mark.parametrize(
    ("data", "query", "headers", "status", "code", "said"),
    [
        (b"", "aligned=1", {}, 400, "no_picture", "empty"),
        (b"GIF89a", "aligned=1", {}, 422, "bad_picture", ""),
        (picture()[:99], "aligned=1", {}, 422, "bad_picture", ""),
        (picture(600), "aligned=1", {}, 413, "too_large", "larger than 0.2 MB"),
        (picture(), "aligned=1&scale=9", {}, 422, "bad_options", "scale"),
        (picture(), "aligned=1&colour=x", {}, 422, "bad_options", "colour"),
        (picture(), "aligned=1&max_angle=nan", {}, 422, "bad_options", "max_angle"),
        (picture(), "aligned=0", {}, 422, "bad_options", "detector"),
        (picture(), "aligned=1&fidelity=0.5", {}, 422, "bad_options", "fidelity"),
        (picture(), "aligned=1&max_angle=30", {}, 422, "bad_options", "no identity network"),
        (picture(), "aligned=1&leave_flagged=x", {}, 422, "bad_options", "leave_flagged"),
        (picture(), "aligned=1&model=other", {}, 404, "no_such_model", "there are small"),
        (picture(), "aligned=1&timeout_s=0.000001", {}, 504, "too_late", "deadline"),
        (picture(), "", {"content-type": "text/html"}, 415, "unsupported_type", "image/jpeg"),
        (b"--x", "", {"content-type": "multipart/form-data"}, 400, "bad_form", ""),
        (b"--x--", "", {"content-type": "multipart/form-data; boundary=x"}, 400, "no_picture", ""),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(
    client: TestClient,
    data: bytes,
    query: str,
    headers: dict[str, str],
    status: int,
    code: str,
    said: str,
) -> None:
    answer = ask(client, data, query, **headers)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert said in error["message"]
    assert str(Path(api.__file__).parents[2]) not in answer.text
    assert ask(client, picture()).status_code == 200


def test_a_body_without_content_length_is_limited_too(client: TestClient) -> None:
    def parts_of_it() -> Iterator[bytes]:  # sent without a length
        yield from [b"x" * 50_000] * 5

    answer = client.post(
        "/v1/restore", content=parts_of_it(), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 413


def test_a_decompression_bomb_is_refused_before_it_is_decoded(client: TestClient) -> None:
    bomb = images.encode_png(np.zeros((6000, 6000, 3), dtype=np.uint8))
    assert len(bomb) < LIMITS.upload_bytes
    started = time.perf_counter()
    answer = ask(client, bomb)
    assert answer.status_code == 422
    assert "pixels" in answer.json()["error"]["message"]
    assert time.perf_counter() - started < 1


def test_a_request_past_its_deadline_returns_504(client: TestClient, parts: HereParts) -> None:
    parts.pause_s = 5
    started = time.perf_counter()
    answer = ask(client, picture(), "aligned=1&timeout_s=0.5")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "too_late"
    assert time.perf_counter() - started < 3


def test_only_requests_for_a_busy_model_return_429(parts: HereParts) -> None:
    parts.pause_s = 1

    async def ask_all() -> list[int]:
        app = httpx.ASGITransport(
            api.build(parts, limits=LIMITS, keys=None, threads=1), client=HERE
        )
        async with httpx.AsyncClient(transport=app, base_url="http://localhost") as client:
            url, kind = "/v1/restore?aligned=true&model=", {"content-type": "image/png"}
            names = ["small"] * (LIMITS.waiting + 2) + ["twin"]
            asked = (client.post(url + name, content=picture(), headers=kind) for name in names)
            answers = await asyncio.gather(*asked)
            assert (await client.post(url + "small", content=picture(), headers=kind)).is_success
        assert {answer.headers["retry-after"] for answer in answers[3:5]} == {"1"}
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask_all()) == [200, 200, 200, 429, 429, 200]


def test_a_fault_returns_500_without_details_and_is_logged_and_counted(
    client: TestClient, parts: HereParts, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> Prepared:
        raise RuntimeError("no memory at /srv/secret")

    parts.find = fails
    answer = ask(client, picture())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "failed"
    assert "secret" not in answer.text
    assert [event.status for event in parts.events] == [500]
    assert "no memory at /srv/secret" in caplog.text


def test_keys_are_required_and_never_logged(
    parts: HereParts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    key = keys.add(file, "anna")
    with (
        asking(parts, ELSEWHERE, Keys(file)) as client,
        caplog.at_level(logging.INFO),
    ):
        assert client.get("/healthz").status_code == 200
        refused = ask(client, picture())
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models").status_code == 401
        assert ask(client, picture(), authorization=f"Bearer {key}x").status_code == 401
        assert ask(client, picture(), authorization=f"Bearer {key}").status_code == 200
        assert ask(client, picture(), **{"x-api-key": key}).status_code == 200
        page = client.get("/")
        assert (page.status_code, page.headers["www-authenticate"]) == (401, "Basic")
        assert client.get("/", auth=("anna", key)).status_code == 404  # there is no page here
        assert client.get("/", auth=(key, "anna")).status_code == 401
        assert client.get("/", headers={"authorization": "Basic %%%"}).status_code == 401
    assert "anna" in caplog.text
    assert key not in caplog.text


def test_without_keys_other_machines_are_refused(parts: HereParts) -> None:
    with asking(parts, ELSEWHERE) as client:
        refused = ask(client, picture(), **{"x-forwarded-for": "127.0.0.1"})
        assert refused.status_code == 403
        assert "hdrface keys add" in refused.json()["error"]["message"]
        assert client.get("/v1/models").status_code == 403
        assert client.get("/").status_code == 403
        assert client.get("/healthz").status_code == 200
    for address in ("127.0.0.9", "::1"):
        with asking(parts, (address, 1)) as client:
            assert ask(client, picture()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/restore", 405), ("GET", "/../etc/passwd", 404), ("PATCH", "/nothing", 404)],
)
def test_unknown_paths_and_methods_return_errors_of_the_same_form(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "no_such_route"


def test_unknown_v1_paths_return_404_and_not_the_page(parts: HereParts) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("the page")(scope, receive, send)

    with asking(parts, page=page) as client:
        assert client.get("/anything").text == "the page"
        for path in ("/v1/anything", "/v1/../v1/restore/x"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_route")


def test_huge_headers_return_431(client: TestClient) -> None:
    answer = ask(client, picture(), **{"x-long": "a" * 40_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")


def test_readyz_names_each_missing_model_and_why(parts: HereParts) -> None:
    def missing() -> Version:
        raise FileNotFoundError("no version of hdrface is @champion: promote one")

    parts.model = FollowingModel(missing, lambda _: None, MIN_PSNR)
    with asking(parts) as client:
        parts.model.follow()
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "@champion" in ready.json()["problems"]["small"]
        answer = ask(client, picture())
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200


def test_a_rate_is_told_with_every_answer_and_spares_what_costs_nothing(
    parts: HereParts, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    anna, ben = (f"Bearer {keys.add(file, name)}" for name in ("anna", "ben"))
    parts.rates = Rates(2)
    with asking(parts, ELSEWHERE, Keys(file)) as client:
        first = ask(client, picture(), authorization=anna)
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == "2;w=60"
        told = {name: first.headers[f"ratelimit-{name}"] for name in ("limit", "remaining")}
        assert told == {"limit": "2", "remaining": "1"}
        assert ask(client, b"", authorization=anna).status_code == 400
        refused = ask(client, picture(), authorization=anna)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
        assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
        assert 50 < int(refused.headers["retry-after"]) <= 60
        assert client.get("/v1/models", headers={"authorization": anna}).status_code == 200
        assert ask(client, picture(), authorization=ben).status_code == 200
