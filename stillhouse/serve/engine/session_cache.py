"""The keys and values of idle sessions, kept for their next turn. The least recently used are dropped first.

In: rows that a runner has saved, each under a key. Out: the row of a key, and how many tokens of a prompt it begins
with. This module does not know requests or time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...runners import SavedRow


class _Entry(NamedTuple):
    """A saved row with its tokens."""

    ids: tuple[int, ...]
    """The tokens, in their order."""
    saved: SavedRow
    """Their keys and values."""


@dataclass
class SessionCache:
    """Saved rows by key."""

    limit: int
    """Bytes that all rows may take."""
    bytes: int = 0
    """Bytes that they take now."""
    evicted: int = 0
    """Rows that were dropped for lack of room."""
    _entries: OrderedDict[Any, _Entry] = field(default_factory=OrderedDict)

    def put(self, key: Any, ids: Sequence[int], saved: SavedRow) -> None:
        """Keep the saved row of `ids` under `key`, in place of an earlier one. A row larger than `limit` is not
        kept."""
        assert saved.tokens == len(ids), "keys and values of exactly these tokens"
        self.drop(key)
        if saved.bytes <= self.limit:
            self._entries[key] = _Entry(tuple(ids), saved)
            self.bytes += saved.bytes
            self.shrink(self.limit)

    def take(self, key: Any, ids: Sequence[int]) -> tuple[SavedRow | None, int]:
        """The row under `key`, and how many leading `ids` it has; never all, for the last id is always read anew.
        Returns (None, 0) when it has none."""
        entry = self._entries.get(key)
        if entry is None:
            return None, 0
        self._entries.move_to_end(key)
        pairs = zip(entry.ids, ids[:-1], strict=False)
        count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(entry.ids), len(ids) - 1))
        return (entry.saved, count) if count else (None, 0)

    def drop(self, key: Any) -> None:
        """Drop the row under `key`, if there is one."""
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= entry.saved.bytes

    def bytes_of(self, match: Callable[[Any], bool]) -> int:
        """Bytes of the rows whose key satisfies `match`."""
        return sum(entry.saved.bytes for key, entry in list(self._entries.items()) if match(key))

    def drop_where(self, match: Callable[[Any], bool]) -> None:
        """Drop the rows whose key satisfies `match`."""
        for key in [k for k in self._entries if match(k)]:
            self.drop(key)

    def shrink(self, limit: int) -> None:
        """Drop the least recently used rows until the others take at most `limit` bytes."""
        while self.bytes > limit:
            self.drop(next(iter(self._entries)))
            self.evicted += 1

    def __contains__(self, key: Any) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
