"""Locks between processes: `flock` on small files, which the system frees when the holder is killed.

In: a path, how long to wait. Out: a context; `Busy` when the wait is over. A lock file may be deleted while a process
holds it, so whoever gets a lock checks that the file still has that name. It does not know what the lock protects.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import Busy
from .files import writing

DEADLINE = 60.0  # seconds to wait for a short internal lock

_FIRST_DELAY = 0.001
_LONGEST_DELAY = 0.02
_HOLDER_BYTES = 80  # always the same length, so that nothing of an earlier holder remains


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: float = DEADLINE, shared: bool = False) -> Iterator[None]:
    """Hold `path`. `Busy` after `wait` seconds, saying that `what` is in use, by which process, since when."""
    fd = _acquire(path, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + wait)
    try:
        if not shared:
            _write_holder(fd)
        yield
    finally:
        os.close(fd)


def delays() -> Iterator[float]:
    """Seconds to sleep between tries: doubling, with jitter, at most some tens of milliseconds."""
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.5)
        delay = min(delay * 2, _LONGEST_DELAY)


def now() -> str:
    """ISO 8601, UTC, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _acquire(path: Path, what: str, operation: int, deadline: float) -> int:
    for delay in delays():
        with writing(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            if _still_named(fd, path):
                return fd
            os.close(fd)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0)
            os.close(fd)
            if time.monotonic() >= deadline:
                raise Busy(f"{what} {_holder(holder)}; wait or try again") from None
            time.sleep(delay)
    raise AssertionError("delays never end")


def _still_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(fd: int) -> None:
    with contextlib.suppress(OSError):  # the holder is for the message only
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "since": now()}).ljust(_HOLDER_BYTES).encode(), 0)


def _holder(data: bytes) -> str:
    try:
        holder = json.loads(data)
        return f"by process {holder['pid']} since {holder['since']}"
    except (ValueError, TypeError, KeyError):
        return "by another process"
