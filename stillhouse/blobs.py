"""Bytes by SHA-256 in a folder, and the one way a file is written here.

In: bytes or a file. Out: a digest, and the same bytes back, checked. A blob lies at `<root>/ab/abcdef…`; it is
written to a partial file in the same folder, synced, renamed, and the folder synced, so that a name either holds all
its bytes or does not exist. It does not know what the bytes mean or who still needs them (`store/`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import DiskFull, NotFound, StoreError

PARTIAL = ".partial-"  # every unfinished file or folder starts so; the store sweeps those that a killed process left

DIGEST = re.compile(r"[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 1 << 20


class Blobs:
    """Bytes by digest. Putting the same bytes twice stores them once; nothing is changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store `data`; returns its digest. A damaged blob of that name is replaced."""
        digest = hashlib.sha256(data).hexdigest()
        target = self._place(digest)
        if self._holds(target, digest):
            sync_folder(target.parent)  # another process may have renamed it and not yet synced
        else:
            write_atomic(target, data)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes, read in pieces; returns their digest. `NotFound` if there is no such file."""
        if not Path(path).is_file():
            raise NotFound(f"there is no file {str(path)!r}")
        partial = new_partial(self.root)
        try:
            with writing(self.root):
                digest = _copy(Path(path), partial)
                target = self._place(digest)
                if not self._holds(target, digest):
                    partial.replace(target)
                sync_folder(target.parent)
        finally:
            discard(partial)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes. `NotFound` if missing, `StoreError` if they no longer match their digest."""
        data = self.path(digest).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"blob {digest[:12]} is damaged: its {len(data)} bytes have another digest; make it again")
        return data

    def path(self, digest: str) -> Path:
        """Where the bytes lie, for memory-mapping; unchecked. `NotFound` if missing."""
        if not DIGEST.fullmatch(digest):
            raise NotFound(f"there is no blob {digest[:80]!r}: a digest is 64 lower-case hexadecimal digits")
        path = self.root / digest[:2] / digest
        if not path.is_file():
            raise NotFound(f"there is no blob {digest} in {str(self.root)!r}")
        return path

    def __contains__(self, digest: object) -> bool:
        return (
            isinstance(digest, str)
            and DIGEST.fullmatch(digest) is not None
            and (self.root / digest[:2] / digest).is_file()
        )

    def __iter__(self) -> Iterator[str]:
        """All digests, sorted."""
        for folder in sorted(p for p in self.root.iterdir() if p.is_dir()):
            yield from sorted(p.name for p in folder.iterdir() if DIGEST.fullmatch(p.name))

    def verify(self) -> list[str]:
        """One line for each blob whose content does not match its name and each file that is no blob."""
        problems = []
        for path in sorted(self.root.rglob("*")):
            if path.is_dir() or path.name.startswith(PARTIAL):
                continue
            if not DIGEST.fullmatch(path.name) or path.parent != self.root / path.name[:2]:
                problems.append(f"blobs: {str(path.relative_to(self.root))!r} is not named by a digest")
            elif hash_file(path) != path.name:
                problems.append(f"blob {path.name}: content does not match its digest")
        return problems

    def remove(self, digest: str) -> None:
        """Delete a blob; one that is not there is no error."""
        if digest in self:
            path = self.root / digest[:2] / digest
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _place(self, digest: str) -> Path:
        folder = self.root / digest[:2]
        if not folder.is_dir():
            make_folder(folder)
        return folder / digest

    def _holds(self, target: Path, digest: str) -> bool:
        return target.is_file() and hash_file(target) == digest


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds all of `data`, or what it held before; durable on return.

    `StoreError` if it cannot be written, `DiskFull` when that is why; no partial file is left behind.
    """
    partial = new_partial(path.parent)
    try:
        with writing(path):
            write_synced(partial, data)
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        discard(partial)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it. The caller renames it, or the folder it lies in, into place."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create a folder with its parents; durable on return. `StoreError` if it cannot be created."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_partial(folder: Path) -> Path:
    """A name for an unfinished file of `folder`, which no other process has."""
    return folder / f"{PARTIAL}{uuid.uuid4().hex}"


def discard(path: Path) -> None:
    """Remove a partial file if it is there."""
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say an operating system's refusal to write below `path` as a `StoreError`, `DiskFull` where there is no room."""
    try:
        yield
    except OSError as error:
        if out_of_room(error):
            raise disk_full(path) from error
        line = f"cannot write {str(path)!r}: {error.strerror or error}; check the path and its permissions"
        raise StoreError(line) from error


def out_of_room(error: OSError) -> bool:
    """Whether the operating system refused for want of room: a full disk, a quota, a limit on the size of files."""
    return error.errno in _FULL


def disk_full(path: Path) -> DiskFull:
    """The error to raise where `path` could not be written for want of room."""
    return DiskFull(f"disk is full: {str(path)!r} could not be written; free some space and run the command again")


def _copy(source: Path, partial: Path) -> str:
    running = hashlib.sha256()
    with source.open("rb") as reader, partial.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            running.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return running.hexdigest()
