"""Bytes by SHA-256 in a folder.

In: bytes or a file. Out: a digest, and the same bytes back, checked. A blob lies at `<root>/ab/abcdef…`,
written as `files.py` writes, so that a name either holds all its bytes or does not exist.
It does not know what the bytes mean or who still needs them (`store/`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import NotFound, StoreError
from .files import (
    PARTIAL,
    copy_hashed,
    discard,
    hash_file,
    make_folder,
    new_partial,
    sync_folder,
    write_atomic,
    writing,
)

DIGEST = re.compile(r"[0-9a-f]{64}")


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
                digest = copy_hashed(Path(path), partial)
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
