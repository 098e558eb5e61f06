"""The real command line, many times, in processes of their own, without paying for the imports each time.

In: command lines, and when to send which signal. Out: exit code, stdout, stderr. `python -m tests.commands MODEL` loads
everything once, with one thread, and forks a child for each request; the child calls `stillhouse.cli.main` as the
console script does, and is killed, interrupted or short of disk for real.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST = 120.0  # seconds a command may take


@dataclass(frozen=True)
class Signal:
    """Send `number` once stderr has a line that begins with `line` and, if given, a file matches `glob`."""

    number: int
    line: str
    folder: str = ""
    glob: str = ""


@dataclass(frozen=True)
class Done:
    """How a command ended; `code` is negative for a signal, as in `subprocess`."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line on stderr. Fails when there are more, or none."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        return self.err[:-1]


class Commands:
    """A server of forked command lines."""

    def __init__(self, model: Path) -> None:
        self.model = model
        command = [sys.executable, "-m", "tests.commands", str(model)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *argv: str | Path, at: Signal | None = None, largest_file: int | None = None, to: str = "") -> Done:
        """Run one command line. `largest_file`: bytes after which a write fails as on a full disk; `to`: stdout."""
        assert self._server.stdin
        assert self._server.stdout
        request = {"argv": list(map(str, argv)), "at": asdict(at) if at else None, "limit": largest_file, "to": to}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Done(**json.loads(self._server.stdout.readline()))

    def consolidating(self, user: str, memory: Path, home: Path, *more: str) -> tuple[str | Path, ...]:
        """The command line that consolidates a memory with the shipped model."""
        return "consolidate", "--user", user, "--memory", memory, "--home", home, "--model", self.model, *more

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(timeout=120)  # it ends at once, on a busy machine too
        assert self._server.stdout
        self._server.stdout.close()


def serve(model: str) -> None:
    """Answer requests on stdin until it ends."""
    import stillhouse.demo
    import stillhouse.serve.ask  # noqa: F401 - both are imported once, here
    from stillhouse import models
    from stillhouse.text import corpus

    models.load(model)
    corpus.anchors(1), corpus.held_out(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(_answer(json.loads(line)))) + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> Done:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(request, out_write, err_write)
    os.close(out_write)
    os.close(err_write)
    at = Signal(**request["at"]) if request["at"] else None
    with _killed_if_too_long(pid):
        out, err = _read(pid, out_read, err_read, at)
        _, status = os.waitpid(pid, 0)
    return Done(os.waitstatus_to_exitcode(status), out, err)


def _become(request: dict[str, Any], out: int, err: int) -> None:
    """In the child: the command line, to its end."""
    from stillhouse import cli

    if request["to"]:
        out = os.open(request["to"], os.O_WRONLY)
    for theirs, ours in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(theirs, ours)
    os.closerange(3, 256)
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    code = 70
    try:
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        code = cli.main(request["argv"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:  # noqa: BLE001 - what escapes the command line is what a test looks for
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _read(pid: int, out: int, err: int, at: Signal | None) -> tuple[str, str]:
    """Everything the child writes; the signal goes out as soon as its line has come."""
    found = {out: b"", err: b""}
    waiting, seen = at, False
    while found.keys() - (closed := {fd for fd in found if found[fd].endswith(b"\xff")}):
        ready, _, _ = select.select([fd for fd in found if fd not in closed], [], [], 0.002)
        for fd in ready:
            found[fd] += os.read(fd, 65536) or b"\xff"  # never a byte of UTF-8
        seen = seen or (
            waiting is not None and any(x.startswith(waiting.line.encode()) for x in found[err].splitlines())
        )
        if waiting and seen and (not waiting.glob or any(Path(waiting.folder).glob(waiting.glob))):
            os.kill(pid, waiting.number)
            waiting = None
    for fd in found:
        os.close(fd)
    return found[out][:-1].decode(), found[err][:-1].decode()


@contextlib.contextmanager
def _killed_if_too_long(pid: int) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        if not over.wait(LONGEST):
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fast(steps: int = 6) -> list[str]:
    """Settings for a consolidation of a few seconds: what it learns does not matter."""
    values: dict[str, object] = {
        "capture.wordings": 3, "capture.rounds": 0, "capture.unknown_per_statement": 2, "capture.decoys": 6,
        "capture.anchor_texts": 4, "capture.anchor_prompts": 2, "train.steps": steps, "train.rank": 4,
        "train.warmup": 1, "train.facts": 4, "train.unknowns": 2, "train.anchors": 2, "train.checkpoint_every": 2,
        "train.mastered": 0.0, "gate.gates": '["recall", "unknown"]',
    }  # fmt: skip
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


if __name__ == "__main__":
    serve(sys.argv[1])
