"""What a request may ask for, and its body, which is bounded while it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.photographs.photograph import DEFAULT_QUALITY, FileFormat
from components.photographs.restoration import RestoreOptions
from components.serving.refusal import Refusal

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 1024
_FILE = "image"


class RequestOptions(RestoreOptions):
    """What a request may ask for, in its query or its form."""

    model: str | None = None  # None: the first one of the server
    format: FileFormat | None = None  # None: as it came
    quality: Annotated[int, Field(ge=1, le=100)] = DEFAULT_QUALITY
    timeout_s: Annotated[float, Field(gt=0)] | None = None  # None, or more: the server's own

    def restoring(self) -> RestoreOptions:
        """Give the part that restoring is about."""
        fields = self.model_dump(include=set(RestoreOptions.model_fields))
        return RestoreOptions.model_validate(fields)


class BoundedBody:
    """Ends the reading of a body that grows beyond a limit, whatever its headers promise."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                limit = f"{self._max_bytes / 1e6:g} MB"
                raise Refusal(413, "too_large", f"the upload is larger than {limit}")
            return message

        await self._app(scope, counted, send)


async def read(request: Request) -> tuple[bytes, RequestOptions]:
    """Read the picture and the options: the query's, and over them the form's.

    Raises: Refusal.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    asked = dict(request.query_params)
    if kind == "multipart/form-data":
        data, fields = await _form(request)
        asked |= fields
    elif kind.startswith("image/") or kind == "application/octet-stream":
        data = await request.body()
    else:
        raise Refusal(
            415,
            "unsupported_type",
            f"content type {kind[:60]!r}: send the bytes of a picture as image/jpeg (png, webp, "
            "bmp, tiff), or a form (multipart/form-data) with the file in 'image'",
        )
    if not data:
        raise Refusal(400, "no_picture", "the picture is empty")
    return data, options(asked)


def options(asked: Mapping[str, Any]) -> RequestOptions:
    """Check what was asked for. Raises: Refusal naming each field that is wrong."""
    try:
        return RequestOptions.model_validate_strings(dict(asked))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()[:5]
        )
        raise Refusal(422, "bad_options", wrong[:500]) from error


async def _form(request: Request) -> tuple[bytes, dict[str, str]]:
    try:
        async with request.form(
            max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        ) as form:
            file = form.get(_FILE)
            if not isinstance(file, UploadFile):
                raise Refusal(400, "no_picture", f"the form has no file in '{_FILE}'")
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            return await file.read(), fields
    except HTTPException as error:  # as Starlette says it inside an application
        raise Refusal(400, "bad_form", f"the form cannot be read: {error.detail}") from error


def described() -> dict[str, Any]:
    """Describe a request's options and body in OpenAPI's terms."""
    binary = {"type": "string", "format": "binary"}
    fields = RequestOptions.model_json_schema()["properties"]
    form = {"type": "object", "required": [_FILE], "properties": {_FILE: binary, **fields}}
    pictures = {f"image/{kind}": {"schema": binary} for kind in ("jpeg", "png", "webp")}
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": schema} for name, schema in fields.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, **pictures},
        },
        "responses": {
            "200": {
                "description": "The restored picture, or with Accept: application/json what became "
                "of each face beside it",
                "content": {**pictures, "application/json": {"schema": {"type": "object"}}},
            }
        },
    }
