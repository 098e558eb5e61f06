"""Candidates with a verdict become versions: never lost, never renumbered, and served by an alias that moves.

In: records and bytes. Out: a home (docs/formats/store.md): blobs, manifests, version folders in PEFT's file names, one
champion per user, and a DuckDB index that can be made again from them. Manifests and folders are the truth. What a call
has returned survives a killed process and a power cut. It does not know how signals, candidates or verdicts are made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, NotFound, Rejected, StoreError
from ..records import Candidate, Verdict, Version, canonical, digest
from ..storage.files import make_folder, write_atomic
from ..storage.locks import locked, now
from . import champion, forget, lineage, rebuild, verify
from .champion import By
from .layout import open_layout
from .manifests import BLOBS, kind_of
from .names import check_user
from .versions import ADAPTER_FILE

R = TypeVar("R")


class Store:
    """One home. Any number of processes may use it at once."""

    def __init__(self, home: Path) -> None:
        """Open a home, or create it. `StoreError` if it is no folder, not writable, or from another version."""
        self.home = Path(home).expanduser()
        self._parts = open_layout(self.home)
        self.blobs = self._parts.blobs
        for user in forget.resume(self._parts):
            with contextlib.suppress(StoreError):  # another process does it, or `verify` says why it cannot be done
                forget.forget(self._parts, user, wait=0.0)
        with contextlib.suppress(StoreError):  # it may be late; errors are raised when the index is needed
            self._parts.index.catch_up(wait=0.0)

    def put(self, record: object) -> str:
        """Keep a record; returns its digest. `StoreError` if bytes it names are not in `blobs`. Repeating is free."""
        self._parts.index.registry.check()
        with self._parts.writing():
            self._write_record(record)
        return digest(record)

    def get(self, kind: type[R], digest: str) -> R:
        """A record by its digest. `NotFound`, or `StoreError` if it is damaged."""
        return self._parts.manifests.get(kind, digest)

    def find(self, prefix: str) -> tuple[type, str, Any]:
        """Any record by the start of its digest, 6 digits or more. `NotFound` names the ones that begin so."""
        return self._parts.manifests.find(prefix)

    def records(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """All records of a kind, with their digests."""
        return self._parts.manifests.records(kind)

    def save_version(
        self,
        candidate: Candidate,
        verdict: Verdict,
        files: Mapping[str, bytes],
        base_ref: str,
        parents: tuple[str, ...],
    ) -> Version:
        """Save a candidate with its verdict under the user's next number; approved, it becomes champion.

        Once this returns, nothing short of `forget` takes the version away; if the process dies first, there is either
        the whole version or none.
        """
        user = _checked_user(candidate, verdict, files)
        made = (digest(candidate), digest(verdict))
        draft = Version(user, 0, *made, candidate.base, base_ref, verdict.passed, now(), parents)
        self._parts.index.registry.check()
        champion.read(self._parts.versions.folder(user))
        with self._parts.writing():
            self.blobs.put(files[ADAPTER_FILE])
            self._write_record(candidate)
            self._write_record(verdict)
            version = self._parts.versions.add(draft, files, self._parts.index.expect_version)
            self._parts.manifests.write(version)
            if version.approved:
                self._move_champion(user, version.number, "passed all gates", "save")
        self._parts.index.catch_up_soon()
        return version

    def version_dir(self, user: str, number: int) -> Path:
        """The folder of one version, as PEFT loads it. `NotFound` lists the numbers there are."""
        return self._parts.versions.dir(user, number)

    def versions(self, user: str) -> list[Version]:
        """A user's versions, ascending, approved or not; read from the folders."""
        return [self._parts.versions.read(user, number) for number in self._parts.versions.numbers(user)]

    def champion(self, user: str) -> Version | None:
        """The version that is served, or None while there is none. `StoreError` if the alias is damaged."""
        number = champion.read(self._parts.versions.folder(user)).number
        return None if number is None else self._parts.versions.read(user, number)

    def moves(self, user: str) -> list[dict[str, Any]]:
        """How the champion moved: `from`, `to`, `when`, `why`, `by`; oldest first."""
        return list(champion.read(self._parts.versions.folder(user)).moves)

    def promote(self, user: str, number: int, why: str) -> Version:
        """Make a version champion. `NotFound`; `Rejected` if its gates refused it."""
        return self._make_champion(user, number, why, "promote")

    def rollback(self, user: str, to: int | None = None) -> Version:
        """Make the previous champion (or version `to`) champion again. `NotFound` if there is none; `Rejected`."""
        if to is None:
            to = champion.read(self._parts.versions.folder(user)).previous()
        if to is None:
            raise NotFound(f"user {user!r} has no earlier champion to roll back to; name a version to promote")
        return self._make_champion(user, to, "rolled back", "rollback")

    def users(self) -> list[str]:
        """Users with at least one version, sorted."""
        return self._parts.versions.users()

    @contextlib.contextmanager
    def lock(self, user: str, wait: float = 0.0) -> Iterator[None]:
        """Hold the lock of a user, whom one process at a time consolidates. `Busy` after `wait` seconds."""
        with locked(self._parts.lock_file(user), f"user {user!r} is being consolidated", wait=wait):
            yield

    def work(self, digest: str, users: Sequence[str] = ()) -> Path:
        """A folder for unfinished work, named by the digest of its inputs. `forget` finds it by its `users`."""
        if not digest.isascii() or not digest.replace("-", "").replace("_", "").isalnum() or len(digest) > 128:
            raise InputError(f"{digest[:80]!r} cannot name work: use the digest of its inputs")
        folder = self.home / "work" / digest
        make_folder(folder)
        if users:
            write_atomic(folder / forget.OWNER_FILE, canonical(sorted(map(check_user, users))))
        return folder

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask the index (tables: docs/formats/store.md). `StoreError` if it is damaged: rebuild it."""
        return self._parts.index.query(sql, values)

    def rebuild(self) -> int:
        """Make the index again from manifests and folders; returns its rows. Works however damaged the old one is."""
        return rebuild.rebuild(self._parts)

    def verify(self) -> list[str]:
        """Every problem, one line each; empty means clean. What a killed process left behind is mended."""
        return verify.verify(self._parts)

    def forget(self, user: str, wait: float = 0.0) -> dict[str, int]:
        """Remove everything of a user; counts by kind, and `remaining`: the matches of a new search (0).

        `Busy` after `wait` seconds while the user is being consolidated.
        """
        return forget.forget(self._parts, user, wait)

    def lineage(self, digest: str) -> list[tuple[str, str, str]]:
        """(kind, digest, one line) from a record back to the memory it came from."""
        return lineage.lineage(self._parts, digest)

    def _write_record(self, record: object) -> None:
        if self._parts.manifests.has(record):
            return
        kind = kind_of(record)
        for field in BLOBS.get(kind, ()):
            if getattr(record, field) not in self.blobs:
                raise StoreError(
                    f"{kind}: its {field} {getattr(record, field)[:80]!r} is not among the blobs; put the bytes first"
                )
        self._parts.index.expect_record(record)
        self._parts.manifests.write(record)

    def _move_champion(self, user: str, number: int, why: str, by: By) -> None:
        folder = self._parts.versions.folder(user)
        with self._parts.moving(user):
            current = champion.read(folder)
            if by == "save" and current.number is not None and current.number > number:
                return  # a later version, saved at the same time, came first
            self._parts.index.expect_alias(user, len(current.moves) + 1)
            champion.write(folder, current.moved(number, why, by))

    def _make_champion(self, user: str, number: int, why: str, by: By) -> Version:
        with self._parts.writing():
            version = self._parts.versions.read(user, number)
            if not version.approved:
                raise Rejected(
                    f"version {number} of {user!r} was rejected by its gates and is never served; choose another"
                )
            self._move_champion(user, number, why, by)
        self._parts.index.catch_up_soon()
        return version


def _checked_user(candidate: Candidate, verdict: Verdict, files: Mapping[str, bytes]) -> str:
    """The candidate's user. `StoreError` if verdict, adapter and candidate do not belong together."""
    if verdict.candidate != digest(candidate):
        raise StoreError(
            f"the verdict judges candidate {verdict.candidate[:16]}, not {digest(candidate)[:16]}; judge this one"
        )
    if ADAPTER_FILE not in files:
        raise NotFound(f"a version needs {ADAPTER_FILE!r}; there are only {sorted(files)}")
    if digest(bytes(files[ADAPTER_FILE])) != candidate.adapter:
        raise StoreError(
            f"{ADAPTER_FILE} is not the adapter {candidate.adapter[:16]} of candidate {digest(candidate)[:16]}"
        )
    return check_user(candidate.user)
