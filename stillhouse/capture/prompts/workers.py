"""A capture shared among processes; they write the same bytes as one process would.

In: where a local teacher comes from, examples, settings, a folder. Out: the shards in the folder. Every process writes
the shards of its share with the same function, and the capture that follows reads them. Each process has a teacher of
its own, on one accelerator each where there are several, and ends with the process that started it.

Run as a module it is one of those processes: its work comes through `processes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...compute.threads import fastest_threads, kept_to
from ...config import as_dict, resolve
from ...models import Device
from ...processes import Process, python_module, serve
from ...records import from_mapping
from ...teachers import quantised
from ...teachers.examples import Example
from ...teachers.local import Local
from ...teachers.quantised import Bits
from ...teachers.settings import Config
from .dataset import OnStep, make, parts


@dataclass(frozen=True)
class TeacherSource:
    """Where a local teacher comes from: model references, and a weight for each."""

    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    device: Device = "auto"
    bits: Bits = 0
    home: str = ""

    def open(self) -> Local:
        """Load it."""
        home = Path(self.home) if self.home else None
        return Local.of(*(quantised.load(m, self.bits, self.device, home) for m in self.models), weights=self.weights)


def spread(
    source: TeacherSource,
    teacher: Local,
    examples: Sequence[Example],
    config: Config,
    folder: Path,
    workers: int,
    on_step: OnStep,
) -> None:
    """Write all shards into `folder` with `workers` processes. This process is one of them; its teacher is `teacher`.

    Errors are those of `prompts.capture`, of the process that fails first.
    """  # fmt: skip
    all_parts = parts(examples, config)
    workers = min(workers, len(all_parts))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(fastest_threads(teacher.text_model))
        about = {
            "source": as_dict(source), "config": as_dict(config), "folder": str(folder.resolve()),
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        others = [stack.enter_context(Process(python_module(__spec__.name))) for _ in range(1, workers)]
        for n, other in enumerate(others, 1):
            shards = [{"start": p.start, "examples": list(p.examples)} for p in all_parts[n::workers]]
            other.send(about | {"number": n, "shards": shards})
        for part in all_parts[::workers]:
            make(teacher, part, config, folder)
            on_step(len(part.examples), "")
        for other in others:
            for count in other.reports():
                on_step(count, "")


def _work(work: dict[str, Any], report: Callable[[Any], None]) -> None:
    """One share."""
    source = resolve(TeacherSource, work["source"])
    if source.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(work["number"] % torch.cuda.device_count())
    config, folder = resolve(Config, work["config"]), Path(work["folder"])
    with kept_to(work["threads"]):  # the rounding of sums is that of the process that asks
        teacher = source.open()
        for shard in work["shards"]:
            examples = [from_mapping(Example, e) for e in shard["examples"]]
            (part,) = parts(examples, config)
            make(teacher, type(part)(shard["start"], part.examples), config, folder)
            report(len(examples))


if __name__ == "__main__":
    serve(_work)
