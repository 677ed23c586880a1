"""How the page sends requests to the endpoint: as any client does, with the visitor's key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
import httpx
from starlette.types import ASGIApp

DEFAULT = "default"  # the choice that leaves an option out of the request


class PageClient:
    """Sends requests with the options of the page's controls."""

    def __init__(self, api: ASGIApp, names: Sequence[str]) -> None:
        """Take the endpoint and the names of the controls' options, in their order."""
        self._api, self._names = api, names

    def options(self, values: Sequence[Any]) -> dict[str, str]:
        """Return the options that a visitor has chosen."""
        return {
            name: str(value)
            for name, value in zip(self._names, values, strict=True)
            if value not in (None, "", DEFAULT)
        }

    async def ask(
        self, visitor: gr.Request, method: str, path: str, **asked: Any
    ) -> httpx.Response:
        """Send a request with the visitor's key."""
        headers = dict(asked.pop("headers", {}))
        if key := visitor.headers.get("authorization"):
            headers["authorization"] = key
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self._api), base_url="http://localhost", timeout=None
        ) as client:
            return await client.request(method, path, headers=headers, **asked)
