"""An HTTP proxy before an S3 server that fails as S3 does, on purpose."""

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultyProxy:
    """Of all requests, a share `busy` is answered 503, and a share `cut` loses its connection."""

    def __init__(self, upstream: str, *, busy: float = 0.15, cut: float = 0.1) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.busy, self.cut = busy, cut
        self.faults: Counter[str] = Counter()  # what went wrong, how often
        self._lock = threading.Lock()
        self.before_put: Callable[[str], None] = lambda _: None  # its request waits for it
        # No fixed rhythm: a client whose retries fall into step with it would never get through.
        self._random = random.Random(0)

    def fault(self) -> str:
        """Say what shall happen to the next request: "busy", "cut" or nothing."""
        with self._lock:
            drawn = self._random.random()
            fault = "busy" if drawn < self.busy else "cut" if drawn < self.busy + self.cut else ""
            self.faults[fault] += 1
            return fault

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on a free port of this machine; gives the URL."""
        proxy = self

        class Handler(_Handler):
            rules = proxy

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rules: FaultyProxy

    def _forward(self) -> None:
        sent = self._body()
        if self.command == "PUT":
            self.rules.before_put(urlsplit(self.path).path)
        fault = self.rules.fault()
        if fault == "busy":
            self._answer(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        upstream = http.client.HTTPConnection(self.rules.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        upstream.request(self.command, self.path, sent, {**headers, "Connection": "close"})
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length", "0")
        if fault == "cut":
            self._break_off(answer.status, kept, data)
        else:
            self._answer(answer.status, kept, data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _break_off(self, status: int, headers: dict[str, str], data: bytes) -> None:
        """Close the connection in the middle of a body, or before an answer without one.

        What the request did is done: the client cannot know.
        """
        if data:
            self._answer(
                status, {**headers, "Content-Length": str(len(data))}, data[: len(data) // 2]
            )
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


_OWN = ("content-length", "transfer-encoding", "connection", "date", "server")
