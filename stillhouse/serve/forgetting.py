"""Forgetting a user everywhere in a home: jobs, versions and what they were made of, the journal, the events.

In: a home (or the server's open journal) and a user id. Out: how many of each were removed, and how many a new search
still finds (0). Forgetting may be repeated, so one that was cut off is simply run again. It does not know what has left
the home: exported adapters, backups, another user's words about this one.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from ..errors import Busy
from ..store import Store
from .jobs.queue import JobQueue
from .log.event_types import UserForgotten
from .log.events import EventLog
from .log.journal import Journal

_TICK = 0.1


def forget(home: Path, user: str, journal: Journal | None = None, wait: float = 30.0) -> dict[str, int]:
    """Remove everything of a user; returns counts by name. `Busy`: a consolidation of theirs is still running after
    `wait` seconds."""
    home = Path(home).expanduser()
    jobs, deadline = JobQueue(home), time.monotonic() + wait
    counts = {"jobs": jobs.forget(user)}
    while any(job.user == user for job in jobs.all(user, ended=0)):
        if time.monotonic() > deadline:
            raise Busy(f"a consolidation of {user!r} is still being stopped; try again in a while")
        time.sleep(_TICK)
        jobs.recover()
        jobs.forget(user)
    counts |= Store(home).forget(user, wait=max(0.0, deadline - time.monotonic()))
    if journal is not None:
        records = journal.forget(user)
    else:
        with Journal(home) as own:
            records = own.forget(user)
    events = EventLog(home)
    counts |= {"records": records["removed"], "events": events.forget(user)}
    counts["remaining"] += records["remaining"] + len(jobs.all(user))
    events.append(UserForgotten(hashlib.sha256(user.encode()).hexdigest(), sum(counts.values()) - counts["remaining"]))
    return counts
