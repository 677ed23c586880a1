"""What a browser may do here for a page of another site, header by header."""

import re

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.components.serving.here import HereParts, asking

FOREIGN = {"origin": "http://evil.example"}
LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


class NoParts(HereParts):
    """Must not be asked for anything."""

    def __init__(self) -> None:
        super().__init__(model=None)


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("the page")(scope, receive, send)


@pytest.fixture
def client() -> TestClient:
    return asking(NoParts(), page=page)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "192.0.2.7", "a@localhost", ""],
)
def test_a_name_of_somebody_else_leads_nowhere(client: TestClient, host: str) -> None:
    for path in ("/", "/v1/models", "/metrics", "/readyz", "/docs"):
        refused = client.get(path, headers={"host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (421, "another_host")
    assert client.get("/healthz", headers={"host": host}).text == '{"status":"alive"}'


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "Restore.example"]
)
def test_loopback_and_names_of_the_operator_are_answered(client: TestClient, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert client.get("/", headers=headers).text == "the page"


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"origin": "null"},
        {"origin": "http://localhost:9000"},  # another port is another site's
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", **LINK, "sec-fetch-dest": "iframe"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_pages_of_other_sites_are_refused(
    client: TestClient, method: str, headers: dict[str, str]
) -> None:
    for path in ("/v1/restore", "/upload", "/metrics"):
        refused = client.request(method, path, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "another_site")
        assert "access-control-allow-origin" not in refused.headers


def test_a_link_to_the_page_opens_it_and_a_form_of_another_site_sends_nothing(
    client: TestClient,
) -> None:
    linked = {"sec-fetch-site": "cross-site", **LINK}
    assert client.get("/", headers=linked).text == "the page"
    assert client.post("/upload", headers={**linked, **FOREIGN}).status_code == 403


def test_every_answer_keeps_browsers_from_more_than_it_is_for(client: TestClient) -> None:
    for path in ("/", "/v1/nothing", "/healthz", "/docs", "/v1/restore"):
        answer = client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert ("default-src 'none'" in policy) == (path != "/")


def test_the_page_of_the_options_may_fetch_what_it_asks_for(client: TestClient) -> None:
    docs = client.get("/docs")
    wanted = set(re.findall(r"(?:src|href)=\"(https://[^/]+)/", docs.text))
    assert wanted
    assert all(host in docs.headers["content-security-policy"] for host in wanted)
