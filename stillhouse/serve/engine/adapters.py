"""Adapters in three tiers: cold in the store, warm in host memory, hot in a slot of the runner.

In: a store and the runner of the served base. Out: `Library.load` brings an adapter from cold to warm. It reads and
checks everything, so any thread but the engine's may call it. `AdapterSlots.place` brings an adapter from warm to hot.
The engine calls it, and another thread loads.

Both drop the least recently used: the library by bytes, the slots by number. A version never changes, so a new champion
has another key, and running requests finish with the adapter they began with. An adapter is refused when it is damaged,
tampered with, not finite, or made for another base.

This module does not know requests, batches or HTTP.
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
    """Names a version of a user's adapter, which never changes."""

    user: str
    """The user's name."""
    number: int
    """The version's number, from 1."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked adapter in host memory, as `Runner.load` takes it."""

    key: Key
    """Whose it is, and which version."""
    tensors: Mapping[str, Tensor]
    """Its weights in PEFT's names."""
    config: Mapping[str, Any]
    """Its adapter_config.json."""

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(t.nbytes for t in self.tensors.values())


def _ignore(event: AdapterMoved) -> None:
    """The default: no log is kept."""


class Library:
    """Warm adapters, at most `limit` bytes of them, loaded from the store. Any thread may call."""

    def __init__(
        self, store: Store, runner: Runner, limit: int, on_move: Callable[[AdapterMoved], None] = _ignore
    ) -> None:
        """`on_move` is called for every adapter that is warmed, dropped or refused."""
        self.store, self.runner, self.limit, self._on_move = store, runner, limit, on_move
        self.bytes = self.loads = self.hits = self.evictions = 0
        self.refused: OrderedDict[Key, StillhouseError] = OrderedDict()
        self._warm: OrderedDict[Key, Adapter] = OrderedDict()
        self._lock = threading.Lock()

    def champion(self, user: str) -> tuple[Adapter | None, list[StillhouseError]]:
        """The adapter that serves `user`, and the errors of those that were refused.

        It is the champion, or the newest earlier champion that is intact. It is None when there is no champion, or when
        none of the user's adapters can be served.
        """
        refused: list[StillhouseError] = []
        try:
            for number in self._candidates(user):
                try:
                    return self.load(Key(user, number)), refused
                except StillhouseError as error:
                    refused.append(error)
        except StoreError as error:  # the alias itself is damaged
            refused.append(error)
        return None, refused

    def load(self, key: Key) -> Adapter:
        """One version, checked. Raises `NotFound`; `Rejected`; `StoreError` when it is damaged or tampered with;
        `ModelError` when it has another base, another shape, or numbers that are not finite."""
        with self._lock:
            if (warm := self._warm.get(key)) is not None:
                self._warm.move_to_end(key)
                self.hits += 1
                return warm
        start = time.monotonic()
        try:
            adapter = self._read(key)
        except StillhouseError as error:
            self._remember(key, error)
            raise
        with self._lock:
            self.loads += key not in self._warm
            dropped = self._keep(adapter)
        self._on_move(AdapterMoved(key.user, key.number, "warm", adapter.bytes, time.monotonic() - start))
        for other in dropped:
            self._on_move(AdapterMoved(other.key.user, other.key.number, "cold", other.bytes))
        return adapter

    def forget(self, user: str) -> None:
        """Drop all adapters of a user."""
        with self._lock:
            for key in [k for k in self._warm if k.user == user]:
                self.bytes -= self._warm.pop(key).bytes

    def _candidates(self, user: str) -> Iterator[int]:
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
        self.store.version_dir(key.user, key.number)  # raises an error that lists the versions
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
        """Keep it. Returns the adapters that were dropped for it."""
        if (old := self._warm.pop(adapter.key, None)) is not None:
            self.bytes -= old.bytes
        self._warm[adapter.key] = adapter
        self.bytes += adapter.bytes
        dropped = []
        while self.bytes > self.limit and len(self._warm) > 1:
            dropped.append(self._warm.popitem(last=False)[1])
            self.bytes -= dropped[-1].bytes
        self.evictions += len(dropped)
        return dropped

    def _remember(self, key: Key, error: StillhouseError) -> None:
        with self._lock:
            known = str(self.refused.get(key)) == str(error)
            self.refused[key] = error
            self.refused.move_to_end(key)
            while len(self.refused) > 100:
                self.refused.popitem(last=False)
        if not known:
            self._on_move(AdapterMoved(key.user, key.number, "refused", note=str(error)))


