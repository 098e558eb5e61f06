"""Checks what the store promises, and says in one line what does not hold.

In: the parts of a home. Out: problems; none means clean. What a killed process leaves behind is no problem and is
mended without a word: a version without its manifest, rows and aliases that the index lacks, partial files older than
an hour. It does not repair what is damaged.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..records import Candidate, Verdict, Version, digest
from ..storage.files import PARTIAL, hash_file
from . import champion
from .index import STALE
from .layout import Layout
from .manifests import BLOBS, KINDS, SOURCES, decode
from .rebuild import restore_manifests, true_rows
from .registry import Row
from .versions import ADAPTER_FILE, REQUIRED

Records = dict[str, dict[str, Any]]  # kind -> digest -> record


def verify(parts: Layout) -> list[str]:
    """All problems of a home, one line each."""
    with parts.writing():
        restore_manifests(parts)
        problems = _index(parts)
        records: Records = {name: {} for name in KINDS}
        problems += _manifests(parts, records)
        problems += parts.blobs.verify()
        problems += [line for name in records for line in _references(parts, records, name)]
        problems += _numbers(parts, records)
        for folder in parts.versions.folders():
            problems += _user(parts, records, folder)
        problems += _unfinished(parts)
        _sweep(parts)
    return problems


def _index(parts: Layout) -> list[str]:
    try:
        parts.index.catch_up()
        with parts.index.exclusive():
            indexed = parts.index.registry.rows()  # read before the manifests: a row is written after its manifest
            true = set(true_rows(parts))
            if missing := sorted(true - indexed, key=repr):
                parts.index.registry.insert(missing)
    except StoreError as error:
        return [f"index: {error}"]
    return [_disagreement(row) for row in sorted(indexed - true, key=repr) if row[0] != "aliases"]


def _disagreement(row: Row) -> str:
    table, values = row
    return f"index: {table} row {str(values[0])[:16]} agrees with no manifest; run `stillhouse store rebuild`"


def _manifests(parts: Layout, records: Records) -> Iterator[str]:
    for name, kind in sorted(KINDS.items()):
        for path in sorted((parts.manifests.root / name).iterdir()):
            if path.name.startswith(PARTIAL):
                continue
            try:
                key, record = decode(path, kind)
            except StoreError as error:
                yield str(error)
                continue
            if path.name != f"{key}.json":
                yield f"manifest {name}/{path.name}: content does not match its digest"
            else:
                records[name][key] = record


def _references(parts: Layout, records: Records, name: str) -> Iterator[str]:
    known = {key for of_kind in records.values() for key in of_kind}
    known |= {getattr(r, f) for kind, fields in SOURCES.items() for r in records[kind].values() for f in fields}
    for key, record in records[name].items():
        for field in BLOBS.get(name, ()):
            if getattr(record, field) not in parts.blobs:
                yield f"{name} {key[:16]}: its {field} {getattr(record, field)[:16]} is not among the blobs"
        for parent in record.parents:
            if parent not in known and parent not in parts.blobs:
                yield f"{name} {key[:16]}: its parent {parent[:16]} is not in the store"


def _numbers(parts: Layout, records: Records) -> Iterator[str]:
    taken: dict[tuple[str, int], str] = {}
    for key, version in records["version"].items():
        place = (version.user, version.number)
        if place in taken:
            yield f"version {version.number} of {version.user!r} exists twice: {taken[place][:16]} and {key[:16]}"
        taken[place] = key
        if not (parts.versions.folder(version.user) / f"v{version.number}").is_dir():
            yield f"version {version.number} of {version.user!r}: its folder is gone; restore it or forget the user"


def _user(parts: Layout, records: Records, folder: Path) -> Iterator[str]:
    try:
        user = parts.versions.user_of(folder)
        numbers = parts.versions.numbers(user)
    except StoreError as error:
        if any(folder.iterdir()):
            yield str(error)
        return
    approved = set()
    for number in numbers:
        try:
            version = parts.versions.read(user, number)
        except StoreError as error:
            yield f"version {number} of {user!r}: {error}"
            continue
        approved |= {number} if version.approved else set()
        for line in _version(parts, records, version):
            yield f"version {number} of {user!r}: {line}"
    yield from _champion(user, folder, approved)


def _version(parts: Layout, records: Records, version: Version) -> Iterator[str]:
    folder = parts.versions.dir(version.user, version.number)
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        yield f"{', '.join(missing)} missing"
    if digest(version) not in records["version"]:
        yield "its manifest is damaged"
    candidate: Candidate | None = records["candidate"].get(version.candidate)
    verdict: Verdict | None = records["verdict"].get(version.verdict)
    if candidate is None:
        yield f"its candidate {version.candidate[:16]} is not in the store"
    elif ADAPTER_FILE not in missing and hash_file(folder / ADAPTER_FILE) != candidate.adapter:
        yield f"{ADAPTER_FILE} is not the adapter of its candidate {version.candidate[:16]}"
    if verdict is None:
        yield f"its verdict {version.verdict[:16]} is not in the store"
    elif verdict.passed != version.approved or verdict.candidate != version.candidate:
        yield f"its verdict {version.verdict[:16]} says otherwise"


def _champion(user: str, folder: Path, approved: set[int]) -> Iterator[str]:
    try:
        number = champion.read(folder).number
    except StoreError as error:
        yield str(error)
        return
    if number is not None and number not in approved:
        yield f"champion of {user!r} is version {number}, which is not an approved version; promote another"


def _unfinished(parts: Layout) -> Iterator[str]:
    for path in sorted((parts.home / "forgetting").glob("*")):
        if not path.name.startswith(PARTIAL):
            yield f"user {path.read_text()!r} is not wholly forgotten; run `stillhouse forget` again"


def _sweep(parts: Layout) -> None:
    for path in parts.home.rglob(f"{PARTIAL}*"):
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # finished meanwhile
        if age <= STALE:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    parts.index.sweep()
