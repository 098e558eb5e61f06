"""Processes of this program's own that take work as lines of JSON and answer with lines of JSON.

In: a module to run, then work for it. Out: what it tells, and its errors as if they were raised here. A process ends
with the one that started it, however that one ends. Those that will be needed can be started ahead, so that they import
while whoever needs them does. It does not know what the work is.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import errors
from .errors import ModelError, StillhouseError
from .records import canonical


def collect_rarely() -> None:
    """For a process of our own, before it imports anything large: imports make a million objects, none of them garbage,
    and looking for it there is a tenth of their time, and then some of every later step's."""
    gc.set_threshold(100_000, 50, 50)


class Process:
    """`python -m module`, which calls `serve`. Killed when the block ends."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        self.module, self.environment = module, dict(environment or {})

    def __enter__(self) -> Process:
        kind = _kind(self.module, self.environment)
        self._child = _AHEAD[kind].pop() if _AHEAD.get(kind) else _started(self.module, self.environment)
        return self

    def __exit__(self, *error: object) -> None:
        _end(self._child)

    def send(self, work: Mapping[str, Any]) -> None:
        """Hand it a piece of work."""
        assert self._child.stdin is not None, "it was opened"
        try:
            self._child.stdin.write(canonical(work) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; `told` says so

    def told(self) -> Iterator[Any]:
        """What it tells until that piece is done. Its error is raised here; `ModelError` when it died."""
        assert self._child.stdout is not None, "it was opened"
        for line in self._child.stdout:
            said = json.loads(line)
            if "done" in said:
                return
            if "error" in said:
                raise getattr(errors, said["kind"])(said["error"])
            yield said["told"]
        code = self._child.wait()
        raise ModelError(f"a worker process died (exit code {code}); run it again to go on, or use fewer workers")


@contextmanager
def ahead(module: str, environment: Mapping[str, str], count: int) -> Iterator[None]:
    """Inside, `count` such processes are on their way already; a `Process` like them that is opened is one of them."""
    children = [_started(module, environment) for _ in range(count)]
    kind = _kind(module, environment)
    _AHEAD[kind] = [*children]
    try:
        yield
    finally:
        del _AHEAD[kind]
        for child in children:
            _end(child)


_Kind = tuple[str, tuple[tuple[str, str], ...]]
_AHEAD: dict[_Kind, list[subprocess.Popen[bytes]]] = {}


def _kind(module: str, environment: Mapping[str, str]) -> _Kind:
    return module, tuple(sorted(environment.items()))


def _started(module: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, module]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **environment})


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def serve(work: Callable[[Any, Callable[[Any], None]], None]) -> None:
    """In such a process: `work(piece, tell)` for every piece that comes, until whoever sends them is gone."""
    pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
    out, sys.stdout = sys.stdout, sys.stderr  # what is printed by mistake is no answer

    def read() -> None:
        for line in sys.stdin:
            pieces.put(line)
        os._exit(1)

    def say(**said: Any) -> None:
        out.write(json.dumps(said) + "\n")
        out.flush()

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            work(json.loads(pieces.get()), lambda told: say(told=told))
        except StillhouseError as error:
            say(error=str(error), kind=type(error).__name__)
        except KeyboardInterrupt:
            os._exit(130)  # whoever started it was interrupted too, and says so
        else:
            say(done=True)


if __name__ == "__main__":
    collect_rarely()
    try:
        runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        os._exit(130)  # while it imports
