"""Where each user stands, and the passages that answer a question, kept at hand until something changes.

In: the journal and the store. Out: `Standing` per user, and the user's own passages for a query within a budget of
tokens. Standing is worked out again when the user has stated something, or the champion has moved. Any thread may call.
It does not know which path a request takes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..records import Version
from ..retrieve.lexical import Index, within
from ..store import Store
from .log.journal import Journal
from .sessions import KINDS, Standing, standing, stated

MOST_USERS = 4096  # kept at hand
MOST_PASSAGES = 64


@dataclass
class _Cached:
    """What was worked out, and for which champion and how many changes it holds."""

    champion: int | None
    changes: int
    standing: Standing
    fresh: Index | None = None
    whole: Index | None = None


class UserMemories:
    """The memories of all users of one server."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal, self.store = journal, store
        self._lock = threading.Lock()
        self._changes: dict[str, int] = {}
        self._known: OrderedDict[str, _Cached] = OrderedDict()

    def changed(self, user: str) -> None:
        """The user has stated something, or a session ended."""
        with self._lock:
            self._changes[user] = self._changes.get(user, 0) + 1

    def forget(self, user: str) -> None:
        """Nothing of a user is kept at hand."""
        with self._lock:
            self._known.pop(user, None)
            self._changes[user] = self._changes.get(user, 0) + 1

    def clear(self) -> None:
        """Nothing of anybody is kept at hand: the journal itself has changed."""
        with self._lock:
            for user in self._known:
                self._changes[user] = self._changes.get(user, 0) + 1
            self._known.clear()

    def standing(self, user: str) -> Standing:
        """Where a user stands. `StoreError` where journal or store are damaged."""
        return self._current(user).standing

    def passages(
        self, user: str, query: str, said: str, tokens: int, count: Callable[[str], int], *, fresh: bool
    ) -> list[str]:
        """Statements of the user's, of at most `tokens` together: all where they fit, else the nearest to `query`.

        What stands in `said` already is left out. `fresh`: only those that the champion was not made of. They keep the
        order they were stated in.
        """
        known = self._current(user)
        texts = [text for text in _texts(known.standing, fresh) if text not in said]
        if sum(count(text) + 1 for text in texts[: tokens + 1]) <= tokens:  # a text is at least one token
            return texts
        found = self._index(known, fresh).scored(query, MOST_PASSAGES)
        return [passage.text for passage in within([p for p in found if p.text not in said], tokens, count)]

    def _index(self, known: _Cached, fresh: bool) -> Index:
        found = known.fresh if fresh else known.whole
        if found is None:
            found = Index(_texts(known.standing, fresh))
            if fresh:
                known.fresh = found
            else:
                known.whole = found
        return found

    def _current(self, user: str) -> _Cached:
        champion = self.store.champion(user)
        with self._lock:
            changes, known = self._changes.get(user, 0), self._known.get(user)
            if known is not None and (known.champion, known.changes) == (_number(champion), changes):
                self._known.move_to_end(user)
                return known
        records = list(self.journal.records(*KINDS, user=user))
        versions = self.store.versions(user)
        known = _Cached(_number(champion), changes, standing(records, versions, champion, self.store))
        with self._lock:
            self._known[user] = known
            while len(self._known) > MOST_USERS:
                self._known.popitem(last=False)
        return known


def _number(version: Version | None) -> int | None:
    return version.number if version is not None else None


def _texts(standing: Standing, fresh: bool) -> list[str]:
    return list(standing.fresh) if fresh else stated(standing.memory)
