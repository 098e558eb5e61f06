"""What every route shares: bodies that come whole or not at all, who is asking, and errors in OpenAI's shape.

In: HTTP. Out: a `Key` and a checked user, or an error with its status. The only file that knows how a status is chosen.
It does not know what is asked.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import Busy, InputError, StillhouseError
from ...storage.files import disk_full, out_of_room
from ..access import keys
from ..access.keys import LOCAL, Action, Key
from ..errors import Forbidden, Overloaded, TooLarge, TooSlow, Unauthorized
from ..service import Service

BODY_SECONDS = 30.0
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1", "testserver"})
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    415: "invalid_request_error", 422: "rejected_error", 429: "rate_limit_error", 503: "overloaded_error",
    507: "storage_error",
}  # fmt: skip
_CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "rate_limit_exceeded"}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def error_reply(error: StillhouseError) -> JSONResponse:
    """An error of ours as a reply."""
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
    """Whatever a route raises becomes a reply in OpenAI's shape."""
    app.add_exception_handler(StillhouseError, _ours)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _theirs)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StillhouseError), "registered for these alone"
    return error_reply(error)


async def _system(request: Request, error: Exception) -> JSONResponse:
    """What the operating system refused: where it is for want of room the client can do something about it."""
    assert isinstance(error, OSError), "registered for these alone"
    if out_of_room(error):
        return error_reply(disk_full(Path(error.filename or "the home")))
    raise error


async def _theirs(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for these alone"
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a body, by its field."""
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


class Intake:
    """Reads a body whole before anything else looks at it: at most so many bytes, in so many seconds."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        counted = self._counting(send)
        limits = self.service.limits.config
        most = limits.upload_bytes if scope["path"].endswith("/memory") else limits.body_bytes
        try:
            body = await asyncio.wait_for(_whole(receive, most), BODY_SECONDS)
        except TimeoutError:
            slow = TooSlow(f"the body did not come whole within {BODY_SECONDS:.0f} seconds")
            return await error_reply(slow)(scope, receive, counted)
        except TooLarge as error:
            return await error_reply(error)(scope, receive, counted)
        if body is None:
            return None
        return await self.app(scope, _again(body, receive), counted)

    def _counting(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.service.metrics.reply(message["status"])
            await send(message)

        return counted


async def _whole(receive: Receive, most: int) -> bytes | None:
    """The body; None when the client left before it was whole."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise TooLarge(f"the body is larger than {most} bytes, which is the most that is read: send less")
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def service_of(request: Request) -> Service:
    """The service of the app that the request came to."""
    found = request.app.state.service
    assert isinstance(found, Service), "set by create_app"
    return found


def caller(request: Request) -> Key:
    """Whose request it is, counted against the limits. `Unauthorized`, `Forbidden`, `Overloaded`."""
    service = service_of(request)
    _same_origin(request)
    key = _key(request, service)
    wait = service.limits.request(key.id or "local")
    if wait > 0:
        raise Overloaded(f"too many requests with this key; try again in {wait:.1f} s", math.ceil(wait))
    return key


def _key(request: Request, service: Service) -> Key:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if not service.keyring.all() and request.app.state.local:
        host = request.headers.get("host", "").rsplit(":", 1)[0] if request.headers.get("host") else "localhost"
        if host not in LOCAL_NAMES:
            raise Forbidden(f"without keys this server answers to {sorted(LOCAL_NAMES - {'testserver'})} alone")
        return LOCAL
    key = service.keyring.find(secret.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise Unauthorized("a valid API key is needed, as 'Authorization: Bearer sk-still-…'")
    return key


def _same_origin(request: Request) -> None:
    """A web page of somewhere else cannot act with what the browser may reach."""
    origin = request.headers.get("origin")
    if origin and origin.split("://", 1)[-1] != request.headers.get("host"):
        raise Forbidden(f"requests from pages of {origin[:80]} are not answered")


def subject(key: Key, asked: str | None, action: Action) -> str:
    """The one user a request is about, as the store names them. `Forbidden`, `InputError`."""
    user = keys.stored_user(key, asked)
    if user is None:
        raise InputError("name the user: this key speaks for more than one")
    return permitted(key, user, action)


def permitted(key: Key, user: str, action: Action) -> str:
    """The same user, if the key may. `Forbidden` says the same of users there are and there are not."""
    if not keys.allowed(key, user, action):
        raise Forbidden(f"this key may not {action} user {user[:80]!r}")
    return user


def server_wide(key: Key, action: Action) -> None:
    """`Forbidden` unless the key reaches the whole server."""
    if not keys.allowed(key, None, action):
        raise Forbidden("this key does not reach the whole server: an admin's is needed")


def charge(service: Service, key: Key, tokens: int) -> None:
    """Count tokens against the key's limit. `Overloaded`: too many of them this minute."""
    wait = service.limits.tokens(key.id or "local", tokens)
    if wait > 0:
        raise Overloaded(f"too many tokens with this key; try again in {wait:.1f} s", int(wait) + 1)


Caller = Annotated[Key, Depends(caller)]
Here = Annotated[Service, Depends(service_of)]
