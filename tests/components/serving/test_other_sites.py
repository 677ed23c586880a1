"""Pages of other sites in a real browser: from another port, and by a name that leads here."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from components.serving import api
from tests.components.serving.here import LIMITS, HereParts

pytestmark = pytest.mark.browser

# What a page tries against a server at `url`; gives what it could read.
_TRY = """async (url) => {
  const read = [];
  const body = new Blob([new Uint8Array(99)], {type: "image/png"});
  for (const mode of ["cors", "no-cors"]) {
    for (const [method, path] of [
      ["POST", "/v1/restore?aligned=true"], ["POST", "/v1/jobs"], ["POST", "/gradio_api/upload"],
      ["GET", "/v1/models"], ["GET", "/"], ["GET", "/metrics"], ["GET", "/openapi.json"]]) {
      const asked = {method, mode, body: method == "POST" ? body : undefined};
      const text = await fetch(url + path, asked).then((answer) => answer.text(), () => "");
      if (text) read.push([mode, path, text]);
    }
  }
  // What is refused need not load.
  const loaded = () => new Promise((resolve) => {
    frame.onload = resolve;
    setTimeout(resolve, 3000);
  });
  const frame = document.createElement("iframe");
  frame.src = url + "/";
  document.body.append(frame);
  await loaded();
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url + "/v1/restore"});
  document.body.append(form);
  frame.name = "within";
  form.target = "within";
  form.submit();
  await loaded();
  return read;
}"""


class Seen(HereParts):
    """Must not be asked to restore; notes what reached the page behind the guard."""

    def __init__(self) -> None:
        super().__init__(model=None)
        self.paths: list[str] = []

    async def states(self) -> list[Any]:
        return []

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        await HTMLResponse("<p>the page</p>")(scope, receive, send)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def port(seen: Seen) -> Iterator[int]:
    """Serve on a port of 127.0.0.1."""
    app = api.build(seen, limits=LIMITS, keys=None, threads=1, page=seen.page)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Any, seen: Seen) -> Iterator[Any]:
    seen.paths.clear()
    seen.events.clear()
    with browser.new_page() as page:
        yield page


def visit(page: Any, url: str) -> None:
    """Open a page of somebody else's; the browser believes that it came from that URL."""
    page.route(url, lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html"))
    page.goto(url)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:9", "http://localhost:9", "http://b.example"])
def test_a_page_of_another_site_reads_and_spends_nothing(
    page: Any, port: int, seen: Seen, origin: str
) -> None:
    visit(page, f"{origin}/")
    assert page.evaluate(_TRY, f"http://127.0.0.1:{port}") == []
    assert {event.status for event in seen.events} == {403}
    assert seen.paths == []


def test_a_page_whose_name_leads_here_reads_and_spends_nothing(
    page: Any, port: int, seen: Seen
) -> None:
    visit(page, f"http://rebound.example:{port}/")
    read = page.evaluate(_TRY, f"http://rebound.example:{port}")
    assert {path for _, path, text in read if "another_host" not in text} == {"/"}  # its own
    assert {event.status for event in seen.events} == {421}
    assert seen.paths == []


def test_the_page_itself_may_ask_and_a_link_leads_to_it(page: Any, port: int, seen: Seen) -> None:
    visit(page, "http://b.example/")
    page.evaluate(f"location.href = 'http://127.0.0.1:{port}/'")
    page.get_by_text("the page").wait_for()
    asked = "fetch('/v1/models').then((answer) => answer.text())"
    assert page.evaluate(asked) == "[]"
    posted = "fetch('/anything', {method: 'POST'}).then((answer) => answer.text())"
    assert page.evaluate(posted) == "<p>the page</p>"
    assert seen.paths == ["/", "/anything"]
