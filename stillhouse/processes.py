"""Child processes of this program. Work goes in as lines of JSON; reports, results and errors come back as such lines.

In: a command to run, then work for it. Out: its reports and its results, and its errors as if they were raised here.

Work goes to the child's stdin. The child ends when its stdin closes, so it ends with the process that started it,
however that one ends. Answers have a pipe of their own, so nothing that a child prints is taken for an answer. Children
that will be needed can be started ahead, so that they import while this process does.

A line to a child is a piece of work. A line from it is `{"report": ...}`, or the end of that piece: `{"result": ...}`
or `{"error": message, "kind": class}`.

It does not know what the work is.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from typing import Any, NoReturn

from . import errors
from .errors import ModelError, StillhouseError
from .records import canonical

LAST_LINES = 20  # of what a process apart prints
_PIPE = "STILLHOUSE_PIPE"  # the environment variable that holds the number of a child's pipe
_LOOK_SECONDS = 0.5  # between two looks whether a silent child lives
_END_SECONDS = 2.0  # for a child to end after its pipe, and to read what it printed last


class ProcessDied(ModelError):
    """A child ended before its work did. `how`: "exit code 1", "signal 9"; `last`: the last line that it printed, where
    what it prints is kept."""

    def __init__(self, code: int, last: str = "") -> None:
        self.how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.last = last
        super().__init__(f"a worker process died ({self.how}); run it again to go on, or use fewer workers")


def collect_rarely() -> None:
    """Collect garbage rarely. For a process of our own, before it imports anything large.

    Imports make a million objects, and none of them is garbage. To look for garbage among them takes a tenth of the
    imports' time, and some of every later step's.
    """
    gc.set_threshold(100_000, 50, 50)


def python_module(name: str) -> tuple[str, ...]:
    """The command that runs a module which calls `serve`, with the start made short."""
    return (sys.executable, "-m", __name__, name)


class Process:
    """A child that runs `command` and calls `serve`. It is killed when the block ends.

    `apart`: it has a session of its own, which is killed whole. What it prints is kept for `ProcessDied`, not shown.
    `result` is the result of the newest piece of work.
    """

    result: Any = None

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, *, apart: bool = False
    ) -> None:
        self.command, self.environment, self.apart = tuple(command), dict(environment or {}), apart

    def __enter__(self) -> Process:
        early = _AHEAD.get(_kind(self.command, self.environment)) if not self.apart else None
        self._child = early.pop() if early else _Child(self.command, self.environment, self.apart)
        return self

    def __exit__(self, *error: object) -> None:
        self._child.end()

    def send(self, work: Mapping[str, Any]) -> None:
        """Send a piece of work; does not wait until the child takes it."""
        self._child.send(canonical(work) + b"\n")

    def reports(self, every: float | None = None) -> Iterator[Any]:
        """Yields what it reports until the piece of work is done; `result` is set then.

        With `every`, None comes whenever nothing was reported for so many seconds, so that the caller can look at
        something else. Raises the child's own error, or `ProcessDied`.
        """
        while True:
            line = self._child.line(every)
            if line is None:
                yield None
                continue
            message = _message(line)
            if "error" in message:
                raise error_of(message)
            if "result" in message:
                self.result = message["result"]
                return
            yield message.get("report")


class _Child:
    """A running child with its pipes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], apart: bool) -> None:
        reading, writing = os.pipe()
        self._pipe, self._unread = FileIO(reading, "rb"), bytearray()
        environment = {**os.environ, **environment, _PIPE: str(writing)}
        output = (subprocess.PIPE, subprocess.STDOUT) if apart else (sys.__stderr__, None)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output[0], stderr=output[1], env=environment,
                pass_fds=(writing,), start_new_session=apart,
            )  # fmt: skip
        finally:
            os.close(writing)
        self._apart, self._printed, self._threads = apart, deque[str](maxlen=LAST_LINES), list[threading.Thread]()
        if apart:
            self._start(self._keep_printed)

    def send(self, data: bytes) -> None:
        """Write to its stdin in a thread: a child that hangs takes nothing."""

        def write() -> None:
            assert self._process.stdin is not None, "it was opened"
            with suppress(BrokenPipeError, ValueError):  # it died, or was ended: `line` says so
                self._process.stdin.write(data)
                self._process.stdin.flush()

        self._start(write)

    def line(self, every: float | None) -> bytes | None:
        """The next line of the pipe; None after `every` seconds without one. `ProcessDied`: there will be none."""
        began = time.monotonic()
        while (end := self._unread.find(b"\n")) < 0:
            dead = self._process.poll() is not None  # before the pipe is read: what it wrote until then is in there
            wait = 0.0 if dead else _LOOK_SECONDS if every is None else min(every, _LOOK_SECONDS)
            if select.select([self._pipe], [], [], wait)[0]:
                self._unread += (data := self._pipe.read(1 << 16) or b"")
                dead = not data
            if dead:
                raise self._death()
            if every is not None and time.monotonic() - began >= every:
                return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def end(self) -> None:
        """Kill it, and all of its session if that is its own. May be repeated."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                (os.killpg if self._apart else os.kill)(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._join()
        for stream in (self._process.stdin, self._process.stdout, self._pipe):
            if stream is not None:
                with suppress(BrokenPipeError):  # work that it never took
                    stream.close()

    def _death(self) -> ProcessDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._process.kill()  # one that only closed its pipe
        code = self._process.wait()
        self._join()
        return ProcessDied(code, next((line for line in reversed(self._printed) if line.strip()), ""))

    def _keep_printed(self) -> None:
        for line in self._process.stdout or ():
            self._printed.append(line.decode(errors="replace").rstrip())

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def _join(self) -> None:
        """Wait for the threads; not for long, as a grandchild may hold the other end of a pipe."""
        for thread in self._threads:
            thread.join(_END_SECONDS)


def error_fields(error: StillhouseError) -> dict[str, str]:
    """An error as JSON."""
    return {"kind": type(error).__name__, "error": str(error)}


def error_of(fields: Mapping[str, Any]) -> StillhouseError:
    """The error of such fields; a `ModelError` where `errors` has no class of that name."""
    kind = getattr(errors, str(fields.get("kind")), ModelError)
    error: StillhouseError = kind(str(fields["error"]))
    return error


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ModelError(f"a worker process answered {line[:80]!r}, which is no JSON object; run it again")
    return message


@contextmanager
def ahead(command: Sequence[str], environment: Mapping[str, str], count: int) -> Iterator[None]:
    """Inside, `count` such processes are started already, and a `Process` like them that is opened is one of them."""
    children = [_Child(command, environment, apart=False) for _ in range(count)]
    kind = _kind(command, environment)
    _AHEAD[kind] = [*children]
    try:
        yield
    finally:
        del _AHEAD[kind]
        for child in children:
            child.end()


_Kind = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
_AHEAD: dict[_Kind, list[_Child]] = {}


def _kind(command: Sequence[str], environment: Mapping[str, str]) -> _Kind:
    return tuple(command), tuple(sorted(environment.items()))


def connected() -> bool:
    """Whether this process is the child of a `Process`, and has not called `serve` yet."""
    return _PIPE in os.environ


def serve(work: Callable[[Any, Callable[[Any], None]], Any]) -> NoReturn:
    """In a child: call `work(piece, report)` for every piece that comes, until the process that sends them is gone.

    What `work` returns is the result, and what it passes to `report` is a report; both are JSON. A `StillhouseError` is
    raised again in the process that sent the piece. Any other error ends this process.
    """
    pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    pipe = FileIO(int(os.environ.pop(_PIPE, "1")), "wb")
    os.set_inheritable(pipe.fileno(), False)
    one_at_a_time = threading.Lock()

    def answer(**message: Any) -> None:
        try:
            with one_at_a_time:
                _write_all(pipe, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            os._exit(1)  # nobody reads it

    threading.Thread(target=_receive, args=(pieces.put,), daemon=True).start()
    while True:
        try:
            result = work(json.loads(pieces.get()), lambda report: answer(report=report))
        except StillhouseError as error:
            answer(**error_fields(error))
        except KeyboardInterrupt:
            os._exit(130)  # the process that started it was interrupted too, and says so
        else:
            answer(result=result)


def end_with_stdin() -> None:
    """End this process at once (exit code 1) when the process that started it closes our stdin, or dies.

    For a process whose stdin is a pipe to which nobody writes any more.
    """
    threading.Thread(target=_receive, args=(lambda line: None,), name="leash", daemon=True).start()


def _receive(take: Callable[[bytes], object]) -> None:
    """Read stdin line by line; end this process at its end.

    It does not use `sys.stdin`: a thread that waits there holds a lock that the interpreter needs to end.
    """
    parts: list[bytes] = []
    while data := os.read(0, 1 << 16):
        *ends, last = data.split(b"\n")
        for end in ends:
            take(b"".join([*parts, end]))
            parts = []
        parts.append(last)
    os._exit(1)


def _write_all(pipe: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


if __name__ == "__main__":
    collect_rarely()
    try:
        runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        os._exit(130)  # while it imports
