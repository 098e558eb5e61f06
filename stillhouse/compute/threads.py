"""How many of the processor's cores torch computes with, and which of the process's threads has them.

In: a network and the size of a batch; or nothing. Out: torch's number of threads is the faster one; or the calling
thread computes alone. Every thread of a process that runs a parallel operator of torch has OpenMP workers of its own,
and GNU's OpenMP, once there are more of all those than cores, lets them sleep between any two operators: a step of the
engine then took 1.6 times as long. So one thread computes in parallel, and the others keep to themselves.

It does not know what is computed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

CORES = torch.get_num_threads()  # what torch takes by itself, before anybody chose
SURE = 0.1  # seconds of a forward from which on more threads are never slower, and trying fewer takes long
ROUNDS = 3  # each tries both, in turns
FEW, MUCH = 16, 1.3  # tokens of a step; how much faster threads have to make it
_STEPS: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()
_SOFT = 1  # omp_pause_soft (OpenMP 5.0, 3.6)
_GIVEN: ContextVar[bool] = ContextVar("_GIVEN", default=False)


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


def _given() -> bool:
    """Whether somebody has said how many threads there are."""
    return _GIVEN.get() or "OMP_NUM_THREADS" in os.environ


def choose_threads(network: PreTrainedModel, rows: int = 8, tokens: int = 24) -> int:
    """On a CPU, keep the faster of one thread and all of them on a batch `[rows, tokens]` of this network: small
    products lose by threads. Returns how many threads there were before."""
    before = torch.get_num_threads()
    if network.device.type == "cpu" and not _given():
        torch.set_num_threads(_fastest(network, rows, tokens))
    return before


@contextmanager
def for_steps(network: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Inside are steps of `tokens` tokens. Few of them keep to one thread unless all are much faster: where others use
    the cores too, every small operator waits until its last thread has one, and a step takes ten times as long."""
    if network.device.type != "cpu" or _given() or tokens > FEW:
        yield
        return
    before = torch.get_num_threads()
    if network not in _STEPS:
        _STEPS[network] = _fastest(network, FEW // 2, 1, worth=MUCH) if before > 1 else 1
    torch.set_num_threads(min(before, _STEPS[network]))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(network: PreTrainedModel, rows: int, tokens: int, worth: float = 1.0) -> int:
    """All threads, or one where `worth` times their time is no less than its time."""
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
    them for larger ones. Whoever starts it keeps no workers."""

    def __init__(self) -> None:
        self._few = self._now = self._most = 0
        self._measured = threading.Event()

    def start(self, thread: threading.Thread) -> None:
        """Start the thread that calls `measure`, and wait until it has."""
        give_back_workers()
        thread.start()
        self._measured.wait()

    def measure(self, network: PreTrainedModel, few: int) -> None:
        """For forwards from the calling thread."""
        try:
            choose_threads(network, few, 1)
            self._most = few if network.device.type == "cpu" and not _given() else 0
            self._few = self._now = torch.get_num_threads()
        finally:
            self._measured.set()

    def prepare(self, tokens: int) -> None:
        """A forward of so many tokens is next."""
        wanted = self._few if tokens <= self._most else CORES
        if self._most and wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted


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
