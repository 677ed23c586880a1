"""Send ten thousand malformed requests: each must be refused with a reason.

First a corpus of known attacks, then requests from hypothesis: truncated and random pictures, wrong
types, options out of range, broken forms, paths with `..`, headers of any size. The endpoint must
restore the same photograph before and afterwards.

    python -m benchmarks.serving.malformed DETECTOR
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks import machine
from benchmarks.serving import endpoint as served

COUNT = 10_000
RESTORE = "/v1/restore"
JPEG = {"Content-Type": "image/jpeg"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@dataclass(frozen=True)
class Malformed:
    """A request that must not succeed."""

    kind: str
    path: str = RESTORE
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JPEG)
    method: str = "POST"


def corpus(picture: bytes) -> Iterator[Malformed]:
    """Make the known attacks."""
    yield Malformed("bomb", body=_png_of_zeros(30_000))  # 900 million pixels in a megabyte
    yield Malformed("bomb", body=_png_header(2**31 - 1, 2**31 - 1))
    yield Malformed("bomb", body=b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20))
    for start in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"PK\3\4", b"#!"):
        yield Malformed("other type", body=start + bytes(100))
    yield Malformed("too large", body=bytes(33_000_000))
    for kind in ("text/html", "application/json", "video/mp4", "", "image", "multipart/mixed"):
        yield Malformed("wrong type", body=picture, headers={"Content-Type": kind})
    yield Malformed("no type", body=picture, headers={})
    for length in ("-1", "abc", "99999999999999999999999"):
        yield Malformed("length", body=picture, headers={**JPEG, "Content-Length": length})
    yield Malformed("huge header", body=picture, headers={**JPEG, "X-Long": "a" * 1_000_000})
    many = {f"X-{number}": "a" * 5000 for number in range(90)}
    yield Malformed("huge headers", body=picture, headers={**JPEG, **many})
    for path in ("/../../etc/passwd", "/v1/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
        yield Malformed("path", path=path, method="GET")
    for path in ("/v1/restore/../../x", "/v1//restore", "/file=/etc/passwd", "/static/../../x"):
        yield Malformed("path", path=path, method="GET")
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE"):
        yield Malformed("method", method=method)


def generated(picture: bytes) -> st.SearchStrategy[Malformed]:
    """Make requests that are wrong in one way each."""
    cut = st.integers(0, len(picture) * 9 // 10).map(
        lambda end: Malformed("cut", body=picture[:end])
    )
    noise = st.binary(max_size=3000).map(lambda body: Malformed("noise", body=body))
    headed = st.binary(max_size=3000).map(
        lambda body: Malformed("noise behind a header", body=_PNG + body)
    )
    return st.one_of(
        cut,
        noise,
        headed,
        _options(picture),
        _types(picture),
        _forms(picture),
        _paths(),
        _headers(picture),
    )


def _options(picture: bytes) -> st.SearchStrategy[Malformed]:
    """Make options that do not exist, or have a wrong value."""
    values = {
        "aligned": st.just("perhaps"),
        "min_face": st.integers(max_value=0),
        "fidelity": st.floats().filter(lambda x: not 0 <= x <= 1),
        "color_fix": st.text(min_size=5).filter(lambda text: text not in ("wavelet", "adain")),
        "scale": st.floats().filter(lambda x: not 1 <= x <= 4),
        "max_angle": st.floats(max_value=0),
        "quality": st.one_of(st.integers(max_value=0), st.integers(min_value=101)),
        "timeout_s": st.floats(max_value=0),
        "format": st.text(min_size=5).filter(lambda text: text != "jpeg"),
        "model": st.text(min_size=1).filter(lambda text: text != "sd21-sdfm"),
    }
    named = st.sampled_from(sorted(values)).flatmap(
        lambda name: values[name].map(lambda value: (name, str(value)))
    )
    unknown = st.tuples(st.text(min_size=1).map("x-{}".format), st.text())
    return st.one_of(named, unknown).map(
        lambda option: Malformed(
            "option", f"{RESTORE}?{_escaped(option[0])}={_escaped(option[1])}", picture
        )
    )


def _types(picture: bytes) -> st.SearchStrategy[Malformed]:
    token = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=40)
    return token.map(
        lambda text: Malformed("wrong type", body=picture, headers={"Content-Type": f"text/{text}"})
    )


def _forms(picture: bytes) -> st.SearchStrategy[Malformed]:
    """Make forms without a picture, without an end, with too many parts, or of random bytes."""
    names = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1).filter(
        lambda name: name != "image"
    )
    other = names.map(lambda name: _part(name, picture) + b"--x--\r\n")
    many = st.integers(40, 200).map(
        lambda count: _part("a", b"1", file=False) * count + b"--x--\r\n"
    )
    twice = st.integers(2, 5).map(lambda count: _part("image", picture) * count + b"--x--\r\n")
    broken = st.integers(0, len(picture) // 2).map(lambda end: _part("image", picture)[:end])
    return st.one_of(other, many, twice, broken, st.binary(max_size=500)).map(
        lambda body: Malformed("form", body=body, headers=FORM)
    )


def _paths() -> st.SearchStrategy[Malformed]:
    steps = st.one_of(st.sampled_from(["..", "%2e%2e", ".", "etc", "passwd", "%00"]), st.text())
    return st.lists(steps, min_size=1, max_size=8).map(
        lambda names: Malformed(
            "path", "/v1/" + "/".join(map(_escaped, names)) + "/x", method="GET"
        )
    )


def _headers(picture: bytes) -> st.SearchStrategy[Malformed]:
    return st.integers(100_000, 500_000).map(
        lambda size: Malformed("huge header", body=picture, headers={**JPEG, "X-Long": "a" * size})
    )


def _escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="%.")


def _part(name: str, data: bytes, *, file: bool = True) -> bytes:
    filename = '; filename="a.jpg"' if file else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
    return head.encode() + data + b"\r\n"


_PNG = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(width: int, height: int) -> bytes:
    return _PNG + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def _png_of_zeros(side: int) -> bytes:
    packer, packed = zlib.compressobj(9), io.BytesIO()
    for _ in range(side):
        packed.write(packer.compress(bytes(side + 1)))
    packed.write(packer.flush())
    return _png_header(side, side) + _chunk(b"IDAT", packed.getvalue()) + _chunk(b"IEND", b"")


@dataclass
class Refusals:
    """Counts the endpoint's answers."""

    endpoint: served.Endpoint
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # answers that were no refusal with a reason
    slowest_s: float = 0.0

    def send(self, request: Malformed) -> None:
        """Send one request, and count how it was refused."""
        started = time.monotonic()
        status, body = self._answer(request)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        reason = _reason(body)[:60] if status != 200 else "restored"
        self.statuses[str(status)] += 1
        self.reasons[f"{request.kind}: {reason}"] += 1
        if not 400 <= status < 500 or not reason:
            about = f"{request.kind} {request.method} {request.path[:80]!r} -> {status} {reason!r}"
            self.wrong.append(f"{about} {request.body[:40]!r}")

    def _answer(self, request: Malformed) -> tuple[int, bytes]:
        """Send on a new connection: the server may close it. Status 0: there was no answer."""
        connection = http.client.HTTPConnection(self.endpoint.host, self.endpoint.port, timeout=90)
        try:
            # It may refuse while we send; its answer is there then.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    request.method, request.path, request.body, dict(request.headers)
                )
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def _reason(body: bytes) -> str:
    """Return the code of an error, or the text of a proxy that refused the request."""
    try:
        content = json.loads(body)
        return str(content["error"]["code"]) if content["error"]["message"] else ""
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()


