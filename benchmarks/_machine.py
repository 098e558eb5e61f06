"""What every benchmark prints: the machine, a table of figures against their targets, times taken in turns.

In: figures and callables. Out: lines on stdout and an exit code: 1 when a figure misses its target. It does not know
what is measured.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Interval = tuple[float, float]
_FORMS = {"%": "{:.1%}", "%%": "{:.2%}", "s": "{:.2f} s", "x": "{:.2f}x", "B": "{:.1f} B", "": "{:.4g}"}


@dataclass(frozen=True)
class Figure:
    """One measured value. `unit` is one of % (a fraction), %% (the same, finer), s, x, B or nothing; `target` None: for
    information only."""

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = True
    interval: Interval | None = None  # 95 %
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the target is met; a value that is not a number meets none."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def machine() -> str:
    """One line: cores, CPU, torch, threads in use, Python."""
    return (
        f"machine: {os.cpu_count()} cores, {_cpu()}, {platform.system()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s), Python {platform.python_version()}"
    )


def table(figures: Sequence[Figure]) -> int:
    """Print figure, value, target and PASS or miss; the exit code."""
    rows = [("figure", "measured", "target", "", "")] + [_row(f) for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3].ljust(widths[3])]
        print("  ".join([*cells, row[4]]).rstrip())
    return int(not all(f.passed for f in figures))


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(a: Callable[[], object], b: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Wall seconds of `a` and of `b`, `rounds` times each, alternated; every other round begins with `b`."""
    took_a: list[float] = []
    took_b: list[float] = []
    for turn in range(rounds):
        both = [(a, took_a), (b, took_b)]
        for work, took in both if turn % 2 == 0 else reversed(both):
            took.append(seconds(work))
    return took_a, took_b


def spread(took: Sequence[float]) -> str:
    """Median and range of seconds."""
    return f"median {statistics.median(took):.2f} s of {len(took)} ({min(took):.2f} to {max(took):.2f})"


def _row(f: Figure) -> tuple[str, str, str, str, str]:
    form = _FORMS[f.unit]
    target = "" if f.target is None else f"{'>=' if f.at_least else '<='} {form.format(f.target)}"
    between = f"[{form.format(f.interval[0])}, {form.format(f.interval[1])}]" if f.interval else ""
    judged = "" if f.target is None else "PASS" if f.passed else "miss"
    return f.what, form.format(f.value), target, judged, "  ".join(filter(None, (between, f.note)))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
