"""A home: the folder of one store, its format version, and the parts in it.

In: a path. Out: a `Layout`, or `StoreError` that says why this folder cannot be one. It does not know what users do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..records import canonical
from ..storage.blobs import Blobs
from ..storage.files import make_folder, write_atomic, writing
from ..storage.locks import DEADLINE, locked
from .index import StoreIndex
from .manifests import Manifests
from .names import escape_user
from .versions import Versions

FORMAT = 1
BUCKET_FILE = "blobs.json"


@dataclass(frozen=True)
class Layout:
    """The parts of one home."""

    home: Path
    blobs: Blobs
    manifests: Manifests
    versions: Versions
    index: StoreIndex

    def lock_file(self, user: str, suffix: str = "") -> Path:
        """The lock file of a user; suffixes begin with a dot, which no escaped name contains."""
        return self.home / "locks" / f"{escape_user(user)}{suffix}"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The lock of a process that adds something: several may hold it, and nothing is forgotten meanwhile."""
        with locked(self.home / "locks" / ".store", "the store is being cleaned", shared=True):
            yield

    @contextlib.contextmanager
    def forgetting(self, wait: float = DEADLINE) -> Iterator[None]:
        """The lock of the process that removes something: it alone holds it, and nothing is added meanwhile."""
        with locked(self.home / "locks" / ".store", "the store is being written", wait=wait):
            yield

    @contextlib.contextmanager
    def moving(self, user: str) -> Iterator[None]:
        """The lock under which a user's champion moves."""
        with locked(self.lock_file(user, ".alias"), f"the champion of {user!r} is being moved"):
            yield


def open_layout(home: Path) -> Layout:
    """Open a home, or create it. `StoreError` if it is no folder, not writable, or from another version."""
    if home.exists() and not home.is_dir():
        raise StoreError(f"{str(home)!r} is a file; a home is a folder: choose another with --home")
    with writing(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds what people wrote about themselves
    _check_format(home / "FORMAT")
    for name in ("locks", "work", "forgetting"):
        make_folder(home / name)
    manifests, versions = Manifests(home), Versions(home)
    return Layout(home, open_blobs(home), manifests, versions, StoreIndex(home, manifests, versions))


def open_blobs(home: Path) -> Blobs:
    """Where a home keeps its bytes: in its own folder, or in the bucket that `blobs.json` names."""
    url = bucket(home)
    if url is None:
        return Blobs(home / "blobs")
    from ..storage.bucket import BucketBlobs

    return BucketBlobs(home / "blobs", url)


def bucket(home: Path) -> str | None:
    """The bucket of a home; None where it has none. `StoreError` if `blobs.json` is damaged."""
    path = home / BUCKET_FILE
    try:
        return str(json.loads(path.read_bytes())["url"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise StoreError(f'{str(path)!r} is damaged; write {{"format": 1, "url": "s3://…"}} into it') from None


def use_bucket(home: Path, url: str) -> int:
    """Send every blob of a home to a bucket and keep them there from now on; returns how many there are.

    May be repeated, and cut off: the home changes over once the bucket has them all. `InputError`, `StoreError`.
    """
    from ..storage.bucket import BucketBlobs

    here, there = open_blobs(home), BucketBlobs(home / "blobs", url)
    digests = list(here)
    for digest in digests:
        there.put_file(here.path(digest))
    write_atomic(home / BUCKET_FILE, canonical({"format": FORMAT, "url": url}))
    return len(digests)


def _check_format(path: Path) -> None:
    if not path.exists():
        write_atomic(path, json.dumps({"format": FORMAT, "what": "Stillhouse store"}).encode() + b"\n")
    try:
        version = json.loads(path.read_bytes())["format"]
    except (ValueError, TypeError, KeyError):
        raise StoreError(
            f'{str(path)!r} is damaged; if this is a Stillhouse home, write {{"format": 1}} into it'
        ) from None
    if version != FORMAT:
        raise StoreError(
            f"{str(path.parent)!r} has format {version!r}, this program reads {FORMAT}; "
            "use the program that wrote it, or another home with --home"
        )
