"""The errors that only a server has: part of the package's tree, each with its HTTP status."""

from __future__ import annotations

from ..errors import StillhouseError


class Unauthorized(StillhouseError):
    """The request has no key, or one that is unknown, revoked or out of date."""

    status = 401


class Forbidden(StillhouseError):
    """The key does not reach that far. The message is the same whether or not the thing exists."""

    status = 403


class TooSlow(StillhouseError):
    """The body did not come in time."""

    status = 408


class TooLarge(StillhouseError):
    """The body is larger than what is read."""

    status = 413


class Overloaded(StillhouseError):
    """The queue or a limit is full; the request may work `retry_after` seconds later."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(StillhouseError):
    """The server is stopping."""

    status = 503
