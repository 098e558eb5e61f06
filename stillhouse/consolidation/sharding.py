"""Consolidations are shared among processes of one machine; the store ends up as if one process had done them all.

In: memories, a model reference, settings, how many processes. Out: nothing but what is in the store. Each process, this
one among them, captures, trains and gates its share of the users with the same functions (`run.share`). Whoever runs
the stages afterwards finds their results there. On a CPU two students train side by side faster than one on two cores.

It does not know what a stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from threading import Lock

from ..compute import memory
from ..compute.threads import CORES, kept_to
from ..config import as_dict
from ..errors import InputError
from ..models import Model
from ..prestart import PROCESS, environment
from ..processes import Process
from ..progress import Step
from .settings import Settings

Own = Callable[[Sequence[str], str, Step], None]  # does a stage for some users
ROOM = 0.5  # of the machine's memory, for all of them
LEAST = 3 << 29  # bytes of one process beside its weights: torch itself, batches of training
NEEDED = 4  # times the weights' bytes: themselves, packed copies, gradients


def processes(model: Model, users: int, wanted: int) -> int:
    """How many processes share so many users: `wanted` of them; 0: one for each core, as far as memory allows.

    It is one where an accelerator does the work. `InputError`: a negative number.
    """
    if wanted < 0:
        raise InputError(f"workers: {wanted} is not allowed; a number of processes, or 0 for as many as fit")
    if wanted:
        return min(wanted, users)
    if model.device.type != "cpu":
        return 1
    each = LEAST + NEEDED * model.network.get_memory_footprint()
    fitting = int(ROOM * memory.memory_bytes() / each)
    return max(1, min(CORES, users, fitting))


class Shares:
    """`count` processes, each with its share of the users, stage after stage. This process does the first share itself,
    by `own`."""

    def __init__(self, home: Path, ref: str, settings: Settings, memories: Mapping[str, str], count: int, own: Own):
        users = list(memories)
        cuts = [len(users) * n // count for n in range(count + 1)]
        self._shares = [users[start:end] for start, end in pairwise(cuts)]
        self._about = {"home": str(home), "model": ref, "settings": as_dict(settings), "memories": dict(memories)}
        self._threads, self._own = environment(CORES, count), own
        self._stack = ExitStack()

    @property
    def sizes(self) -> list[int]:
        """Users of each share."""
        return [len(share) for share in self._shares]

    def __enter__(self) -> Shares:
        self._others = [self._stack.enter_context(Process(PROCESS, self._threads)) for _ in self._shares[1:]]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, stage: str, step: Step) -> None:
        """Do one stage of every share. Raises the stage's errors, of whichever process had one first."""
        others: list[Future[None]] = []
        one_at_a_time = Lock()

        def report(n: int = 1, note: str = "") -> None:
            with one_at_a_time:
                step(n, note)

        def follow(process: Process) -> None:
            for n, note in process.reports():
                report(n, note)

        def own_step(n: int = 1, note: str = "") -> None:
            for other in others:
                if other.done():
                    other.result()  # its error ends this process's share too
            report(n, note)

        own, *theirs = self._shares
        for process, share in zip(self._others, theirs, strict=True):
            process.send(self._about | {"stage": stage, "users": share})
        with ThreadPoolExecutor(len(theirs)) as threads:
            others += [threads.submit(follow, process) for process in self._others]
            try:
                with kept_to(int(self._threads["OMP_NUM_THREADS"])):
                    self._own(own, stage, own_step)
                for other in others:
                    other.result()
            except BaseException:
                self._stack.close()  # the others' ends close, so their threads end
                raise
