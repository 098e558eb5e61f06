"""A child for `test_processes.py`: does what a piece of work says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from stillhouse.errors import InputError, StillhouseError
from stillhouse.processes import serve


class Private(StillhouseError):
    """An error that the other side does not know."""


def work(piece: dict[str, Any], report: Callable[[Any], None]) -> Any:
    what = piece["what"]
    if what == "print":
        sys.stdout.write('{"result": 13}\n')
        sys.stdout.flush()
        os.write(1, b"\xff{")
    if what == "report":
        for n in range(piece["n"]):
            report({"done": n, "text": "ü\n"})
    if what == "refuse":
        raise InputError("not this")
    if what == "private":
        raise Private("not that")
    if what == "bug":
        raise KeyError("nothing")
    if what == "kill":
        sys.stderr.write("out of memory\n\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        report(os.getpid())
        time.sleep(60)
    return {"pid": os.getpid(), "size": len(str(piece)), "pipe": os.environ.get("STILLHOUSE_PIPE")}


if __name__ == "__main__":
    serve(work)
