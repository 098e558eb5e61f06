"""Adapters on their three shelves: cold in the store, warm in host memory, hot in a slot of the runner.

In: a store and the runner of the base that is served. Out: `Library.load`, cold to warm, for any thread but the
engine's: it checks everything and blocks nobody; and `AdapterSlots.place`, warm to hot, which the engine asks for and
a thread beside it does.
Both let the least recently used go: by bytes, and by slots. A version never changes, so a new champion is another key,
and requests that run finish on the one they began with. What is damaged, tampered with, not finite, or made for another
base is refused.

It does not know requests, batches or HTTP.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...compute.threads import alone
from ...errors import ModelError, NotFound, Rejected, StillhouseError, StoreError
from ...export import peft
from ...models import TextModel
from ...records import Candidate, Version
from ...runners import Config, Runner
from ...store import Store
from ..ask import check_base
from ..log.event_types import AdapterMoved


@dataclass(frozen=True)
class Key:
    """A user's version: what it names never changes."""

    user: str
    number: int


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked adapter in host memory, as `Runner.load` takes it."""

    key: Key
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())


def _ignore(fact: AdapterMoved) -> None:
    """Nobody listens."""


class Library:
    """Warm adapters, at most `limit` bytes of them, and the way there from the store. Any thread may call."""

    def __init__(
        self, store: Store, runner: Runner, limit: int, tell: Callable[[AdapterMoved], None] = _ignore
    ) -> None:
        """`tell` hears of every adapter that is warmed, let go or refused."""
        self.store, self.runner, self.limit, self._tell = store, runner, limit, tell
        self.bytes = self.loads = self.hits = self.evictions = 0
        self.refused: OrderedDict[Key, StillhouseError] = OrderedDict()
        self._warm: OrderedDict[Key, Adapter] = OrderedDict()
        self._lock = threading.Lock()

    def champion(self, user: str) -> tuple[Adapter | None, list[StillhouseError]]:
        """The adapter that serves `user`: the champion, or the newest earlier one that is whole; and what was refused.

        None while there is no champion, or nothing of the user's can be served.
        """
        refused: list[StillhouseError] = []
        try:
            for number in self._line(user):
                try:
                    return self.load(Key(user, number)), refused
                except StillhouseError as error:
                    refused.append(error)
        except StoreError as error:  # the alias itself is damaged
            refused.append(error)
        return None, refused

    def load(self, key: Key) -> Adapter:
        """One version, checked. `NotFound`, `Rejected`, `StoreError` (damaged, tampered with), `ModelError` (another
        base, another shape, not finite)."""
        with self._lock:
            if (found := self._warm.get(key)) is not None:
                self._warm.move_to_end(key)
                self.hits += 1
                return found
        start = time.monotonic()
        try:
            adapter = self._read(key)
        except StillhouseError as error:
            self._remember(key, error)
            raise
        with self._lock:
            self.loads += key not in self._warm
            gone = self._keep(adapter)
        self._tell(AdapterMoved(key.user, key.number, "warm", adapter.bytes, time.monotonic() - start))
        for other in gone:
            self._tell(AdapterMoved(other.key.user, other.key.number, "cold", other.bytes))
        return adapter

    def forget(self, user: str) -> None:
        """Let go of everything of a user's."""
        with self._lock:
            for key in [k for k in self._warm if k.user == user]:
                self.bytes -= self._warm.pop(key).bytes

    def _line(self, user: str) -> Iterator[int]:
        """Version numbers to try: the champion, then the champions before it, newest first."""
        champion = self.store.champion(user)
        if champion is None:
            return
        yield champion.number
        earlier = {int(move["to"]) for move in self.store.moves(user)} - {champion.number}
        yield from sorted((n for n in earlier if n < champion.number), reverse=True)

    def _version(self, key: Key) -> Version:
        champion = self.store.champion(key.user)
        if champion is not None and champion.number == key.number:
            return champion
        for version in self.store.versions(key.user):
            if version.number == key.number:
                return version
        self.store.version_dir(key.user, key.number)  # says which numbers there are
        raise NotFound(f"user {key.user!r} has no version {key.number}")

    def _read(self, key: Key) -> Adapter:
        version = self._version(key)
        if not version.approved:
            raise Rejected(f"v{key.number} of {key.user!r} was rejected by its gates and is never served")
        check_base(version, self.runner.model)
        folder = self.store.version_dir(key.user, key.number)
        candidate = self.store.get(Candidate, version.candidate)
        _check_bytes((folder / peft.WEIGHTS), candidate)
        tensors, config = peft.read(folder)
        if config != candidate.adapter_config:
            raise StoreError(f"{folder / peft.CONFIG} is not what was gated: restore it, or roll {key.user!r} back")
        with alone():
            for name, tensor in tensors.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise ModelError(f"v{key.number} of {key.user!r}: tensor {name!r} is not finite")
        self.runner.check(tensors, config)
        return Adapter(key, tensors, config)

    def _keep(self, adapter: Adapter) -> list[Adapter]:
        """Put it in; what had to go for it."""
        if (old := self._warm.pop(adapter.key, None)) is not None:
            self.bytes -= old.bytes
        self._warm[adapter.key] = adapter
        self.bytes += adapter.bytes
        gone = []
        while self.bytes > self.limit and len(self._warm) > 1:
            gone.append(self._warm.popitem(last=False)[1])
            self.bytes -= gone[-1].bytes
        self.evictions += len(gone)
        return gone

    def _remember(self, key: Key, error: StillhouseError) -> None:
        with self._lock:
            known = str(self.refused.get(key)) == str(error)
            self.refused[key] = error
            self.refused.move_to_end(key)
            while len(self.refused) > 100:
                self.refused.popitem(last=False)
        if not known:
            self._tell(AdapterMoved(key.user, key.number, "refused", note=str(error)))


