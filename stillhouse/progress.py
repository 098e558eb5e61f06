"""Progress of long work: a bar on a terminal, two lines on any other stderr, or reports to whoever asked for them.

In: a stage's name, whose turn it is, how many steps it has (None: not known), and who is shown it. Out: a `step`
function that the work calls. Stages may follow each other or nest; nested bars share one display.

No thread is started. A bar is drawn when a step is reported, so a process may fork between two steps, and Ctrl-C leaves
the terminal as it was. What stands on stderr is for people, and no program reads it. A program gives a function that
takes a `Report`.

It does not know what a stage does, and stdout belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

REDRAW_SECONDS = 0.1
REPORT_SECONDS = 1.0

_display: ContextVar[Progress | None] = ContextVar("display", default=None)


@dataclass(frozen=True)
class Report:
    """How far a stage is, for a program."""

    stage: str
    """Name of the stage: capture, train, gate, ..."""
    user: str
    """Whose turn it is: a user's id, or for example "3 users"; may be empty."""
    done: int
    """Steps that are done."""
    total: int | None
    """Steps that there are; None: not known."""
    note: str
    """The newest text about the work, such as a loss; may be empty."""


Audience = bool | Callable[[Report], None]
"""Who is shown progress: True: people, on stderr; False: nobody; or a function that takes reports."""


class Step(Protocol):
    """Report that `n` steps are done; `note` replaces the text beside the bar when it is not empty."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(stage: str, total: int | None = None, to: Audience = True, *, user: str = "") -> Iterator[Step]:
    """Show one stage while the block runs; a function gets a `Report` at its start, every second, and at its end.

    An exception passes through; the display then says where the stage stopped.
    """
    if callable(to):
        shown = _reports(stage, user, total, to)
    elif not to:
        shown = _nothing()
    elif _is_terminal():
        shown = _bar(f"{stage} {user}".strip(), total)
    else:
        shown = _lines(f"{stage} {user}".strip(), total)
    with shown as step:
        yield step


def show_line(report: Report) -> None:
    """Show people a report that came from another process: a line on stderr."""
    count = f"{report.done}/{report.total}" if report.total is not None else str(report.done)
    _write(f"{report.stage} {report.user}".strip() + f": at {count}" + (f"; {report.note}" if report.note else ""))


@contextmanager
def _nothing() -> Iterator[Step]:
    def step(n: int = 1, note: str = "") -> None:
        pass

    yield step


@contextmanager
def _reports(stage: str, user: str, total: int | None, to: Callable[[Report], None]) -> Iterator[Step]:
    done, last_note, reported = 0, "", -REPORT_SECONDS

    def step(n: int = 1, note: str = "") -> None:
        nonlocal done, last_note
        done, last_note = done + n, note or last_note
        if time.monotonic() - reported >= REPORT_SECONDS:
            report()

    def report() -> None:
        nonlocal reported
        reported = time.monotonic()
        to(Report(stage, user, done, total, last_note))

    report()
    try:
        yield step
    finally:
        report()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


@contextmanager
def _lines(name: str, total: int | None) -> Iterator[Step]:
    started, done, last_note = time.monotonic(), 0, ""

    def step(n: int = 1, note: str = "") -> None:
        nonlocal done, last_note
        done, last_note = done + n, note or last_note

    def end(word: str) -> str:
        count = f"{done}/{total}" if total is not None else str(done)
        note = f"; {last_note}" if last_note else ""
        return f"{name}: {word} {count} in {time.monotonic() - started:.1f} s{note}"

    _write(f"{name}: started" + (f", {total} steps" if total is not None else ""))
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
def _bar(name: str, total: int | None) -> Iterator[Step]:
    with _shared() as display:
        task = display.add_task(name, total=total, note="")
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
