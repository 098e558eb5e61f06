"""What idle sessions leave for their next turn: the keys and values of their tokens, least recently used first out.

In: rows that a runner has saved, by any key. Out: one of them, and how many tokens of a prompt it holds. It does not
know requests or time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...runners import SavedRow


class _Entry(NamedTuple):
    """A saved row and the tokens that it holds, in their order."""

    ids: tuple[int, ...]
    saved: SavedRow


@dataclass
class SessionCache:
    """Saved rows by key, at most `limit` bytes of them."""

    limit: int
    bytes: int = 0
    evicted: int = 0
    _entries: OrderedDict[Any, _Entry] = field(default_factory=OrderedDict)

    def put(self, key: Any, ids: Sequence[int], saved: SavedRow) -> None:
        """Keep a row that holds `ids` in place of what `key` had, if it fits at all."""
        assert saved.tokens == len(ids), "keys and values of exactly these tokens"
        self.drop(key)
        if saved.bytes <= self.limit:
            self._entries[key] = _Entry(tuple(ids), saved)
            self.bytes += saved.bytes
            self.shrink(self.limit)

    def take(self, key: Any, ids: Sequence[int]) -> tuple[SavedRow | None, int]:
        """What is kept under `key`, and how many of `ids`, from the first and never all, it holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None, 0
        self._entries.move_to_end(key)
        pairs = zip(entry.ids, ids[:-1], strict=False)
        count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(entry.ids), len(ids) - 1))
        return (entry.saved, count) if count else (None, 0)

    def drop(self, key: Any) -> None:
        """Forget what `key` had."""
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= entry.saved.bytes

    def bytes_of(self, match: Callable[[Any], bool]) -> int:
        """Bytes under the keys that `match(key)` is true of."""
        return sum(entry.saved.bytes for key, entry in list(self._entries.items()) if match(key))

    def drop_where(self, match: Callable[[Any], bool]) -> None:
        """Forget every key that `match(key)` is true of."""
        for key in [k for k in self._entries if match(k)]:
            self.drop(key)

    def shrink(self, limit: int) -> None:
        """Let the least recently used go until at most `limit` bytes are left."""
        while self.bytes > limit:
            self.drop(next(iter(self._entries)))
            self.evicted += 1

    def __contains__(self, key: Any) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
