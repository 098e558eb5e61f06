"""One of the processes that `consolidation/sharding.py` starts: stages of the pipeline for a share of the users.

In: lines of JSON with a stage, everybody's memories and the users of this share. Out: what the stage stores, and its
steps as they are done. The model is loaded once.
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
            loaded.append(models.load(piece["model"], cache=Path(piece["home"]) / "fingerprints.json"))
        run.share(
            loaded[0], Path(piece["home"]), resolve(Settings, piece["settings"]), piece["memories"],
            piece["users"], piece["stage"], lambda n=1, note="": report((n, note)),
        )  # fmt: skip

    with kept_memory():
        serve(work)


if __name__ == "__main__":
    main()
