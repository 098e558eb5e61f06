"""Forgetting a user: everything made from them is removed, and a search afterwards proves it.

In: the parts of a home and a user id. Out: how many of each thing were removed, and how many remain (0). A
note in `<home>/forgetting/` lasts from the first deletion to the last, so that the next opening finishes what a killed
process began. The index is made anew, because deleting rows leaves their bytes in the file. What stays: under the hash
of the user id, the highest version number used. It does not know journals outside the store, nor work folders that name
neither the user nor a digest of theirs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import Candidate, Signals, Verdict, Version
from ..storage.files import discard, sync_folder, write_atomic, writing
from ..storage.locks import locked
from .layout import Layout
from .manifests import KINDS, named_blobs
from .names import escape_user
from .rebuild import true_rows

OWNER_FILE = ".users.json"

_LONGEST_NOTE = 1 << 16  # bytes: work folders keep the digests of results in small files

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_REMOVAL = ("verdict", "version", "candidate", "signals")  # a verdict is known by its candidate, so it goes first


@dataclass(frozen=True)
class Belongings:
    """What belongs to one user."""

    records: dict[str, dict[str, Any]]
    """Kind -> digest -> record."""
    blobs: list[str]
    """Digests that no other user's record names."""
    versions: list[int]
    work: list[Path]
    """Folders of unfinished work."""
    notes: list[Path]
    """Notes of rows that the index still lacks."""

    def counts(self) -> dict[str, int]:
        """The number of each, by the names that `forget` reports."""
        kinds = {"signals": "signals", "candidate": "candidates", "verdict": "verdicts"}
        return {
            "versions": len(self.versions),
            **{plural: len(self.records[kind]) for kind, plural in kinds.items()},
            "blobs": len(self.blobs),
            "work": len(self.work),
        }


def forget(parts: Layout, user: str, wait: float = 0.0) -> dict[str, int]:
    """Remove a user. `Busy` while the user is being consolidated; a user without records is no error."""
    lock = parts.lock_file(user)
    with locked(lock, f"user {user!r} is being consolidated", wait=wait), parts.forgetting(), parts.index.exclusive():
        note = parts.home / "forgetting" / escape_user(user)
        mine = belongings(parts, user)
        write_atomic(note, user.encode())
        rows_before = _rows(parts)
        with writing(parts.home):
            _remove(parts, user, mine)
        rows = parts.index.registry.replace(list(true_rows(parts)))
        for suffix in ("", ".alias"):
            discard(parts.lock_file(user, suffix))
        discard(note)
        sync_folder(note.parent)
        left = belongings(parts, user)
        remaining = sum(left.counts().values()) + len(left.records["version"]) + len(left.notes)
        remaining += sum(digest in parts.blobs for digest in mine.blobs) + parts.versions.folder(user).exists()
    return {**mine.counts(), "rows": max(0, rows_before - rows), "remaining": remaining}


def resume(parts: Layout) -> Iterator[str]:
    """Users whose forgetting a killed process left unfinished."""
    for path in sorted((parts.home / "forgetting").iterdir()):
        if not path.name.startswith("."):
            yield path.read_text()


def belongings(parts: Layout, user: str) -> Belongings:
    """Everything of a user, searched for in the files themselves. `StoreError`: a manifest cannot be read."""
    everything = {name: dict(parts.manifests.records(kind)) for name, kind in KINDS.items()}
    candidates = {d for d, c in everything["candidate"].items() if c.user == user}
    mine = {
        name: {d: r for d, r in of_kind.items() if _is_of(r, user, candidates)} for name, of_kind in everything.items()
    }
    named: set[str] = set()
    others: set[str] = set()
    for name, of_kind in everything.items():
        for digest, record in of_kind.items():
            (named if digest in mine[name] else others).update(named_blobs(name, record))
    blobs = sorted(d for d in named - others if d in parts.blobs)
    digests = {digest for of_kind in mine.values() for digest in of_kind} | named
    work = [p for p in sorted((parts.home / "work").iterdir()) if p.name in digests or _is_work_of(p, user, digests)]
    notes = [p for p, note in parts.index.notes() if note.get("user") == user or note.get("digest") in digests]
    return Belongings(mine, blobs, parts.versions.numbers(user), work, notes)


def _remove(parts: Layout, user: str, mine: Belongings) -> None:
    parts.versions.retire(user)
    for path in mine.notes:
        discard(path)
    for digest in mine.blobs:
        parts.blobs.remove(digest)
    for folder in (*mine.work, parts.versions.folder(user)):
        if folder.exists():
            shutil.rmtree(folder)
    for kind in _REMOVAL:
        for digest in mine.records[kind]:
            parts.manifests.remove(kind, digest)
        sync_folder(parts.manifests.root / kind)
    sync_folder(parts.versions.root)


def _is_of(record: object, user: str, candidates: set[str]) -> bool:
    match record:
        case Signals() | Candidate() | Version():
            return record.user == user
        case Verdict():
            return record.candidate in candidates
    return False


def _is_work_of(folder: Path, user: str, digests: set[str]) -> bool:
    """Whether a work folder names the user as an owner, or one of the user's digests in a small file."""
    owners = folder / OWNER_FILE
    if owners.is_file() and user in json.loads(owners.read_bytes()):
        return True
    small = (p for p in folder.rglob("*") if p.is_file() and p.stat().st_size <= _LONGEST_NOTE)
    named = {digest for path in small for digest in _DIGEST.findall(path.read_bytes())}
    return not digests.isdisjoint(d.decode() for d in named)


def _rows(parts: Layout) -> int:
    return sum(1 for _ in true_rows(parts))
