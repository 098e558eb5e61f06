"""Errors as replies: every error a route raises gets a status and a body in OpenAI's shape.

In: an error of ours, of the operating system or of the framework. Out: a JSON reply. Which status an error has stands
in its class. It does not know routes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ...errors import Busy, InputError, StillhouseError
from ...storage.files import disk_full, out_of_room
from ..errors import Overloaded

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    415: "invalid_request_error", 422: "rejected_error", 429: "rate_limit_error", 503: "overloaded_error",
    507: "storage_error",
}  # fmt: skip
_CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "rate_limit_exceeded"}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error, as OpenAI's clients read it."""
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def error_reply(error: StillhouseError) -> JSONResponse:
    """The reply to an error of ours."""
    status = error.status
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, Busy):
        headers["Retry-After"] = "1"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    code = "context_length_exceeded" if isinstance(error, InputError) and "context is" in str(error) else None
    return JSONResponse(error_body(status, str(error), code=code), status, headers)


def add_errors(app: FastAPI) -> None:
    """Turn whatever a route raises into a reply in OpenAI's shape."""
    app.add_exception_handler(StillhouseError, _stillhouse_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _stillhouse_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StillhouseError), "registered for these alone"
    return error_reply(error)


async def _os_error(request: Request, error: Exception) -> JSONResponse:
    """An error of the operating system. A full disk has a status of its own, for the client can do something then."""
    assert isinstance(error, OSError), "registered for these alone"
    if out_of_room(error):
        return error_reply(disk_full(Path(error.filename or "the home")))
    raise error


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for these alone"
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """The reply names the first thing that is wrong with a body, by its field."""
    assert isinstance(error, RequestValidationError), "registered for these alone"
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(where) or None
    words = {
        "json_invalid": "the body is not JSON",
        "extra_forbidden": f"unknown field {param!r}",
        "missing": f"{param!r} is missing" if param else "the body is missing",
    }
    message = words.get(first["type"]) or f"{param or 'the body'}: {first['msg']}"
    if first["type"] == "json_invalid":
        message += f": {first.get('ctx', {}).get('error', '')}"
    return JSONResponse(error_body(400, message, param), 400)
