"""A cache of users' memories: each user's `MemoryStatus`, and the passages for a question.

In: the journal and the store. Out: `MemoryStatus` per user, and the user's own passages for a query within a budget of
tokens. An entry holds until the user states something or the champion moves. Any thread may call. It does not know
which route a request takes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..records import Version
from ..retrieve.lexical import LexicalIndex, within
from ..store import Store
from .log.journal import Journal
from .sessions import KINDS, MemoryStatus, memory_status, stated

MOST_USERS = 4096  # in the cache; the least recently used go first
MOST_PASSAGES = 64  # nearest to a query


@dataclass
class _Cached:
    """An entry: a user's status for one champion and one number of changes, and indexes made on demand."""

    champion: int | None
    changes: int
    status: MemoryStatus
    fresh: LexicalIndex | None = None
    whole: LexicalIndex | None = None


class UserMemories:
    """The memories of all users of one server, from the journal of its home."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal, self.store = journal, store
        self._lock = threading.Lock()
        self._changes: dict[str, int] = {}
        self._cache: OrderedDict[str, _Cached] = OrderedDict()

    def mark_changed(self, user: str) -> None:
        """Note that a user stated something, or that a session ended: what is cached of them is out of date."""
        with self._lock:
            self._changes[user] = self._changes.get(user, 0) + 1

    def forget(self, user: str) -> None:
        """Drop a user from the cache."""
        with self._lock:
            self._cache.pop(user, None)
            self._changes[user] = self._changes.get(user, 0) + 1

    def clear(self) -> None:
        """Drop everybody from the cache: the journal itself has changed."""
        with self._lock:
            for user in self._cache:
                self._changes[user] = self._changes.get(user, 0) + 1
            self._cache.clear()

    def status(self, user: str) -> MemoryStatus:
        """A user's memory compared with the champion. `StoreError`: journal or store are damaged."""
        return self._current(user).status

    def passages(
        self, user: str, query: str, prompt: str, tokens: int, count: Callable[[str], int], *, fresh: bool
    ) -> list[str]:
        """Statements of the user's, of at most `tokens` together: all where they fit, else the nearest to `query`.

        Those that stand in `prompt` already are left out. `fresh`: only those that the champion was not made of. They
        keep the order they were stated in. `count` returns the number of tokens of a text.
        """
        cached = self._current(user)
        texts = [text for text in _texts(cached.status, fresh) if text not in prompt]
        if sum(count(text) + 1 for text in texts[: tokens + 1]) <= tokens:  # a text is at least one token
            return texts
        nearest = self._index(cached, fresh).scored(query, MOST_PASSAGES)
        return [passage.text for passage in within([p for p in nearest if p.text not in prompt], tokens, count)]

    def _index(self, cached: _Cached, fresh: bool) -> LexicalIndex:
        index = cached.fresh if fresh else cached.whole
        if index is None:
            index = LexicalIndex(_texts(cached.status, fresh))
            if fresh:
                cached.fresh = index
            else:
                cached.whole = index
        return index

    def _current(self, user: str) -> _Cached:
        champion = self.store.champion(user)
        with self._lock:
            changes, cached = self._changes.get(user, 0), self._cache.get(user)
            if cached is not None and (cached.champion, cached.changes) == (_number(champion), changes):
                self._cache.move_to_end(user)
                return cached
        records = list(self.journal.records(*KINDS, user=user))
        versions = self.store.versions(user)
        cached = _Cached(_number(champion), changes, memory_status(records, versions, champion, self.store))
        with self._lock:
            self._cache[user] = cached
            while len(self._cache) > MOST_USERS:
                self._cache.popitem(last=False)
        return cached


def _number(version: Version | None) -> int | None:
    return version.number if version is not None else None


def _texts(status: MemoryStatus, fresh: bool) -> list[str]:
    return list(status.fresh) if fresh else stated(status.memory)
