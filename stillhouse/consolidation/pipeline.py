"""What the stages of one consolidation share: the store, the base, the settings, and who sees progress.

Every stage is a function from records to records. A stage's result is a record of the store. The digest of the stage's
inputs names the folder of its work (`stillhouse/work.py`), whose mark says which record that is. So a killed run is
simply run again.

It does not know which stages there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..models import Model
from ..progress import Audience, Step, progress
from ..records import canonical, digest
from ..store import Store
from ..work import Work
from .settings import Settings

R = TypeVar("R")
MARK = "result.json"


@dataclass(frozen=True)
class Pipeline:
    """One run of the stages with the same settings, for one user or for many."""

    store: Store
    """Where records, blobs and the folders of work are."""
    model: Model
    """The base."""
    settings: Settings
    """Of the stages, as they are for this base: the start of training and calibrated thresholds are in them."""
    show: Audience = False
    """Who sees progress."""
    note: str = ""
    """What progress says beside a user: the remedy that is tried, or the round of priming."""
    step: Step | None = None
    """Gets the progress in place of `show`, where another process shows it."""

    def work(self, kind: type[R], users: Sequence[str], inputs: Mapping[str, Any]) -> Work[R]:
        """The work whose result is the record of `kind` that these inputs give."""

        def load(mark: Path) -> R:
            return self.store.get(kind, str(json.loads(mark.read_bytes())["digest"]))

        return Work(self.store.work(digest(inputs), users) / MARK, load)

    def put(self, record: object) -> bytes:
        """Keep a record in the store. Returns the mark of the work that it is the result of."""
        return canonical({"digest": self.store.put(record)})

    @contextmanager
    def progress(self, stage: str, total: int | None, users: str = "") -> Iterator[Step]:
        """A bar for one stage. `total` is None where nobody knows how many steps it takes."""
        if self.step is not None:
            yield self.step
            return
        note = f"({self.note})" if self.note else ""
        with progress(stage, total, self.show, user=f"{users} {note}".strip()) as step:
            yield step
