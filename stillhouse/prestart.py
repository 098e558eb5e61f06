"""Processes that share users with this one are started early, before this one has imported torch.

In: the number of users, and of processes that are wanted. Out: a scope in which as many processes as will probably be
needed import torch while this process does. With 16 users on two cores that saves a twentieth of the whole command.

It imports nothing that takes long, and does not know what the processes are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import ahead, python_module

PROCESS = python_module("stillhouse.consolidation.worker")
MOST = 7  # processes beside this one: a guess
ACCELERATORS = ("nvidia0", "kfd", "accel")  # in /dev: one process does it all there


def environment(cores: int, count: int) -> dict[str, str]:
    """Environment of each of `count` processes that share the cores."""
    return {"OMP_NUM_THREADS": str(max(1, cores // count))}


@contextmanager
def started_ahead(users: int, workers: int) -> Iterator[None]:
    """Inside, the processes that will share so many users with this one are on their way.

    `workers` is how many processes are wanted, this one among them; 0: as many as there are cores. A process that turns
    out not to be needed costs some five seconds of another core.
    """
    cores = _cores()
    count = min(users, workers or cores, MOST + 1)
    if count < 2 or (not workers and any(Path("/dev", name).exists() for name in ACCELERATORS)):
        yield
        return
    with ahead(PROCESS, environment(cores, min(users, workers or cores)), count - 1):
        yield


def _cores() -> int:
    """Cores that this process may use: as many as OMP_NUM_THREADS says, or as the system gives it."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(wanted) if wanted.isdecimal() and int(wanted) else usable
