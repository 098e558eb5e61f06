"""The one way a file is written here: partial file, sync, rename.

In: a path and bytes. Out: the file, whole and durable, or what stood there before. A partial file lies in the same
folder; it is synced, renamed, and the folder synced. Errors of the system become `StoreError`, `DiskFull` where
there is no room. It does not know what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import DiskFull, StoreError

PARTIAL = ".partial-"  # every unfinished file or folder starts so; the store sweeps those that a killed process left

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 1 << 20


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
    """Raise an `OSError` while writing below `path` as a `StoreError`, `DiskFull` where there is no room."""
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


def copy_hashed(source: Path, partial: Path) -> str:
    """Copy a file into a new one, durable on return; SHA-256 (hex) of its bytes."""
    running = hashlib.sha256()
    with source.open("rb") as reader, partial.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            running.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return running.hexdigest()
