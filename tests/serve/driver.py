"""`stillhouse jobs batch --executor ray` with a cluster of its own on this machine, whose nodes take no time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillhouse.processes import serve
from stillhouse.serve.jobs import ray

NODE = (sys.executable, "-m", "tests.serve.node")


def main(home: Path) -> None:
    def work(batch: dict[str, Any], report: Callable[[Any], None]) -> dict[str, Any]:
        return ray.consolidate(home, batch, "local", lambda progress: report(asdict(progress)), NODE)

    serve(work)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--home") + 1]))
