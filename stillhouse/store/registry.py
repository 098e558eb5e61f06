"""The index: `<home>/registry.duckdb`, made from the manifests and made again from them at any time.

In: rows of records. Out: answers to SQL. DuckDB lets only one process open a file, even for reading. So the file is
opened for one transaction and closed. While another process has it open, opening is tried again, with back-off and
jitter, up to a deadline. It does not know manifests or folders; if the file is lost, nothing else is.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from ..errors import Busy, StoreError
from ..records import Candidate, Signals, Verdict, Version, canonical
from ..storage.files import PARTIAL, disk_full, sync_folder, writing
from ..storage.locks import DEADLINE, delays
from .champion import Alias
from .migrations import STEPS

Row = tuple[str, tuple[Any, ...]]  # table, values
R = TypeVar("R")

TABLES = ("signals", "candidates", "verdicts", "gate_results", "versions", "lineage", "aliases")

_KEYS = {"gate_results": 2, "lineage": 2, "aliases": 2}  # columns of the primary key, where it is not the first alone
_MOVES = "UPDATE SET number = excluded.number, since = excluded.since, why = excluded.why"
_BATCH = 200  # rows
_MAGIC = b"DUCK"  # at offset 8, after the checksum
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "autoinstall_known_extensions": False}


class Registry:
    """Short transactions on one DuckDB file. Callers queue on a lock of their own; it waits for other programs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Check by its first bytes that the file is a DuckDB file. `StoreError`: it is not."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            if file.read(12)[8:] != _MAGIC:
                raise _failure(self.path, "it does not begin like a DuckDB file")

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        with self._transaction() as db:
            return db.execute(sql, list(values)).fetchall()

    def insert(self, rows: Iterable[Row], wait: float = DEADLINE) -> None:
        """Add rows in one transaction. Records never change, so a row that is there stays; an alias moves."""
        with self._transaction(wait) as db:
            _insert(db, rows)

    def rows(self) -> set[Row]:
        """Everything in the index."""
        with self._transaction() as db:
            return {(table, row) for table in TABLES for row in db.execute(f"FROM {table}").fetchall()}

    def replace(self, rows: Iterable[Row]) -> int:
        """Replace the file, damaged or not, by a new index of `rows`; returns their number."""
        new = self.path.with_name(f"{PARTIAL}{uuid.uuid4().hex}.duckdb")
        try:
            fresh = Registry(new)
            fresh.insert(rows)
            count = len(fresh.rows())
            with writing(self.path):
                _write_ahead(self.path).unlink(missing_ok=True)  # the old file's; the new one must not replay it
                new.replace(self.path)
                sync_folder(self.path.parent)
        finally:
            new.unlink(missing_ok=True)
            _write_ahead(new).unlink(missing_ok=True)
        return count

    @contextlib.contextmanager
    def _transaction(self, wait: float = DEADLINE) -> Iterator[duckdb.DuckDBPyConnection]:
        db = self._opened(wait)
        try:
            db.execute("BEGIN")
            _migrate(db, self.path)
            yield db
            db.execute("COMMIT")
        except duckdb.Error as error:
            raise _failure(self.path, error) from error
        finally:
            with contextlib.suppress(duckdb.Error):  # a damaged file may fail again on closing: it was reported above
                db.close()

    def _opened(self, wait: float) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + wait
        for delay in delays():
            try:
                return duckdb.connect(str(self.path), config=_CONFIG)
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    raise _failure(self.path, error) from error
            if time.monotonic() >= deadline:
                raise Busy(f"another program has held {str(self.path)!r} open for {wait:.0f} s; close it and try again")
            time.sleep(delay)
        raise AssertionError("delays never end")


def rows_of(digest: str, record: object) -> list[Row]:
    """The index rows of one record."""
    parents = [(p, type(record).__name__.lower()) for p in dict.fromkeys(getattr(record, "parents", ()))]
    values: tuple[Any, ...]
    edges: list[Row] = [("lineage", (digest, parent, kind)) for parent, kind in parents]
    match record:
        case Signals() as s:
            counts = (s.examples, s.positions, s.memory_tokens)
            values = (digest, s.user, s.memory, s.base, s.shard, s.study, *counts, canonical(s.config).decode())
            return [("signals", values), *edges]
        case Candidate() as c:
            loss = c.losses[-1] if c.losses else None
            values = (digest, c.user, c.kind, c.base, c.adapter, c.steps, loss, canonical(c.config).decode())
            return [("candidates", values), *edges]
        case Verdict() as v:
            failed = ", ".join(r.gate for r in v.results if not r.passed)
            return [
                ("verdicts", (digest, v.candidate, v.passed, len(v.results), failed)),
                *(("gate_results", _result(digest, i, r)) for i, r in enumerate(v.results)),
                *edges,
            ]
        case Version() as v:
            values = (v.user, v.number, v.approved, v.candidate, v.verdict, v.base, v.base_ref, v.created)
            return [("versions", (digest, *values)), *edges]
    return edges


def alias_row(user: str, alias: Alias) -> list[Row]:
    """The index row of a user's champion; none while there is none."""
    if alias.number is None:
        return []
    last = alias.moves[-1] if alias.moves else {"when": None, "why": None}
    return [("aliases", (user, "champion", alias.number, last["when"], last["why"]))]


def _result(verdict: str, position: int, result: Any) -> tuple[Any, ...]:
    low, high = result.interval or (None, None)
    measured = (result.value, result.threshold, result.at_least, result.passed, result.n)
    return (verdict, position, result.gate, *measured, low, high, result.note)


def _insert(db: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> None:
    by_table: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}
    for table, values in rows:
        by_table.setdefault(table, {})[values[: _KEYS.get(table, 1)]] = values  # the last one of a key counts
    for table, by_key in by_table.items():
        many = list(by_key.values())
        conflict = _MOVES if table == "aliases" else "NOTHING"
        for start in range(0, len(many), _BATCH):  # one statement for many rows: ten times `executemany`'s speed
            some = many[start : start + _BATCH]
            marks = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
            db.execute(
                f"INSERT INTO {table} VALUES {marks} ON CONFLICT DO {conflict}", [v for row in some for v in row]
            )


def _migrate(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied TIMESTAMP DEFAULT now())")
    row = db.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()
    done = int(row[0]) if row else 0
    if done > len(STEPS):
        raise StoreError(
            f"{str(path)!r} has migration {done}, this program knows {len(STEPS)}; "
            "use the program that wrote it, or run `stillhouse store rebuild` to make the index again"
        )
    for number in range(done, len(STEPS)):
        db.execute(STEPS[number])
        db.execute("INSERT INTO migrations (number) VALUES (?)", [number + 1])


def _failure(path: Path, error: duckdb.Error | str) -> StoreError:
    text = " ".join(str(error).split())[:200]
    if "No space left" in text or "File too large" in text:
        return disk_full(path)
    return StoreError(f"the index {str(path)!r} is damaged ({text}); run `stillhouse store rebuild` to make it again")


def _write_ahead(path: Path) -> Path:
    return path.with_name(path.name + ".wal")
