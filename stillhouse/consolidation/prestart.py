"""How processes that share a crowd's users are started, also before this one knows its model.

In: how many users, and how many processes were asked for. Out: a context in which as many as will probably be needed
import torch while this process does: with 16 users on two cores, a twentieth of the whole command. It imports nothing
that takes long, and does not know what they are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..processes import ahead, python_module

PROCESS = python_module("stillhouse.consolidation.worker")
MOST = 7  # on a guess
ACCELERATORS = ("nvidia0", "kfd", "accel")  # in /dev: one process does it all there


def environment(cores: int, count: int) -> dict[str, str]:
    """Of each of `count` processes."""
    return {"OMP_NUM_THREADS": str(max(1, cores // count))}


@contextmanager
def helpers(users: int, workers: int) -> Iterator[None]:
    """Inside, the processes that will share so many users with this one, where `workers` (0: nobody said) were asked
    for, are on their way. One that turns out not to be needed costs some five seconds of another core."""
    cores = _cores()
    count = min(users, workers or cores, MOST + 1)
    if count < 2 or (not workers and any(Path("/dev", name).exists() for name in ACCELERATORS)):
        yield
        return
    with ahead(PROCESS, environment(cores, min(users, workers or cores)), count - 1):
        yield


def _cores() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(said) if said.isdecimal() and int(said) else there
