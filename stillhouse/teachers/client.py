"""Requests to an endpoint that is sometimes away, busy or slow, each asked once.

In: JSON bodies for a path. Out: JSON replies. What fails in a way that may pass (no connection, a timeout, 408, 409,
425, 429, 5xx, a reply that is not JSON) is asked again, after as long as `Retry-After` says or after twice as long as
the time before; everything else is one clear line. Replies are appended to a file and synced before they are used, so
a killed run asks only for what it has not been told.

It does not know what is asked.
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
class Request:
    """What is posted where; `path` is below the base URL, or from the host's root where it begins with "/"."""

    path: str
    body: Body

    @property
    def key(self) -> str:
        return digest([self.path, self.body])


@dataclass(frozen=True)
class Wire:
    """An endpoint's address and how patient to be. `url` ends in `/v1`; `pause` is the first wait, in seconds."""

    url: str
    secret: str = field(default="", repr=False)
    timeout: float = 120.0
    retries: int = 6
    concurrency: int = 8
    pause: float = 0.5

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"teacher.url: {self.url!r} is not an address such as http://localhost:8000/v1")

    def get(self, path: str) -> Any:
        """A small question, asked like all others."""
        with self._client() as client:
            return self._patiently(lambda: client.get(self._address(path)), path)

    def ask(self, requests: Sequence[Request], kept: Path | None = None) -> list[Any]:
        """A reply per request, in their order; those that stand in `kept` already are not sent."""
        with _Kept(kept) as known, self._client() as client:

            def one(key: str, request: Request) -> None:
                address = self._address(request.path)
                known.add(key, self._patiently(lambda: client.post(address, json=request.body), request.path))

            keys = [request.key for request in requests]
            missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in known.replies}
            with _threads(self.concurrency) as pool:
                deque(pool.map(one, missing.keys(), missing.values()), maxlen=0)  # raises what one of them raised
            return [known.replies[key] for key in keys]

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=self.timeout, limits=limits, follow_redirects=True)

    def _address(self, path: str) -> str:
        return str(httpx.URL(self.url).join(path)) if path.startswith("/") else f"{self.url.rstrip('/')}/{path}"

    def _patiently(self, send: Callable[[], httpx.Response], path: str) -> Any:
        said = ""
        for attempt in range(self.retries + 1):
            wait = self.pause * 2**attempt * (1 + 0.25 * random.random())  # so that many do not come back at once
            try:
                reply = send()
                if reply.status_code == 200:
                    return reply.json()
                self._refuse(reply, path)
                said, wait = f"status {reply.status_code}", max(wait, _retry_after(reply))
            except httpx.TimeoutException:
                said = f"no answer within {self.timeout:g} s"
            except (httpx.TransportError, httpx.DecodingError) as error:
                said = str(error) or type(error).__name__
            except ValueError:
                said = "a reply that is not JSON"
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST))
        raise ModelError(
            f"{self._address(path)}: {said}, after {self.retries + 1} tries; what was answered before is kept: run it "
            "again to go on"
        )

    def _refuse(self, reply: httpx.Response, path: str) -> None:
        """`InputError` for a status that trying again does not change."""
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


class _Kept:
    """Replies by request, in memory and, with a file, on disk: one line each, synced."""

    def __init__(self, file: Path | None):
        self.replies: dict[str, Any] = dict(_lines(file)) if file is not None and file.exists() else {}
        self._file, self._lock, self._handle = file, threading.Lock(), -1

    def __enter__(self) -> _Kept:
        if self._file is not None:
            self._handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if self.replies or self._file.stat().st_size:
                os.write(self._handle, b"\n")  # whatever a killed process left unfinished ends here
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
    """Whole lines; one that was cut off is asked for again."""
    for line in file.read_bytes().splitlines():
        try:
            found = json.loads(line)
            yield found["key"], found["reply"]
        except (ValueError, KeyError, TypeError):
            continue


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that, when one request fails, does not begin those that wait."""
    pool = ThreadPoolExecutor(max_workers=number, thread_name_prefix="teacher")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _retry_after(reply: httpx.Response) -> float:
    """Seconds that the header asks to wait: a number or a date; 0 where it says nothing usable."""
    said = reply.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _reason(reply: httpx.Response) -> str:
    """The endpoint's own words, in one line."""
    try:
        found = reply.json()
        said = found["error"]["message"] if isinstance(found.get("error"), dict) else found.get("message", found)
    except (ValueError, KeyError, AttributeError):
        said = reply.text
    return " ".join(str(said).split())[:300] or reply.reason_phrase
