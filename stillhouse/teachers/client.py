"""Requests to an endpoint that is sometimes down, busy or slow. Each is answered once, and the answer is stored.

In: JSON bodies for a path. Out: JSON replies. A failure that may pass (no connection, a timeout, status 408, 409, 425,
429 or 5xx, a reply that is not JSON) is tried again: after as long as `Retry-After` says, or after twice the last wait.
Every other failure is an error of one line. Replies are appended to a file and synced before they are used, so a killed
run sends only the requests that have no reply yet.

It does not know what the requests ask for.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..errors import InputError, ModelError
from ..records import canonical, digest

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST = 120.0  # seconds between two tries, whatever the endpoint asks for
Body = dict[str, Any]


@dataclass(frozen=True)
class EndpointRequest:
    """A body for a path below the base URL; a path that begins with "/" starts at the host's root."""

    path: str
    body: Body

    @property
    def key(self) -> str:
        """The name under which a reply is stored."""
        return digest([self.path, self.body])


@dataclass(frozen=True)
class EndpointClient:
    """An endpoint's address, and how long to wait for it."""

    url: str
    """Where its paths begin; usually ends in `/v1`."""
    secret: str = field(default="", repr=False)
    """Sent as a bearer token; empty: none is sent."""
    timeout: float = 120.0
    """Seconds that one try may take."""
    retries: int = 6
    """Tries after the first."""
    concurrency: int = 8
    """Requests under way at a time."""
    pause: float = 0.5
    """Seconds before the second try; each later one waits twice as long."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"teacher.url: {self.url!r} is not an address such as http://localhost:8000/v1")

    def get(self, path: str) -> Any:
        """The reply to a GET, with the same retries."""
        with self._client() as client:
            return self._retried(lambda: client.get(self._address(path)), path)

    def ask(self, requests: Sequence[EndpointRequest], file: Path | None = None) -> list[Any]:
        """A reply per request, in their order. Requests whose replies are in `file` already are not sent."""
        with _StoredReplies(file) as stored, self._client() as client:

            def send(key: str, request: EndpointRequest) -> None:
                address = self._address(request.path)
                stored.add(key, self._retried(lambda: client.post(address, json=request.body), request.path))

            keys = [request.key for request in requests]
            missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in stored.replies}
            with _threads(self.concurrency) as pool:
                deque(pool.map(send, missing.keys(), missing.values()), maxlen=0)  # raises what one of them raised
            return [stored.replies[key] for key in keys]

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=self.timeout, limits=limits, follow_redirects=True)

    def _address(self, path: str) -> str:
        return str(httpx.URL(self.url).join(path)) if path.startswith("/") else f"{self.url.rstrip('/')}/{path}"

    def _retried(self, send: Callable[[], httpx.Response], path: str) -> Any:
        failure = ""
        for attempt in range(self.retries + 1):
            wait = self.pause * 2**attempt * (1 + 0.25 * random.random())  # so that many do not come back at once
            try:
                reply = send()
                if reply.status_code == 200:
                    return reply.json()
                self._check(reply, path)
                failure, wait = f"status {reply.status_code}", max(wait, _retry_after(reply))
            except httpx.TimeoutException:
                failure = f"no answer within {self.timeout:g} s"
            except (httpx.TransportError, httpx.DecodingError) as error:
                failure = str(error) or type(error).__name__
            except ValueError:
                failure = "a reply that is not JSON"
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST))
        raise ModelError(
            f"{self._address(path)}: {failure}, after {self.retries + 1} tries; what was answered before is kept: "
            "run it again to go on"
        )

    def _check(self, reply: httpx.Response, path: str) -> None:
        """`InputError` for a status that another try would not change."""
        status = reply.status_code
        if status in PASSING:
            return
        hints = {
            401: "; its key is read from the environment variable that teacher.key names",
            403: "; its key is read from the environment variable that teacher.key names",
            404: "; teacher.url ends where /completions begins, usually in /v1",
        }
        raise InputError(
            f"{self._address(path)}: refused with status {status}: {_reason(reply)}{hints.get(status, '')}"
        )


class _StoredReplies:
    """Replies by the key of their request: in memory, and with a file also on disk, one synced line each."""

    def __init__(self, file: Path | None):
        self.replies: dict[str, Any] = dict(_lines(file)) if file is not None and file.exists() else {}
        self._file, self._lock, self._handle = file, threading.Lock(), -1

    def __enter__(self) -> _StoredReplies:
        if self._file is not None:
            self._handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if self.replies or self._file.stat().st_size:
                os.write(self._handle, b"\n")  # the line that a killed process may have left unfinished ends here
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def add(self, key: str, reply: Any) -> None:
        with self._lock:
            if self._handle >= 0:
                os.write(self._handle, canonical({"key": key, "reply": reply}) + b"\n")
                os.fsync(self._handle)
            self.replies[key] = reply


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Keys and replies of the whole lines; a line that was cut off counts for nothing."""
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
            yield record["key"], record["reply"]
        except (ValueError, KeyError, TypeError):
            continue


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `number` threads. When one request fails, those that wait are not sent."""
    pool = ThreadPoolExecutor(max_workers=number, thread_name_prefix="teacher")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _retry_after(reply: httpx.Response) -> float:
    """Seconds that the header asks to wait, as a number or a date; 0 without a usable header."""
    header = reply.headers.get("retry-after", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _reason(reply: httpx.Response) -> str:
    """The endpoint's own message, in one line."""
    try:
        body = reply.json()
        message = body["error"]["message"] if isinstance(body.get("error"), dict) else body.get("message", body)
    except (ValueError, KeyError, AttributeError):
        message = reply.text
    return " ".join(str(message).split())[:300] or reply.reason_phrase
