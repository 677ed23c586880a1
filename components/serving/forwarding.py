"""An ASGI application that runs in another process: the two ends of the line between.

The page has one process, whatever the number of the endpoint's; its answers may go on for minutes
(server-sent events), so they are passed on message by message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What travels of a request; the rest of a scope belongs to the process that it came to.
_KEPT = (
    *("type", "asgi", "http_version", "method", "scheme", "server", "client"),
    *("path", "raw_path", "query_string", "root_path", "headers"),
)

Ask = Callable[[Scope, bytes], AsyncGenerator[Message, None]]


class Forwarded:
    """The near end: an application that asks the far one; a visitor who leaves ends the work."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        kept = {key: scope[key] for key in _KEPT if key in scope}
        passing = asyncio.create_task(self._pass_on(kept, body, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _pass_on(self, scope: Scope, body: bytes, send: Send) -> None:
        async with aclosing(self._ask(scope, body)) as messages:
            async for message in messages:
                await send(message)


async def answered(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    """Run one request in the far end's application; yields what it sends, as it sends it.

    Closing this ends the request, as a visitor's leaving does.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # until this request is over
        raise AssertionError

    async def run() -> None:
        try:
            await app(scope, receive, sent.put)
        finally:
            sent.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _left(receive: Receive) -> None:
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await receive())
