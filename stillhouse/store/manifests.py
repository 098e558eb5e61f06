"""Records on disk: one canonical JSON file each, named by the record's digest. They are the truth of the store.

In: a record. Out: `<home>/manifests/<kind>/<digest>.json` = `{"format":1,"kind":…,"record":…}`, and the record back,
checked against its digest (docs/formats/store.md). A kind of record is a dataclass of `records.py` with `parents`.
It does not know the index, nor the folders in which versions lie.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from .. import records
from ..errors import InputError, NotFound, StoreError
from ..storage.files import make_folder, write_atomic

FORMAT = 1

R = TypeVar("R")

KINDS: dict[str, type[Any]] = {
    name.lower(): cast(type[Any], kind)
    for name, kind in vars(records).items()
    if dataclasses.is_dataclass(kind) and "parents" in {f.name for f in dataclasses.fields(kind)}
}
BLOBS = {
    "signals": ("shard", "study"),
    "candidate": ("adapter",),
}
"""The fields of a record that name a blob it cannot do without."""
SOURCES = {"signals": ("memory",)}
"""The fields of a record that name bytes which need not be kept as a blob."""

_SHORTEST_PREFIX = 6


def kind_of(record: object) -> str:
    """The folder name of a record's kind. `InputError` if it is no record with parents."""
    name = type(record).__name__.lower()
    if KINDS.get(name) is not type(record):
        raise InputError(
            f"{type(record).__name__} is not a record the store keeps; it keeps {', '.join(sorted(KINDS))}"
        )
    return name


def encode(record: object) -> bytes:
    """A record's manifest: canonical JSON with the version of the format and the kind."""
    return records.canonical({"format": FORMAT, "kind": kind_of(record), "record": record})


def decode(path: Path, kind: type[R]) -> tuple[str, R]:
    """Digest and record of a manifest. `StoreError` names the file and what is wrong with it."""
    where = f"manifest {path.parent.name}/{path.name}"
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{where} is not in the store") from None
    except ValueError as error:
        raise StoreError(
            f"{where} is cut off or not JSON ({error}); restore the file or make the record again"
        ) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("record"), dict):
        raise StoreError(f"{where} has no record in it; restore the file or make the record again")
    if raw.get("format") != FORMAT:
        raise StoreError(
            f"{where} has format {raw.get('format')!r}, this program reads {FORMAT}; use the one that wrote it"
        )
    if raw.get("kind") != kind.__name__.lower():
        raise StoreError(f"{where} says it is a {raw.get('kind')!r}, but lies among {kind.__name__.lower()!r}")
    return records.digest(raw["record"]), records.from_mapping(kind, raw["record"])


class Manifests:
    """All records of one home."""

    def __init__(self, home: Path) -> None:
        self.root = home / "manifests"
        for name in KINDS:
            make_folder(self.root / name)

    def path(self, kind: str, digest: str) -> Path:
        """Where a record's manifest lies, or would lie."""
        return self.root / kind / f"{digest}.json"

    def has(self, record: object) -> bool:
        """Whether this very record is stored whole."""
        path = self.path(kind_of(record), records.digest(record))
        return path.is_file() and path.read_bytes() == encode(record)

    def write(self, record: object) -> str:
        """Store a record; returns its digest."""
        digest = records.digest(record)
        write_atomic(self.path(kind_of(record), digest), encode(record))
        return digest

    def get(self, kind: type[R], digest: str) -> R:
        """A record by its whole digest. `NotFound`, or `StoreError` if the bytes do not match the digest."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise NotFound(f"there is no {kind.__name__.lower()} {digest[:80]!r}: a digest is 64 hexadecimal digits")
        path = self.path(kind.__name__.lower(), digest)
        if not path.is_file():
            raise NotFound(f"there is no {kind.__name__.lower()} {digest} in the store")
        actual, record = decode(path, kind)
        if actual != digest:
            raise StoreError(f"manifest {kind.__name__.lower()}/{digest}.json holds another record ({actual[:12]}…)")
        return record

    def digests(self, kind: str) -> list[str]:
        """Digests of all records of a kind, sorted. Files with other names are left to `verify`."""
        return sorted(p.stem for p in (self.root / kind).glob("*.json") if re.fullmatch(r"[0-9a-f]{64}", p.stem))

    def records(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """All records of a kind, by digest."""
        for digest in self.digests(kind.__name__.lower()):
            yield digest, self.get(kind, digest)

    def find(self, prefix: str) -> tuple[type, str, Any]:
        """Any record by the start of its digest: kind, digest, record. `NotFound` if none or several begin so."""
        if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},64}}", prefix):
            raise InputError(
                f"{prefix[:80]!r} is not the start of a digest: give {_SHORTEST_PREFIX} to 64 digits of 0-9a-f"
            )
        matches = [(name, d) for name in sorted(KINDS) for d in self.digests(name) if d.startswith(prefix)]
        if len(matches) != 1:
            several = f"{len(matches)} records begin so: " + ", ".join(f"{name} {d[:16]}" for name, d in matches[:8])
            raise NotFound(f"no single record {prefix!r}: {several if matches else 'none begins so'}")
        name, digest = matches[0]
        return KINDS[name], digest, self.get(KINDS[name], digest)

    def remove(self, kind: str, digest: str) -> None:
        """Delete a record; one that is not there is no error."""
        self.path(kind, digest).unlink(missing_ok=True)


def named_blobs(kind: str, record: object) -> set[str]:
    """Digests of all bytes that a record names, whether or not they have to be kept."""
    return {getattr(record, f) for f in (*BLOBS.get(kind, ()), *SOURCES.get(kind, ()))}
