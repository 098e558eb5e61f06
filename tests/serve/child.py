"""A consolidation that takes no time and goes wrong when told to, in the place of `stillhouse jobs batch`.

`--home DIR` is taken and ignored; what happens to a user is written in their memory: "fail", "crash", "slow", "busy",
"refuse" as words of it. It notes its process id and its users in DIR/started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from stillhouse.serve.jobs.stdin import end_with_stdin


def main(home: Path) -> None:
    work = json.loads(sys.stdin.readline())
    end_with_stdin()
    memories: dict[str, str] = work["memories"]
    with (home / "started").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": os.getpid(), "users": sorted(memories), "nice": work["nice"]}) + "\n")
    said = " ".join(memories.values())
    say("train: started, 200 steps")
    if "crash" in said:
        say("out of memory")
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in said:
        time.sleep(60)
    for word, kind in (("fail", "InputError"), ("busy", "Busy")):
        if word in said:
            json.dump({"kind": kind, "error": f"{kind}: {word}"}, sys.stdout)
            return
    ranks = [int(s.split("=")[1]) for s in work["settings"] if s.startswith("train.rank=")]
    rows = [row(user, "refuse" not in memory, (ranks or [16])[-1]) for user, memory in memories.items()]
    json.dump({"rows": rows}, sys.stdout)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def row(user: str, approved: bool, rank: int) -> dict[str, object]:
    """What `stillhouse consolidate --json` says of a user."""
    return {
        "user": user, "version": 1, "approved": approved, "failed": [] if approved else ["recall"], "rank": rank,
        "memory_tokens": 10, "tokens_saved": 12, "coverage": 1.0, "seconds": {"train": 0.1},
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--home") + 1]))
