"""Who may send requests; each request gets an id, a line in the log and a place in the counts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request, Response

from components.serving import answers
from components.serving.addresses import is_loopback
from components.serving.keys import Keys
from components.serving.rates import Allowance
from components.serving.refusal import Refusal, Refused, too_many
from components.serving.sites import Sites, protect

log = logging.getLogger("hdrface.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_HEADER_BYTES = 32_768  # of all headers together; HTTP sets no limit
_CLIENT_LEFT = 499  # only in the log and the counts, as nginx writes it
_OPEN_TO_ALL = ("/healthz", "/readyz", "/docs", "/openapi.json")
_LIMITED = ("/v1/restore", "/v1/jobs")  # requests that a key may send only so often


@dataclass(frozen=True)
class Event:
    """An answered request, as the metrics count it."""

    model: str
    status: int
    seconds: float
    faces: int = 0  # restored


class Counts(Protocol):
    """Where requests are counted, for all processes of the endpoint."""

    def count(self, event: Event) -> None:
        """Count an answered request; returns at once."""

    async def take(self, owner: str) -> Allowance | None:
        """Count a request against its owner's rate; None: there is no limit. Raises: Refusal."""


class Guard:
    """Middleware that admits, times and logs requests; it logs no picture and no key."""

    def __init__(self, counts: Counts, keys: Keys | None, sites: Sites) -> None:
        """Count each request for a restoration; without keys, admit only this machine."""
        self._counts, self._keys, self._sites = counts, keys, sites

    async def __call__(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        # Serve gives every request an id and returns it; a client may send any text as id.
        given = request.headers.get("x-request-id", "")
        request.state.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        response: Response
        owner, allowance = "-", None
        try:
            _check_headers(request)
            self._sites.check(request)
            owner = request.state.owner = self._owner(request)
            if request.method == "POST" and request.scope["path"] in _LIMITED:
                allowance = await self._counts.take(owner)
            if allowance is not None and not allowance.is_allowed:
                raise too_many(allowance).refusal()
        except Refusal as refusal:
            response = answers.error_response(request, refusal.refused)
            if refusal.refused.status == 401:
                # A browser then asks for a name and a password: the key is the password.
                is_page = not request.scope["path"].startswith("/v1/")
                response.headers["WWW-Authenticate"] = "Basic" if is_page else "Bearer"
        else:
            try:
                response = await self._answer(request, call_next)
            except asyncio.CancelledError:  # Serve cancels a request whose client has left
                self._record(request, _CLIENT_LEFT, started, owner)
                raise
        if allowance is not None:
            response.headers.update(allowance.headers())
        protect(request.scope["path"], response)
        self._record(request, response.status_code, started, owner)
        return response

    def _record(self, request: Request, status: int, started: float, owner: str) -> None:
        """Log the request, and count it if it asked for a restoration."""
        seconds = time.perf_counter() - started
        log.info(
            "%s %s %s %d %.3f s %s",
            request.state.id,
            request.method,
            request.scope["path"][:100],
            status,
            seconds,
            owner,
        )
        if request.scope["path"] == "/v1/restore":
            model = getattr(request.state, "model", "")
            faces = getattr(request.state, "num_restored", 0)
            self._counts.count(Event(model, status, seconds, faces))

    async def _answer(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Pass a request on; answer an unexpected fault with 500 and without details."""
        try:
            return await call_next(request)
        except Exception:
            log.exception("%s failed", request.state.id)
            message = "the server failed on this request: its log has the reason"
            return answers.error_response(request, Refused(500, "failed", message))

    def _owner(self, request: Request) -> str:
        """Return the owner of the request's key; "-" if no key is needed. Raises: Refusal."""
        if request.scope["path"] in _OPEN_TO_ALL:
            return "-"
        if self._keys is None:
            if request.client is None or not is_loopback(request.client.host):
                raise Refusal(
                    403,
                    "no_keys",
                    "this server has no API keys and answers only its own machine: its operator "
                    "can make a key with 'hdrface keys add NAME' and set serve.keys to that file",
                )
            return "-"
        owner = self._keys.owner(_key(request))
        if owner is None:
            raise Refusal(
                401,
                "no_key",
                "an API key is needed, one that has not expired: Authorization: Bearer KEY, "
                "X-API-Key, or as a password",
            )
        return owner


def _check_headers(request: Request) -> None:
    """Raise Refusal if the headers are larger than those of any usual client."""
    if sum(len(name) + len(value) for name, value in request.headers.raw) > _MAX_HEADER_BYTES:
        most = f"{_MAX_HEADER_BYTES:,} bytes"
        raise Refusal(431, "headers_too_large", f"the headers are larger than {most}")


def _key(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "basic":
            with contextlib.suppress(ValueError):
                decoded = base64.b64decode(given, validate=True).decode()
                return decoded.partition(":")[2]
    return request.headers.get("x-api-key", "").strip()
