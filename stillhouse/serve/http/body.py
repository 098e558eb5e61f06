"""Request bodies: read whole before a route begins, so that a slow or huge one costs nothing else.

In: an ASGI request. Out: the same request with its body in one message, or a reply 408 or 413. Every reply is counted
by its status. It does not know what is in a body.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import TooLarge, TooSlow
from ..service import Service
from .errors import error_reply

BODY_SECONDS = 30.0


class BodyReader:
    """ASGI middleware that reads a body whole first: at most `limits.body_bytes`, in at most `BODY_SECONDS`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        counted = self._counting(send)
        limits = self.service.limits.config
        most = limits.upload_bytes if scope["path"].endswith("/memory") else limits.body_bytes
        try:
            body = await asyncio.wait_for(_read_body(receive, most), BODY_SECONDS)
        except TimeoutError:
            slow = TooSlow(f"the body did not come whole within {BODY_SECONDS:.0f} seconds")
            return await error_reply(slow)(scope, receive, counted)
        except TooLarge as error:
            return await error_reply(error)(scope, receive, counted)
        if body is None:
            return None
        return await self.app(scope, _replayed(body, receive), counted)

    def _counting(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.service.metrics.count_reply(message["status"])
            await send(message)

        return counted


async def _read_body(receive: Receive, most: int) -> bytes | None:
    """The body; None when the client left before it was whole. `TooLarge`: it has more than `most` bytes."""
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


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body as one message, and then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay
