"""Forward requests to an ASGI application in another process: both ends of the connection.

The page runs in one process, however many processes the endpoint has. Its answers may last minutes
(server-sent events), so they are forwarded message by message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The part of a request that is sent; the rest of a scope belongs to the process that received it.
_SENT_KEYS = (
    *("type", "asgi", "http_version", "method", "scheme", "server", "client"),
    *("path", "raw_path", "query_string", "root_path", "headers"),
)

Ask = Callable[[Scope, bytes], AsyncGenerator[Message, None]]


class Forwarded:
    """The near end: an application that asks the far end, until the answer or the client ends."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        sent = {key: scope[key] for key in _SENT_KEYS if key in scope}
        forwarding = asyncio.create_task(self._forward(sent, body, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({forwarding, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if forwarding.done():
                forwarding.result()
        finally:
            for task in (forwarding, leaving):
                task.cancel()
            await asyncio.gather(forwarding, leaving, return_exceptions=True)

    async def _forward(self, scope: Scope, body: bytes, send: Send) -> None:
        async with aclosing(self._ask(scope, body)) as messages:
            async for message in messages:
                await send(message)


async def answered(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    """Run one request in the application of the far end; yield each message that it sends.

    Closing this generator ends the request, as a client that leaves does.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # until this request ends
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
