"""A capture shared out among processes; the bytes are those that one process would write.

In: where a local teacher comes from, examples, settings, a folder. Out: nothing but the shards in it: every process
makes those of its own share with the same function, and whoever captures afterwards finds them there. Each process
holds a teacher of its own (on one accelerator each, where there are several) and ends with the one that started it.

Run as `python -m stillhouse.capture._workers`, it is one of those processes: its work is a line of JSON on stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import as_dict, resolve
from ..errors import InputError, ModelError, StillhouseError
from ..models import Device
from ..records import canonical, from_mapping
from . import _quantised
from ._quantised import Bits
from ._settings import Config
from ._speech import Example
from ._voices import Local
from .prompts import OnStep, make, parts


@dataclass(frozen=True)
class Source:
    """Where a local teacher comes from: model references, a weight each."""

    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    device: Device = "auto"
    bits: Bits = 0
    cache: str = ""

    def open(self) -> Local:
        """Load it."""
        cache = Path(self.cache) if self.cache else None
        return Local.of(*(_quantised.load(m, self.bits, self.device, cache) for m in self.models), weights=self.weights)


def spread(
    source: Source,
    teacher: Local,
    examples: Sequence[Example],
    config: Config,
    folder: Path,
    workers: int,
    on_step: OnStep,
) -> None:
    """Make all shards in `folder`, this process with `teacher` being one of `workers`.

    Errors are those of `prompts.capture`, from whichever process had one first.
    """  # fmt: skip
    all_parts = parts(examples, config)
    workers = min(workers, len(all_parts))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        others = [stack.enter_context(_Process(source, config, folder, n)) for n in range(1, workers)]
        for n, other in enumerate(others, 1):
            other.send([(p.start, p.examples) for p in all_parts[n::workers]])
        for part in all_parts[::workers]:
            make(teacher, part, config, folder)
            on_step(len(part.examples), "")
        for other in others:
            other.join(on_step)


class _Process:
    """Another process with a share of the work."""

    def __init__(self, source: Source, config: Config, folder: Path, number: int):
        self.about = {
            "source": as_dict(source), "config": as_dict(config), "folder": str(folder.resolve()), "number": number,
            "threads": torch.get_num_threads(),
        }  # fmt: skip

    def __enter__(self) -> _Process:
        command = [sys.executable, "-m", "stillhouse.capture._workers"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def send(self, shards: Sequence[tuple[int, Sequence[Example]]]) -> None:
        assert self._child.stdin is not None, "it was opened"
        work = self.about | {"shards": [{"start": start, "examples": list(some)} for start, some in shards]}
        try:
            self._child.stdin.write(canonical(work) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; `join` says so

    def join(self, on_step: OnStep) -> None:
        """Wait until its share is done. Its error is raised here."""
        assert self._child.stdout is not None, "it was opened"
        for line in self._child.stdout:
            told = json.loads(line)
            if "error" in told:
                raise (InputError if told["input"] else ModelError)(told["error"])
            on_step(told["examples"], "")
        if (code := self._child.wait()) != 0:
            raise ModelError(f"a capture worker died (exit code {code}); run it again to go on, or use fewer workers")


def _work() -> None:
    """One share."""
    work: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_leash, daemon=True).start()
    torch.set_num_threads(work["threads"])  # the rounding of sums is that of the process that asks
    source = resolve(Source, work["source"])
    if source.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(work["number"] % torch.cuda.device_count())
    config, folder = resolve(Config, work["config"]), Path(work["folder"])
    try:
        teacher = source.open()
        torch.set_num_threads(work["threads"])
        for shard in work["shards"]:
            examples = [from_mapping(Example, e) for e in shard["examples"]]
            (part,) = parts(examples, config)
            make(teacher, type(part)(shard["start"], part.examples), config, folder)
            _say({"examples": len(examples)})
    except StillhouseError as error:
        _say({"error": str(error), "input": isinstance(error, InputError)})


def _leash() -> None:
    """End with the process that holds the other side of stdin."""
    sys.stdin.read()
    os._exit(1)


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _work()
