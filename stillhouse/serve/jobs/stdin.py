"""A process that ends with the one that started it, however that one ends: its stdin is the leash.

In: a process whose stdin is a pipe that nobody writes to any more. Out: it exits at once (code 1) when the pipe closes.
"""

from __future__ import annotations

import os
import threading


def end_with_stdin() -> None:
    """End this process at once when whoever started it closes our stdin, or dies."""

    def watch() -> None:
        while os.read(0, 4096):
            continue
        os._exit(1)

    threading.Thread(target=watch, name="leash", daemon=True).start()
