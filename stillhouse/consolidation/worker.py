"""One of the processes that `consolidation/sharding.py` starts. It does stages for a share of the users.

In: pieces of work (`stillhouse/processes.py`), each with a stage, everybody's memories and the users of this share.
Out: what the stage stores, and reports of its steps. The model is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import models
from ..compute.allocator import kept_memory
from ..config import resolve
from ..models import Model
from ..processes import serve
from . import run
from .settings import Settings


def main() -> None:
    """Serve whoever started this process."""
    loaded: list[Model] = []

    def work(piece: dict[str, Any], report: Callable[[Any], None]) -> None:
        if not loaded:
            loaded.append(models.load(piece["model"], home=Path(piece["home"])))
        run.share(
            loaded[0], Path(piece["home"]), resolve(Settings, piece["settings"]), piece["memories"],
            piece["users"], piece["stage"], lambda n=1, note="": report((n, note)),
        )  # fmt: skip

    with kept_memory():
        serve(work)


if __name__ == "__main__":
    main()
