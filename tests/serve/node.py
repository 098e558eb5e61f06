"""A consolidation that takes no time, in the place of `stillhouse jobs batch` on a cluster's node.

It saves one version per user in the home it is given, and tells which others' champions it found there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillhouse.processes import serve
from stillhouse.store import Store
from tests.serve.child import TRAIN, row
from tests.store.samples import save


def main(home: Path) -> None:
    def work(batch: dict[str, Any], report: Callable[[Any], None]) -> dict[str, Any]:
        store = Store(home)
        others, calibrated = store.users(), sorted(p.name for p in (home / "calibration").glob("*"))
        report(TRAIN)
        rows = []
        for user, memory in batch["memories"].items():
            version = save(store, user=user, seed=memory)
            extra = {"version": version.number, "others": others, "calibrated": calibrated}
            rows.append(row(user, True, 16) | extra)
        return {"rows": rows}

    serve(work)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("--home") + 1]))
