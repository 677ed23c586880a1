"""What the pages of other sites may do with this server: nothing.

A browser sends requests for any page that it shows, and from behind the firewall. Two headers tell
them apart, which a page cannot set: `Host` is the name that the page was fetched by (a name of
somebody else may lead to this machine: DNS rebinding), and `Origin` and `Sec-Fetch-*` say whose
page it is. Other clients send a `Host` alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import Request, Response

from components.serving.addresses import is_loopback
from components.serving.refusal import Refusal

# A name, or an address (in brackets if it has colons), and perhaps a port.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")
# Probes know an address, not a name. The answer is always the same.
_ANY_HOST = ("/healthz",)

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Gradio's page has scripts and styles within it, and draws with pictures that it makes itself.
_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# FastAPI's page of the options fetches its scripts from there.
_DOCS = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "img-src data: https://fastapi.tiangolo.com; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OF_NO_PAGE = ("/v1/", "/healthz", "/readyz", "/metrics", "/openapi.json")


class Sites:
    """The names that this server answers to; a page that came by another one is another site's."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Answer to the names of loopback, and to `hosts`: names or addresses without ports."""
        self._hosts = {host.lower() for host in hosts}

    def check(self, request: Request) -> None:
        """Raise Refusal if a page of another site sent the request, or could have."""
        if request.scope["path"] in _ANY_HOST:
            return
        host = request.headers.get("host", "").lower()
        if not self._is_ours(host):
            raise Refusal(
                421,
                "another_host",
                f"this server is not called {host[:100]!r}: its operator can add that name to "
                "serve.hosts",
            )
        origin = request.headers.get("origin")
        is_foreign = origin is not None and _place(origin) != host
        if is_foreign or not (_is_own(request) or _opens_a_page(request)):
            raise Refusal(403, "another_site", "pages of other sites may not use this server")

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1] or found[2]
        return name == "localhost" or is_loopback(name) or name in self._hosts


def protect(path: str, response: Response) -> None:
    """Set the headers that keep a browser from more than an answer is meant for."""
    policy = _PAGE
    if path.startswith(_OF_NO_PAGE):
        policy = _NOTHING
    elif path == "/docs":
        policy = _DOCS
    response.headers.update(
        {
            "Content-Security-Policy": policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )


def _place(origin: str) -> str | None:
    """Return the host and port of an origin; None of an origin that is hidden (`null`)."""
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None


def _is_own(request: Request) -> bool:
    """Return whether a page of this server sent it, or no page; old browsers do not say."""
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _opens_a_page(request: Request) -> bool:
    """Return whether somebody followed a link to here; the page with the link learns nothing."""
    headers = request.headers
    is_navigation = headers.get("sec-fetch-mode") == "navigate"
    return request.method == "GET" and is_navigation and headers.get("sec-fetch-dest") == "document"
