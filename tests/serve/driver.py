"""`stillhouse jobs batch --executor ray` with a cluster of its own on this machine, whose nodes take no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stillhouse.serve.jobs import ray
from stillhouse.serve.jobs.stdin import end_with_stdin
from tests.serve.child import say

NODE = (sys.executable, "-m", "tests.serve.node")


def main(home: Path) -> None:
    work = json.loads(sys.stdin.readline())
    end_with_stdin()
    json.dump(ray.consolidate(home, work, "local", say, NODE), sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--home") + 1]))
