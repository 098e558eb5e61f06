"""A consolidation that takes no time and goes wrong when told to, in the place of `stillhouse jobs batch`.

What happens to a user is written in their memory: "fail", "crash", "slow", "busy", "refuse", "rubbish" as words of it.
It notes its process id and its users in `--home`/started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillhouse.errors import Busy, InputError
from stillhouse.processes import serve

TRAIN = {"stage": "train", "user": "", "done": 0, "total": 200, "note": ""}


def main(home: Path) -> None:
    def work(batch: dict[str, Any], report: Callable[[Any], None]) -> dict[str, Any]:
        memories: dict[str, str] = batch["memories"]
        with (home / "started").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"pid": os.getpid(), "users": sorted(memories), "nice": batch["nice"]}) + "\n")
        report(TRAIN)
        go_wrong(" ".join(memories.values()))
        ranks = [int(s.split("=")[1]) for s in batch["settings"] if s.startswith("train.rank=")]
        rows = [row(user, "refuse" not in memory, (ranks or [16])[-1]) for user, memory in memories.items()]
        return {"rows": rows}

    serve(work)


def go_wrong(memory: str) -> None:
    """Do what the words of a memory say."""
    if "crash" in memory:
        sys.stderr.write("out of memory\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in memory:
        time.sleep(60)
    if "rubbish" in memory:
        os.write(1, b'{"result": {"rows": []}}\n\xff\n{"error"')
    if "fail" in memory:
        raise InputError("InputError: fail")
    if "busy" in memory:
        raise Busy("Busy: busy")


def row(user: str, approved: bool, rank: int) -> dict[str, object]:
    """What `stillhouse consolidate --json` says of a user."""
    return {
        "user": user, "version": 1, "approved": approved, "failed": [] if approved else ["recall"], "rank": rank,
        "memory_tokens": 10, "tokens_saved": 12, "coverage": 1.0, "seconds": {"train": 0.1},
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--home") + 1]))
