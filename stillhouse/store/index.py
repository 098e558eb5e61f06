"""How the index follows manifests and folders: a note before each change, and one transaction for all that is due.

In: "this record is about to be written". Out: its rows in the index, once it is written. A note stays in
`<home>/pending/` until its rows are in the index. So the next process that indexes, opens or queries the store adds
what a killed process left out. Savers do not wait for each other: the one that gets the lock takes the notes of all. It
does not know how a record or a version is written.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import records
from ..errors import Busy, StoreError
from ..records import Version, canonical
from ..storage.files import discard, make_folder, writing
from ..storage.locks import DEADLINE, locked
from . import champion
from .manifests import KINDS, Manifests, decode
from .registry import Registry, Row, alias_row, rows_of
from .versions import VERSION_FILE, Versions

STALE = 3600.0  # seconds after which the remains of an unfinished write may be deleted

_ROUNDS = 4

Note = dict[str, Any]


class StoreIndex:
    """The registry of one home, together with the notes of what it still lacks."""

    def __init__(self, home: Path, manifests: Manifests, versions: Versions) -> None:
        self.registry = Registry(home / "registry.duckdb")
        self.pending = home / "pending"
        self._lock = home / "locks" / ".registry"
        self._manifests = manifests
        self._versions = versions
        make_folder(self.pending)

    def expect_record(self, record: object) -> None:
        """Note that a record is about to be written."""
        self._note({"kind": type(record).__name__.lower(), "digest": records.digest(record)})

    def expect_version(self, version: Version) -> None:
        """Note that a version folder is about to be renamed into place, perhaps in vain."""
        where = {"user": version.user, "number": version.number}
        self._note({"kind": "folder", "digest": records.digest(version), **where})

    def expect_alias(self, user: str, moves: int) -> None:
        """Note that a user's champion is about to move for the `moves`-th time."""
        self._note({"kind": "alias", "user": user, "moves": moves})

    def catch_up(self, wait: float = DEADLINE, outsiders: float = DEADLINE) -> None:
        """Index all that is due, in a few rounds, because other processes leave their notes to the one that indexes.

        `Busy` after `wait` seconds while another process indexes, or after `outsiders` seconds when another program
        holds the file open; `StoreError` when it is damaged.
        """
        if not self._due():
            return
        with self.exclusive(wait):
            for _ in range(_ROUNDS):
                noted = [(path, self._rows_due(path)) for path in self._due()]
                ready = [(path, rows) for path, rows in noted if rows is not None]
                if rows := [row for _, due in ready for row in due]:
                    self.registry.insert(rows, outsiders)
                for path, _ in ready:
                    discard(path)
                if not ready:
                    break

    def catch_up_soon(self) -> None:
        """Index what is due unless another process uses the index: then the notes stay for later."""
        with contextlib.suppress(Busy):
            self.catch_up(wait=0.0, outsiders=1.0)

    @contextlib.contextmanager
    def exclusive(self, wait: float = DEADLINE) -> Iterator[None]:
        """Hold the lock under which the index is changed."""
        with locked(self._lock, "the index is being written", wait=wait):
            yield

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, after the index has caught up."""
        self.catch_up()
        with self.exclusive():
            return self.registry.query(sql, values)

    def notes(self) -> Iterator[tuple[Path, Note]]:
        """Notes whose rows are not in the index yet. A note that is being written just now is left out."""
        for path in self._due():
            if note := _read(path):
                yield path, note

    def sweep(self) -> None:
        """Drop old notes of changes that never happened."""
        for path in self._due():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    discard(path)

    def _due(self) -> list[Path]:
        return sorted(self.pending.glob("*.json"))

    def _note(self, note: Note) -> None:
        path = self.pending / f"{uuid.uuid4().hex}.json"
        with writing(path):
            path.write_bytes(canonical(note))  # not synced: after a power cut `verify` finds what is missing

    def _rows_due(self, path: Path) -> list[Row] | None:
        """The rows of one note. None: its change has not happened yet; empty: it never will, or the note is damaged."""
        note = _read(path)
        if note is None:
            return None
        try:
            match note["kind"]:
                case "alias":
                    alias = champion.read(self._versions.folder(note["user"]))
                    return alias_row(note["user"], alias) if len(alias.moves) >= note["moves"] else None
                case "folder":
                    return self._rows_of_folder(note)
                case kind:
                    there = self._manifests.path(kind, note["digest"]).is_file()
                    return rows_of(note["digest"], self._manifests.get(KINDS[kind], note["digest"])) if there else None
        except StoreError:
            return []  # `verify` reports it; it must not stop the saves of others

    def _rows_of_folder(self, note: Note) -> list[Row] | None:
        path = self._versions.folder(note["user"]) / f"v{note['number']}" / VERSION_FILE
        if not path.is_file():
            return None
        digest, version = decode(path, Version)
        if digest != note["digest"]:
            return []  # another process got the number
        if not self._manifests.has(version):
            self._manifests.write(version)
        return rows_of(digest, version)


def _read(path: Path) -> Note | None:
    try:
        note = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return note if isinstance(note, dict) and note.get("kind") in {"alias", "folder", *KINDS} else None
