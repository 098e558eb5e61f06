"""Progress of long work, on stderr: a bar per stage on a terminal, one line at its start and end anywhere else.

In: a stage's name, how many steps it has (None: not known), whether to show anything. Out: a `step` function that the
work calls. Stages may follow each other or nest; nested bars share one display. No thread is started: a bar is drawn
when a step is reported, so a process may fork between two steps, and Ctrl-C leaves the terminal as it was.

It does not know what a stage does, and stdout belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

REDRAW_SECONDS = 0.1
LINE_SECONDS: float | None = None  # without a terminal: how often a running stage says where it is; None: never

_display: ContextVar[Progress | None] = ContextVar("display", default=None)


class Step(Protocol):
    """Report that `n` steps are done; `note` replaces the text beside the bar when it is not empty."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(stage: str, total: int | None = None, enabled: bool = True) -> Iterator[Step]:
    """Show one stage while the block runs.

    An exception passes through; the display then says where the stage stopped.
    """
    if not enabled:
        yield _silent
    elif _is_terminal():
        with _bar(stage, total) as step:
            yield step
    else:
        with _lines(stage, total) as step:
            yield step


def _silent(n: int = 1, note: str = "") -> None:
    pass


def _is_terminal() -> bool:
    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


@contextmanager
def _lines(stage: str, total: int | None) -> Iterator[Step]:
    started, done, said = time.monotonic(), 0, ""
    written = started

    def step(n: int = 1, note: str = "") -> None:
        nonlocal done, said, written
        done, said = done + n, note or said
        if LINE_SECONDS is not None and time.monotonic() - written >= LINE_SECONDS:
            _write(end("at"))
            written = time.monotonic()

    def end(word: str) -> str:
        count = f"{done}/{total}" if total is not None else str(done)
        return f"{stage}: {word} {count} in {time.monotonic() - started:.1f} s" + (f"; {said}" if said else "")

    _write(f"{stage}: started" + (f", {total} steps" if total is not None else ""))
    try:
        yield step
    except BaseException:
        _write(end("stopped at"))
        raise
    _write(end("done,"))


def _write(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads stderr any more: the work goes on
        print(line, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _bar(stage: str, total: int | None) -> Iterator[Step]:
    with _shared() as display:
        task = display.add_task(stage, total=total, note="")
        drawn = time.monotonic()
        display.refresh()

        def step(n: int = 1, note: str = "") -> None:
            nonlocal drawn
            display.advance(task, n)
            if note:
                display.update(task, note=note)
            if time.monotonic() - drawn >= REDRAW_SECONDS:
                drawn = time.monotonic()
                display.refresh()

        try:
            yield step
        finally:
            display.stop_task(task)
            display.refresh()


@contextmanager
def _shared() -> Iterator[Progress]:
    """The display that is on the screen, or a new one that leaves with this block."""
    if (display := _display.get()) is not None:
        yield display
        return
    with _make() as display:
        token = _display.set(display)
        try:
            yield display
        finally:
            _display.reset(token)


def _make() -> Progress:
    return Progress(
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        console=Console(stderr=True),
        auto_refresh=False,
    )
