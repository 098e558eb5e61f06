"""Adapters on their three shelves: cold in the store, warm in host memory, hot in the bank.

In: a store and the base that is served. Out: `Library.load`, cold to warm, for any thread but the engine's: it checks
everything and blocks nobody; and `Slots.place`, warm to hot, for the engine's thread alone. Both let the least recently
used go: by bytes, and by slots. A version never changes, so a new champion is another key, and requests that run
finish on the one they began with. What is damaged, tampered with, not finite, or made for another base is refused.

It does not know requests, batches or HTTP.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, NotFound, StillhouseError, StoreError
from ..export import peft
from ..lora import AdapterBank, LoraConfig
from ..models import Model
from ..records import Candidate, Version
from ..store import Store
from .ask import check_base
from .facts import AdapterMoved


@dataclass(frozen=True)
class Key:
    """A user's version: what it names never changes."""

    user: str
    number: int


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked adapter in host memory, as `AdapterBank.load` takes it."""

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
        self, store: Store, base: Model, shape: LoraConfig, limit: int, tell: Callable[[AdapterMoved], None] = _ignore
    ) -> None:
        """`tell` hears of every adapter that is warmed, let go or refused."""
        self.store, self.base, self.limit, self._tell = store, base, limit, tell
        self.bytes = self.loads = self.hits = self.evictions = 0
        self.refused: OrderedDict[Key, StillhouseError] = OrderedDict()
        self._warm: OrderedDict[Key, Adapter] = OrderedDict()
        self._lock, self._trial = threading.Lock(), threading.Lock()
        self._bench = AdapterBank(base.network, 1, shape)  # adapters are tried here, never where others run
        self._bench.detach()

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
        """One version, checked. `NotFound`, `StoreError` (damaged, tampered with, rejected by its gates), `ModelError`
        (another base, another shape, not finite)."""
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
            raise StoreError(f"v{key.number} of {key.user!r} was rejected by its gates and is never served")
        check_base(version, self.base)
        folder = self.store.version_dir(key.user, key.number)
        candidate = self.store.get(Candidate, version.candidate)
        _check_bytes((folder / peft.WEIGHTS), candidate)
        tensors, config = peft.read(folder)
        if config != candidate.adapter_config:
            raise StoreError(f"{folder / peft.CONFIG} is not what was gated: restore it, or roll {key.user!r} back")
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"v{key.number} of {key.user!r}: tensor {name!r} is not finite")
        with self._trial:
            self._bench.load(0, tensors, config)
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


class Slots:
    """Which adapter lies in which slot of the bank. The engine's thread alone calls `place`."""

    def __init__(self, bank: AdapterBank) -> None:
        self.bank = bank
        self.hits = self.loads = self.evictions = 0
        self._slot: OrderedDict[Key, int] = OrderedDict()

    def place(self, adapter: Adapter, busy: Collection[Key]) -> int | None:
        """The slot that holds `adapter`, loaded now if it was not there; None while every slot is of a `busy` key."""
        key = adapter.key
        if key in self._slot:
            self._slot.move_to_end(key)
            self.hits += 1
            return self._slot[key]
        slot = self._free(busy)
        if slot is not None:
            self.bank.load(slot, adapter.tensors, adapter.config)
            self._slot[key] = slot
            self.loads += 1
        return slot

    def forget(self, user: str) -> None:
        """A slot of a forgotten user is not found again. Its rows were cancelled before."""
        for key in [k for k in self._slot if k.user == user]:
            self.bank.reset(self._slot.pop(key), 0)

    def __contains__(self, key: Key) -> bool:
        return key in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def _free(self, busy: Collection[Key]) -> int | None:
        if len(self._slot) < self.bank.slots:
            return min(set(range(self.bank.slots)) - set(self._slot.values()))
        for key in self._slot:
            if key not in busy:
                self.evictions += 1
                return self._slot.pop(key)
        return None


def bank_shape(store: Store, base: Model) -> LoraConfig:
    """A shape that every champion made for `base` fits in: the default, at the highest rank any of them has."""
    rank = LoraConfig().rank
    for user in store.users():
        try:
            champion = store.champion(user)
            if champion is not None and champion.base == base.fingerprint:
                rank = max(rank, int(store.get(Candidate, champion.candidate).config["rank"]))
        except StillhouseError:
            continue  # damaged: refused when it is asked for, with its reason
    return LoraConfig(rank=rank, alpha=2.0 * rank)


def _check_bytes(weights: Any, candidate: Candidate) -> None:
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise StoreError(f"{weights} is missing: restore it, or roll back") from None
    if found != candidate.adapter:
        raise StoreError(f"{weights} is not the adapter that was gated ({found[:12]} != {candidate.adapter[:12]})")
