"""The line between two processes, both ends in this one."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from components.serving.forwarding import Forwarded, answered

far = FastAPI()
events: list[str] = []


@far.post("/echo/{name}")
async def echo(name: str, request: Request) -> dict[str, Any]:
    body = await request.body()
    return {"name": name, "query": str(request.query_params), "body": body.hex()}


@far.get("/endless")
async def endless() -> StreamingResponse:
    async def ticks() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.01)
        finally:
            events.append("ended")

    return StreamingResponse(ticks())


@far.get("/fault")
async def fault() -> None:
    raise RuntimeError("a fault of the page's own")


def ask(scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    return answered(far, scope, body)


near = Forwarded(ask)


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page")


@given(body=st.binary(max_size=2000), query=st.text(max_size=20), name=st.text("abcä", min_size=1))
def test_a_forwarded_answer_equals_a_direct_one(body: bytes, query: str, name: str) -> None:
    async def both() -> list[httpx.Response]:
        answers = []
        for app in (far, near):
            async with client(app) as asking:
                answers.append(
                    await asking.post(f"/echo/{name}", params={"q": query}, content=body)
                )
        return answers

    direct, forwarded = asyncio.run(both())
    assert forwarded.status_code == direct.status_code == 200
    assert forwarded.headers == direct.headers
    assert forwarded.json() == direct.json()
    assert forwarded.json()["body"] == body.hex()


def test_a_client_that_leaves_ends_the_work() -> None:
    events.clear()

    async def leave() -> None:
        sent: list[Message] = []
        unread = [b""]
        gone = asyncio.Event()

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) == 5:
                gone.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/endless",
            "raw_path": b"/endless",
            "query_string": b"",
            "root_path": "",
            "headers": [],
        }
        await asyncio.wait_for(near(scope, receive, send), 10)
        assert len(sent) >= 5

    asyncio.run(leave())
    assert events == ["ended"]


def test_a_fault_of_the_application_is_raised_at_the_near_end() -> None:
    async def fail() -> None:
        async with client(near) as asking:
            await asking.get("/fault")

    with pytest.raises(RuntimeError, match="a fault of the page's own"):
        asyncio.run(fail())