@dataclass(frozen=True)
class Seat:
    """A slot of the runner. Not `ready`: the adapter is on its way there."""

    slot: int
    ready: bool


class AdapterSlots:
    """Which adapter lies in which slot of the runner. The engine's thread alone calls `place` and `arrived`.

    An adapter is brought to its slot by another thread, so that nobody who is being answered waits for it. `hits` are
    rows whose adapter was in a slot, or on its way there.
    """

    def __init__(self, runner: Runner, told: Callable[[Key, StillhouseError | None], None]) -> None:
        """`told(key, error)` is called from the other thread when a load has ended."""
        self.runner, self._told = runner, told
        self.hits = self.loads = self.evictions = 0
        self._slot: OrderedDict[Key, int] = OrderedDict()
        self._coming: set[Key] = set()
        self._carrier = ThreadPoolExecutor(1, "adapters")

    def place(self, adapter: Adapter, busy: Collection[Key]) -> Seat | None:
        """The slot of `adapter`, on its way there from now on if it was not; None while all are of `busy` keys."""
        key = adapter.key
        if key in self._slot:
            self._slot.move_to_end(key)
            self.hits += 1
            return Seat(self._slot[key], key not in self._coming)
        slot = self._free(busy)
        if slot is None:
            return None
        self._slot[key] = slot
        self._coming.add(key)
        self._carrier.submit(self._carry, slot, adapter)
        return Seat(slot, False)

    def arrived(self, key: Key, error: StillhouseError | None) -> None:
        """What `told` said: the slot is filled, or free again."""
        self._coming.discard(key)
        if error is None:
            self.loads += 1
        else:
            self._slot.pop(key, None)

    def forget(self, user: str) -> None:
        """A slot of a forgotten user is not found again. Its rows were cancelled before."""
        for key in [k for k in self._slot if k.user == user]:
            slot = self._slot.pop(key)
            self.runner.clear(slot)

    def close(self) -> None:
        """Wait for what is on its way."""
        self._carrier.shutdown()

    def __contains__(self, key: Key) -> bool:
        return key in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def _free(self, busy: Collection[Key]) -> int | None:
        if len(self._slot) < self.runner.slots:
            return min(set(range(self.runner.slots)) - set(self._slot.values()))
        for key in self._slot:
            if key not in busy and key not in self._coming:
                self.evictions += 1
                return self._slot.pop(key)
        return None

    def _carry(self, slot: int, adapter: Adapter) -> None:
        error: StillhouseError | None = None
        try:
            self.runner.load(slot, adapter.tensors, adapter.config)
        except StillhouseError as refused:
            error = refused
        except Exception as broken:  # noqa: BLE001 - out of memory, a damaged mapping: its rows fail, the others go on
            error = ModelError(f"the adapter cannot be loaded: {type(broken).__name__}: {broken}".splitlines()[0])
        self._told(adapter.key, error)


def highest_rank(store: Store, base: TextModel) -> int:
    """The highest rank of any champion made for `base`, and at least a runner's default: every champion fits then."""
    rank = Config().rank
    for user in store.users():
        try:
            champion = store.champion(user)
            if champion is not None and champion.base == base.fingerprint:
                rank = max(rank, int(store.get(Candidate, champion.candidate).config["rank"]))
        except StillhouseError:
            continue  # damaged: refused when it is asked for, with its reason
    return rank


def _check_bytes(weights: Any, candidate: Candidate) -> None:
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise StoreError(f"{weights} is missing: restore it, or roll back") from None
    if found != candidate.adapter:
        raise StoreError(f"{weights} is not the adapter that was gated ({found[:12]} != {candidate.adapter[:12]})")
