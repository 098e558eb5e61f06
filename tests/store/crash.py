"""Run one action in a forked child again and again, and kill it before its 1st, 2nd, 3rd … step on disk.

Called as `python -m tests.store.crash HOME OUT ACTION`: copies HOME to OUT/1, OUT/2, … and lets a child die in each,
until one comes to its end. It never opens the index itself, so that the children inherit no threads.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillhouse.store import Store
from tests.store.samples import save

STEPS = ("replace", "rename", "unlink", "mkdir", "rmdir")  # what others can see; a sync changes nothing for them


def die_before(step: int) -> None:
    """End the process, as SIGKILL does, when it is about to take its `step`-th step."""
    taken = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step:
                os._exit(9)
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def act(home: Path, action: str, step: int) -> None:
    store = Store(home)
    die_before(step)
    if action == "save":
        save(store, seed="new")
    elif action == "forget":
        store.forget("alice")
    else:
        store.rollback("alice")


def main(home: Path, out: Path, action: str) -> None:
    step, status = 0, 1
    while status:
        step += 1
        copy = shutil.copytree(home, out / str(step))
        if not (child := os.fork()):
            act(copy, action, step)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {0, 9}, status


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
