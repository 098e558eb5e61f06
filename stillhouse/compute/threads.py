"""How many of the processor's cores torch computes with, and which of the process's threads has them.

In: a model and the size of a batch; or nothing. Out: a scope in which torch computes with the faster number of threads,
or in which the calling thread computes alone. Whoever computes enters such a scope; loading a model chooses nothing.

Every thread of a process that runs a parallel operator of torch has OpenMP workers of its own. Once there are more
workers than cores, GNU's OpenMP lets them sleep between any two operators: a step of the engine then took 1.6 times as
long. So one thread computes in parallel, and the others keep to themselves.

It does not know what is computed.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Protocol, TypeVar

import torch
from transformers import PreTrainedModel

T = TypeVar("T")
CORES = torch.get_num_threads()  # what torch takes by itself, before anybody chose
SURE = 0.1  # seconds of a forward from which on more threads are never slower, and trying fewer takes long
ROUNDS = 3  # each tries both, in turns
FEW, MUCH = 16, 1.3  # tokens of a step; how much faster threads have to make it
_SOFT = 1  # omp_pause_soft (OpenMP 5.0, 3.6)
_GIVEN: ContextVar[bool] = ContextVar("_GIVEN", default=False)


class Timed(Protocol):
    """A network that can be timed, and a place to keep the result: a `models.Model`."""

    @property
    def network(self) -> PreTrainedModel: ...

    def once(self, name: str, make: Callable[[], T]) -> T: ...


@contextmanager
def kept_to(threads: int) -> Iterator[None]:
    """Inside, torch computes with so many threads, whatever would be faster: others have the other cores."""
    before, token = torch.get_num_threads(), _GIVEN.set(True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _GIVEN.reset(token)


@contextmanager
def fastest_threads(model: Timed, rows: int = 8, tokens: int = 24) -> Iterator[None]:
    """Inside, torch computes with the number of threads that is faster for a batch `[rows, tokens]`: one, or all.

    Small products lose by threads. The first scope for a size and a number format takes the time of a few forwards.
    Nothing changes on an accelerator, inside `kept_to`, or where OMP_NUM_THREADS says how many threads there are.
    """
    before = torch.get_num_threads()
    try:
        if _free(model):
            torch.set_num_threads(_fastest(model, rows, tokens))
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def for_steps(model: Timed, tokens: int) -> Iterator[None]:
    """Inside are steps of `tokens` tokens. Few of them keep to one thread unless all are much faster: where others use
    the cores too, every small operator waits until its last thread has one, and a step takes ten times as long."""
    before = torch.get_num_threads()
    try:
        if tokens <= FEW and before > 1 and _free(model):
            torch.set_num_threads(min(before, _fastest(model, FEW // 2, 1, worth=MUCH)))
        yield
    finally:
        torch.set_num_threads(before)


def _free(model: Timed) -> bool:
    """Whether the number of threads matters, and nobody has said how many there are."""
    return model.network.device.type == "cpu" and not _GIVEN.get() and "OMP_NUM_THREADS" not in os.environ


def _fastest(model: Timed, rows: int, tokens: int, worth: float = 1.0) -> int:
    """All threads, or one where `worth` times their time is no less than its time; timed once for a model."""
    name = f"threads for {rows} x {tokens} in {model.network.dtype}"
    return model.once(name, lambda: _try(model.network, rows, tokens, worth))


def _try(network: PreTrainedModel, rows: int, tokens: int, worth: float) -> int:
    best = dict.fromkeys((CORES, 1), float("inf"))
    if CORES > 1:
        _seconds(network, rows, tokens)  # the first forward is slower than any other
    for _ in range(ROUNDS if CORES > 1 else 0):
        for threads in best:
            torch.set_num_threads(threads)
            best[threads] = min(best[threads], _seconds(network, rows, tokens))
            if best[CORES] > SURE:
                return CORES
    return CORES if best[CORES] * worth <= best[1] else 1


class Threads:
    """One thread computes: with as many threads as forwards of up to `few` tokens are fastest with, and with all of
    them for larger ones."""

    def __init__(self) -> None:
        self._few = self._now = self._most = self._before = 0

    def measure(self, model: Timed, few: int) -> None:
        """Choose, for forwards from the calling thread."""
        self._before = self._before or torch.get_num_threads()
        self._most = few if _free(model) else 0
        if self._most:
            self._few = self._now = _fastest(model, few, 1)
            torch.set_num_threads(self._now)

    def prepare(self, tokens: int) -> None:
        """A forward of so many tokens is next."""
        wanted = self._few if tokens <= self._most else CORES
        if self._most and wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted

    def close(self) -> None:
        """Torch has as many threads as before `measure`."""
        if self._most:
            torch.set_num_threads(self._before)
        self._most = 0


@torch.inference_mode()
def _seconds(network: PreTrainedModel, rows: int, tokens: int) -> float:
    ids_BT = torch.ones(rows, tokens, dtype=torch.long, device=network.device)
    start = time.perf_counter()
    network(input_ids=ids_BT)
    return time.perf_counter() - start


def give_back_workers() -> None:
    """The calling thread's OpenMP workers end; its next parallel operator starts new ones."""
    openmp = _openmp()
    if openmp is not None and hasattr(openmp, "omp_pause_resource_all"):
        openmp.omp_pause_resource_all(_SOFT)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, torch's operators keep to the calling thread, and start no workers."""
    openmp = _openmp()
    if openmp is None:
        yield
        return
    before = torch.get_num_threads()  # asked for also because torch sets a thread's number at its first operator
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, where its names are to be seen by everyone."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "omp_set_num_threads") else None