@dataclass(frozen=True)
class Placement:
    """Where an adapter is placed."""

    slot: int
    """A slot of the runner."""
    ready: bool
    """Whether the adapter is there; False: it is being loaded."""


class AdapterSlots:
    """Which adapter is in which slot of the runner. Only the engine's thread calls `place` and `loaded`.

    Another thread loads adapters, so that rows of other adapters do not wait. `hits` counts rows whose adapter was in a
    slot or being loaded.
    """

    def __init__(self, runner: Runner, on_load: Callable[[Key, StillhouseError | None], None]) -> None:
        """The other thread calls `on_load(key, error)` when a load has ended."""
        self.runner, self._on_load = runner, on_load
        self.hits = self.loads = self.evictions = 0
        self._slot: OrderedDict[Key, int] = OrderedDict()
        self._loading: set[Key] = set()
        self._loader = ThreadPoolExecutor(1, "adapters")

    def place(self, adapter: Adapter, busy: Collection[Key]) -> Placement | None:
        """The slot of `adapter`. Begins to load it when it is in none. None when `busy` adapters, or ones that are
        being loaded, have all slots."""
        key = adapter.key
        if key in self._slot:
            self._slot.move_to_end(key)
            self.hits += 1
            return Placement(self._slot[key], key not in self._loading)
        slot = self._free_slot(busy)
        if slot is None:
            return None
        self._slot[key] = slot
        self._loading.add(key)
        self._loader.submit(self._load, slot, adapter)
        return Placement(slot, False)

    def loaded(self, key: Key, error: StillhouseError | None) -> None:
        """Note a load that has ended: the slot has its adapter, or is free again after an error."""
        self._loading.discard(key)
        if error is None:
            self.loads += 1
        else:
            self._slot.pop(key, None)

    def forget(self, user: str) -> None:
        """Empty the slots of a user, who must have no running rows."""
        for key in [k for k in self._slot if k.user == user]:
            slot = self._slot.pop(key)
            self.runner.clear(slot)

    def close(self) -> None:
        """Wait for loads that have begun."""
        self._loader.shutdown()

    def __contains__(self, key: Key) -> bool:
        return key in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def _free_slot(self, busy: Collection[Key]) -> int | None:
        if len(self._slot) < self.runner.slots:
            return min(set(range(self.runner.slots)) - set(self._slot.values()))
        for key in self._slot:
            if key not in busy and key not in self._loading:
                self.evictions += 1
                return self._slot.pop(key)
        return None

    def _load(self, slot: int, adapter: Adapter) -> None:
        error: StillhouseError | None = None
        try:
            self.runner.load(slot, adapter.tensors, adapter.config)
        except StillhouseError as refusal:
            error = refusal
        except Exception as cause:  # noqa: BLE001 - out of memory, a damaged file: only the adapter's rows fail
            error = ModelError(f"the adapter cannot be loaded: {type(cause).__name__}: {cause}".splitlines()[0])
        self._on_load(adapter.key, error)


def highest_rank(store: Store, base: TextModel) -> int:
    """The highest rank of the champions that were made for `base`, but at least a runner's default rank. All of these
    champions fit a runner of this rank."""
    rank = Config().rank
    for user in store.users():
        try:
            champion = store.champion(user)
            if champion is not None and champion.base == base.fingerprint:
                rank = max(rank, int(store.get(Candidate, champion.candidate).config["rank"]))
        except StillhouseError:
            continue  # it is refused, with a reason, when it is asked for
    return rank


def _check_bytes(weights: Any, candidate: Candidate) -> None:
    try:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise StoreError(f"{weights} is missing: restore it, or roll back") from None
    if digest != candidate.adapter:
        raise StoreError(f"{weights} is not the adapter that was gated ({digest[:12]} != {candidate.adapter[:12]})")
