"""What a server says no to, beside what any command would: each an error of the package's tree with its HTTP status."""

from __future__ import annotations

from ..errors import StillhouseError


class Unauthorized(StillhouseError):
    """No key, or one that is not, or no longer, known."""

    status = 401


class Forbidden(StillhouseError):
    """The key does not reach that far. The same words whether or not there is something behind them."""

    status = 403


class TooSlow(StillhouseError):
    """The body did not come in time."""

    status = 408


class TooLarge(StillhouseError):
    """The body is larger than what is read."""

    status = 413


class Overloaded(StillhouseError):
    """More is asked than can wait; `retry_after` seconds later it may work."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(StillhouseError):
    """The server is stopping."""

    status = 503
