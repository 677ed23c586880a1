"""What a request may ask for, and its body, whose size is limited while it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.photographs.options import FileOptions, RestoreOptions
from components.serving.refusal import Refusal

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 1024
_FILE = "image"
_INTERMEDIATE = "intermediate"
_VIDEO = "video"
_MAX_NAME = 200  # characters of a file's name that are kept


class RequestOptions(RestoreOptions, FileOptions):
    """The options of a request, in its query or its form."""

    model: str | None = Field(
        None, description="Name of the model. By default, the first model of the server."
    )
    timeout_s: float | None = Field(
        None,
        gt=0,
        description="Deadline of the request, in seconds. By default, and at most, the server's "
        "own.",
    )

    def restoring(self) -> RestoreOptions:
        """Return the options of the restoration itself."""
        fields = self.model_dump(include=set(RestoreOptions.model_fields))
        return RestoreOptions.model_validate(fields)


class BoundedBody:
    """Stops reading a body that grows above a limit, whatever its headers say."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, larger: Mapping[str, int]) -> None:
        """Allow `max_bytes` to each path, but for those of `larger`."""
        self._app, self._max_bytes, self._larger = app, max_bytes, larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        most = self._larger.get(scope["path"], self._max_bytes)

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > most:
                limit = f"{most / 1e6:g} MB"
                raise Refusal(413, "too_large", f"the upload is larger than {limit}")
            return message

        await self._app(scope, counted, send)


@dataclass(frozen=True)
class Body:
    """The pictures of a request, encoded: the photograph, and a first restoration of it."""

    image: bytes
    intermediate: bytes | None = None


async def read(request: Request) -> tuple[Body, RequestOptions]:
    """Read the pictures and the options; an option in the form replaces the same one in the query.

    Raises: Refusal.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    asked = dict(request.query_params)
    if kind == "multipart/form-data":
        body, fields = await _form(request)
        asked |= fields
    elif kind.startswith("image/") or kind == "application/octet-stream":
        body = Body(await request.body())
    else:
        raise Refusal(
            415,
            "unsupported_type",
            f"content type {kind[:60]!r}: send the bytes of a picture as image/jpeg (png, webp, "
            "bmp, tiff), or a form (multipart/form-data) with the file in 'image'",
        )
    if not body.image or body.intermediate == b"":
        raise Refusal(400, "no_picture", "the picture is empty")
    return body, options(asked)


def options(asked: Mapping[str, Any]) -> RequestOptions:
    """Check the options of a request. Raises: Refusal naming each field that is wrong."""
    try:
        return RequestOptions.model_validate_strings(dict(asked))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()[:5]
        )
        raise Refusal(422, "bad_options", wrong[:500]) from error


async def _form(request: Request) -> tuple[Body, dict[str, str]]:
    try:
        async with request.form(
            max_files=2, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        ) as form:
            file, first = form.get(_FILE), form.get(_INTERMEDIATE)
            if not isinstance(file, UploadFile):
                raise Refusal(400, "no_picture", f"the form has no file in '{_FILE}'")
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            intermediate = await first.read() if isinstance(first, UploadFile) else None
            return Body(await file.read(), intermediate), fields
    except HTTPException as error:  # what Starlette raises for a form inside an application
        raise Refusal(400, "bad_form", f"the form cannot be read: {error.detail}") from error


async def read_job(
    request: Request, max_files: int
) -> tuple[list[tuple[str, bytes]], bool, dict[str, str]]:
    """Read the files of a job (name and content), whether it is a video, and the options.

    Raises: Refusal if there is no picture and no video, or both.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        message = "send a form (multipart/form-data) with files in 'image', or one in 'video'"
        raise Refusal(415, "unsupported_type", message)
    try:
        async with request.form(
            max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        ) as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            found = {
                name: [
                    ((file.filename or name)[:_MAX_NAME], await file.read())
                    for file in form.getlist(name)
                    if isinstance(file, UploadFile)
                ]
                for name in (_FILE, _VIDEO)
            }
    except HTTPException as error:
        raise Refusal(400, "bad_form", f"the form cannot be read: {error.detail}") from error
    videos = found[_VIDEO]
    files = found[_FILE] + videos
    if not files or not all(data for _, data in files):
        raise Refusal(400, "no_picture", "the form has no file in 'image' or 'video', or an empty")
    if videos and len(files) > 1:
        raise Refusal(400, "bad_form", "a job is pictures or one video: send a job for each video")
    asked = dict(request.query_params) | fields
    if "timeout_s" in asked:
        raise Refusal(422, "bad_options", "timeout_s: a job has no deadline but the server's")
    options(asked)
    return files, bool(videos), asked


def job_openapi() -> dict[str, Any]:
    """Return the OpenAPI description of a job's form."""
    binary = {"type": "string", "format": "binary"}
    fields = dict(RequestOptions.model_json_schema()["properties"])
    del fields["timeout_s"]
    files = {_FILE: {"type": "array", "items": binary}, _VIDEO: binary}
    form = {"type": "object", "properties": {**files, **fields}}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": form}}}}


def openapi() -> dict[str, Any]:
    """Return the OpenAPI description of a request's options and body."""
    binary = {"type": "string", "format": "binary"}
    fields = RequestOptions.model_json_schema()["properties"]
    first = {**binary, "description": "A first restoration of the picture, of its size."}
    files = {_FILE: binary, _INTERMEDIATE: first}
    form = {"type": "object", "required": [_FILE], "properties": {**files, **fields}}
    pictures = {f"image/{kind}": {"schema": binary} for kind in ("jpeg", "png", "webp")}
    return {
        "parameters": [
            {"name": name, "in": "query", "description": schema["description"], "schema": schema}
            for name, schema in fields.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, **pictures},
        },
        "responses": {
            "200": {
                "description": "The restored picture; with Accept: application/json, the picture "
                "and a record of each face",
                "content": {**pictures, "application/json": {"schema": {"type": "object"}}},
            }
        },
    }