def send_all(endpoint: served.Endpoint, picture: bytes) -> Refusals:
    """Send the corpus, then generated requests up to `COUNT`."""
    refusals = Refusals(endpoint)
    for request in corpus(picture):
        refusals.send(request)
    known = sum(refusals.statuses.values())

    @settings(
        max_examples=COUNT - known,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(generated(picture))
    def send(request: Malformed) -> None:
        refusals.send(request)

    while sum(refusals.statuses.values()) < COUNT:  # it draws none twice
        send()
    return refusals


def restored(endpoint: served.Endpoint, picture: bytes) -> bytes:
    """Restore a photograph as any client does."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=90)
    connection.request("POST", RESTORE, picture, JPEG)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body[:500]
    assert answer.headers["X-HDRFace-Restored"] == "1"
    return body


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    [picture] = served.photographs(1)
    with served.running(detector) as endpoint, served.Memory(endpoint) as memory:
        good = restored(endpoint, picture)
        refusals = send_all(endpoint, picture)
        same = restored(endpoint, picture) == good
    results = {
        "requests": sum(refusals.statuses.values()),
        "statuses": dict(sorted(refusals.statuses.items())),
        "reasons": dict(refusals.reasons.most_common()),
        "answered_otherwise": len(refusals.wrong),
        "examples_of_these": refusals.wrong[:20],
        "slowest_s": round(refusals.slowest_s, 3),
        "restores_the_same_afterwards": same,
        "memory_mb": {"start": round(memory.seen[5][1]), "end": round(memory.seen[-1][1])},
    }
    print(json.dumps(results, indent=1))
    machine.save("serving.malformed", before, results)


if __name__ == "__main__":
    main()
