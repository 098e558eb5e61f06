"""The index made again from the truth: manifests, version folders, champion files.

In: the parts of a home. Out: rows, and a new `registry.duckdb` in place of the old one, even if that is damaged. What
cannot be read is left out here and reported by `verify`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import StoreError
from . import champion
from .layout import Layout
from .manifests import KINDS
from .registry import Row, alias_row, rows_of


def rebuild(parts: Layout) -> int:
    """Replace the index; returns how many rows it has now."""
    with parts.writing():
        restore_manifests(parts)
        with parts.index.exclusive():
            return parts.index.registry.replace(list(true_rows(parts)))


def restore_manifests(parts: Layout) -> None:
    """Write the manifest of each version that was renamed into place by a process killed right after."""
    for folder in parts.versions.folders():
        with contextlib.suppress(StoreError):
            for version in parts.versions.of(folder):
                if not parts.manifests.has(version):
                    parts.manifests.write(version)


def true_rows(parts: Layout) -> Iterator[Row]:
    """The rows that the index should have."""
    for name, kind in sorted(KINDS.items()):
        for digest in parts.manifests.digests(name):
            with contextlib.suppress(StoreError):
                yield from rows_of(digest, parts.manifests.get(kind, digest))
    yield from alias_rows(parts)


def alias_rows(parts: Layout) -> Iterator[Row]:
    """The rows of all champions."""
    for folder in parts.versions.folders():
        with contextlib.suppress(StoreError):
            yield from alias_row(parts.versions.user_of(folder), champion.read(folder))
