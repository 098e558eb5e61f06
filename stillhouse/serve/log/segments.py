"""Segments: the files of the journal. They only grow, and are sealed when they are large or their writer has ended.

In: bytes of whole lines. Out: `<number>-<random>.open` while one process writes it under an exclusive `flock`, and
`<number>-<random>.jsonl` once it is sealed, read-only. Numbers rise, so that sorted names are in order whatever the
clock says. A segment whose writer was killed is cut after its last whole line and sealed by the next process that
opens the folder. It does not know what a line means.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import StoreError
from ...storage.files import sync_folder, write_synced, writing
from .jsonl import decode, intact_length

OPEN, SEALED = ".open", ".jsonl"


class Segment:
    """The one segment that this process writes. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        """Begin a new segment. `StoreError` if the folder cannot be written."""
        with writing(folder):
            self.path, self._fd = _create(folder)
            sync_folder(folder)
        self.size = 0
        self._torn = False

    def write(self, data: bytes) -> None:
        """Append whole lines; durable on return. `StoreError` (disk full, …) leaves what was there before."""
        try:
            with writing(self.path):
                _write_all(self._fd, data)
                os.fsync(self._fd)
        except StoreError:
            self._truncate()
            raise
        self.size += len(data)

    def seal(self) -> Path | None:
        """End it; returns the sealed file, or None if nothing was ever written (or its end waits for `recover`)."""
        try:
            with writing(self.path):
                return None if self._torn else _seal(self.path, self._fd)
        finally:
            os.close(self._fd)

    def _truncate(self) -> None:
        """Back to the last acknowledged line."""
        try:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
        except OSError:
            self._torn = True


def recover(folder: Path) -> list[Path]:
    """Seal what killed writers left open, torn ends cut off; returns the new sealed files."""
    sealed = []
    for path in sorted(folder.glob(f"*{OPEN}")):
        with contextlib.suppress(FileNotFoundError), writing(path), _unowned(path) as fd:
            if fd is not None:
                os.ftruncate(fd, intact_length(path.read_bytes()))
                os.fsync(fd)
                sealed += [made] if (made := _seal(path, fd)) else []
    return sealed


def segments(folder: Path) -> list[Path]:
    """All segments, sealed and open, oldest first."""
    return sorted([*folder.glob(f"*{SEALED}"), *folder.glob(f"*{OPEN}")])


def lines(path: Path, matches: Callable[[bytes], bool] = lambda line: True) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the whole lines for which `matches` is true. `StoreError`: one in a sealed segment is damaged.

    An open segment ends with the last line its writer has written whole. A segment that is sealed meanwhile is read
    under its new name; one that is deleted meanwhile has no lines.
    """
    with contextlib.suppress(FileNotFoundError), _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not matches(line):
                continue
            if not line.endswith(b"\n") or decode(line) is None:
                if path.suffix == OPEN:
                    return
                raise StoreError(
                    f"{str(path)!r}: line {number} is damaged; restore the file from a copy, or delete that line"
                )
            yield number, line


def rewrite(path: Path, keep: Callable[[bytes], bool]) -> int:
    """Remove the lines of a sealed segment for which `keep` is false, or all of it; returns how many were removed."""
    before = path.read_bytes().splitlines(keepends=True)
    after = [line for line in before if keep(line)]
    if len(after) < len(before):
        with writing(path):
            _replace(path, b"".join(after))
    return len(before) - len(after)


def _replace(path: Path, data: bytes) -> None:
    if not data:
        path.unlink()
    else:
        partial = path.with_name(f".partial-{uuid.uuid4().hex}")
        try:
            write_synced(partial, data)
            partial.chmod(0o400)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _create(folder: Path) -> tuple[Path, int]:
    while True:
        number = 1 + max((int(p.name.split("-")[0]) for p in segments(folder)), default=0)
        path = folder / f"{number:08d}-{uuid.uuid4().hex[:8]}{OPEN}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return path, fd
        os.close(fd)  # another process took it for one that a dead writer had left


@contextlib.contextmanager
def _unowned(path: Path) -> Iterator[int | None]:
    """The descriptor of the file, locked; None while its writer lives, or once it has another name."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd if path.exists() else None
    except BlockingIOError:
        yield None
    finally:
        os.close(fd)


def _seal(path: Path, fd: int) -> Path | None:
    if os.fstat(fd).st_size == 0:
        path.unlink()
        return None
    os.fchmod(fd, 0o400)
    sealed = path.with_suffix(SEALED)
    path.rename(sealed)
    sync_folder(path.parent)
    return sealed


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Iterator[bytes]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        file = path.with_suffix(SEALED).open("rb")
    with file:
        yield file


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
