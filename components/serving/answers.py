"""What the endpoint sends back: a picture with headers, JSON, or an error."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from components import images
from components.images import Image
from components.photographs.face_restorer import RestoredFace
from components.photographs.records import PhotographRecord
from components.photographs.restoration import Prepared
from components.reporting.gallery import heat_map
from components.serving.model import FacesAnswer
from components.serving.refusal import Refusal, Refused


@dataclass(frozen=True)
class PhotographAnswer:
    """The answer to a request whose photograph was restored."""

    file: bytes
    media_type: str
    record: PhotographRecord
    prepared: Prepared
    faces: FacesAnswer
    seconds: Mapping[str, float]  # of each step


def photograph_response(request: Request, answer: PhotographAnswer) -> Response:
    """Make the answer in the form that the client accepts."""
    if "application/json" in request.headers.get("accept", ""):
        return _as_json(request, answer)
    return Response(answer.file, media_type=answer.media_type, headers=_headers(answer))


def error_response(request: Request, refused: Refused) -> JSONResponse:
    """Make the answer to a request that is refused."""
    about = {"code": refused.code, "message": refused.message, "request_id": request.state.id}
    passes = refused.status in (429, 503)
    headers = {"Retry-After": str(refused.retry_after_s)} if passes else None
    return JSONResponse({"error": about}, refused.status, headers)


async def handle_refusal(request: Request, raised: Exception) -> JSONResponse:
    """Answer a `Refusal` that a route raised."""
    assert isinstance(raised, Refusal)
    return error_response(request, raised.refused)


async def handle_router_error(request: Request, raised: Exception) -> JSONResponse:
    """Answer an unknown path or a wrong method, in the same form as all errors."""
    assert isinstance(raised, HTTPException)
    refused = Refused(raised.status_code, "no_such_route", f"{raised.detail}: see /docs")
    response = error_response(request, refused)
    response.headers.update(raised.headers or {})
    return response


def _headers(answer: PhotographAnswer) -> dict[str, str]:
    record, version = answer.record, answer.faces.version
    angles = [face.angle for face in record.faces]
    about = {
        "X-HDRFace-Model": version.name,
        "X-HDRFace-Fingerprint": version.fingerprint,
        "X-HDRFace-Run": version.run_id or "",
        "X-HDRFace-Size": str(record.model_size),
        "X-HDRFace-Faces": str(len(record.faces)),
        "X-HDRFace-Restored": str(record.num_restored),
        "X-HDRFace-Angles": ",".join("" if angle is None else f"{angle:.1f}" for angle in angles),
        "X-HDRFace-Flagged": str(sum(face.flagged for face in record.faces)),
        "Server-Timing": ", ".join(
            f"{name};dur={s * 1000:.1f}" for name, s in answer.seconds.items()
        ),
    }
    return {**about, **({"X-HDRFace-Note": record.note} if record.note else {})}


def _as_json(request: Request, answer: PhotographAnswer) -> JSONResponse:
    restored = zip(answer.prepared.squares, answer.faces.faces, strict=True)
    maps = (_gate_map(square, face) for square, face in restored)
    gates = [next(maps) if face.reason is None else None for face in answer.prepared.faces]
    return JSONResponse(
        {
            "request_id": request.state.id,
            "picture": _base64(answer.file),
            "media_type": answer.media_type,
            "model": dataclasses.asdict(answer.faces.version),
            "record": dataclasses.asdict(answer.record),
            "gates": gates,  # PNG, for each face of the record that the model restored
            "seconds": answer.seconds,
        }
    )


def _gate_map(square: Image, face: RestoredFace) -> str | None:
    """Draw a face's gate over it, as PNG in base64."""
    if face.gate is None:
        return None
    return _base64(images.encode_png(heat_map(square, face.gate, (0.0, 1.0))))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
