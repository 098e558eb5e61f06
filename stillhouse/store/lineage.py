"""Where a record comes from: its parents, their parents, and the memory at the end.

In: a digest. Out: (kind, digest, one line) from the record back to the memory, nearest first. It reads manifests, not
the index, so it answers while the index is damaged.
"""

from __future__ import annotations

from typing import Any

from ..errors import NotFound
from ..records import Candidate, Signals, Verdict, Version
from .layout import Layout
from .manifests import KINDS

Step = tuple[str, str, str]

_ORDER = ("version", "verdict", "candidate", "signals", "memory")


def lineage(parts: Layout, digest: str) -> list[Step]:
    """All ancestors of a record, itself first. `NotFound` if there is no such record."""
    if _kind(parts, digest) is None:
        raise NotFound(f"there is no record {digest[:80]!r} in the store")
    steps: dict[str, Step] = {}
    waiting = [digest]
    while waiting:
        key = waiting.pop(0)
        if key not in steps:
            steps[key], parents = _step(parts, key)
            waiting += parents
    return sorted(steps.values(), key=lambda step: (step[1] != digest, _ORDER.index(step[0]), step[1]))


def summary(record: object) -> str:
    """One line about a record."""
    match record:
        case Signals() as s:
            size = f"{s.examples} examples, {s.positions} positions"
            return f"{size} from a memory of {s.memory_tokens} tokens, user {s.user!r}"
        case Candidate() as c:
            loss = f", last loss {c.losses[-1]:.4g}" if c.losses else ""
            return f"{c.kind}, {c.steps} steps{loss}" + (f", {c.best.line(c.steps)}" if c.best else "")
        case Verdict() as v:
            failed = [r.gate for r in v.results if not r.passed]
            return f"{'passed' if v.passed else 'rejected'}: {len(v.results)} gates" + (
                f", failed {failed}" if failed else ""
            )
        case Version() as v:
            judged = "approved" if v.approved else "rejected"
            return f"version {v.number} of {v.user!r} on {v.base_ref}, {judged}, {v.created}"
    return type(record).__name__


def _kind(parts: Layout, digest: str) -> str | None:
    return next((name for name in sorted(KINDS) if parts.manifests.path(name, digest).is_file()), None)


def _step(parts: Layout, digest: str) -> tuple[Step, list[str]]:
    name = _kind(parts, digest)
    if name is None:
        size = parts.blobs.path(digest).stat().st_size if digest in parts.blobs else None
        return ("memory", digest, f"{size} bytes" if size is not None else "its text is not kept"), []
    record: Any = parts.manifests.get(KINDS[name], digest)
    parents = [*record.parents]
    match record:
        case Version() as v:
            parents += [v.verdict, v.candidate]
        case Verdict() as v:
            parents.append(v.candidate)
        case Signals() as s:
            parents.append(s.memory)
    return (name, digest, summary(record)), parents
