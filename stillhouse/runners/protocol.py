"""The protocol of an engine. Serving, `generate` and the gates know nothing else of what computes a model.

A `Runner` has weights, slots for adapters, and rows with a cache. In: token ids and the adapter slot of every row. Out:
next-token logits, and on request the hidden states and the experts of whole rows. All numbers are torch tensors, on
any device; an engine without torch makes them by `torch.from_numpy`, which copies nothing. A runner keeps no gradients.

`Runner.model` is the text side: it renders messages, turns texts into ids and ids into texts, and has the fingerprint.
`stillhouse/runners/torch` is the first runner, and tests/runners/numpy_runner.py is the smallest. Every runner passes
tests/runners/test_contract.py.

It does not know requests, users, sampling or gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..models import TextModel

BASE = -1  # the slot number of a row without an adapter


@dataclass(frozen=True)
class Config:
    """How much room a runner makes, and whether it favours equal numbers over speed."""

    slots: int = 0
    """Adapters that are loaded at once, at least 0. There are fewer when they would take more than `adapter_bytes`. The
    default, 0, computes the base alone."""
    rank: int = 16
    """Largest rank of an adapter, at least 1. The default is the rank that adapters are trained with by default."""
    adapter_bytes: int = 4 * 2**30
    """Bytes that all slots together may take, 4 GiB by default. One slot is made even when it takes more."""
    packed_bytes: int = 0
    """Bytes for copies of weights in the order that a CPU multiplies fastest. The default, 0, makes no copies: they pay
    only when many steps follow."""
    deterministic: bool = False
    """True: a row that runs alone gives the same numbers whatever ran before it. This is slower, so it is off by
    default."""


class SavedRow(Protocol):
    """A copy of the keys and values of one row. It does not change when the cache does."""

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values these are."""

    @property
    def bytes(self) -> int:
        """Memory of the copy, in bytes."""


class Cache(Protocol):
    """Keys and values of rows that run together, numbered from 0. Only the runner that made a cache can use it."""

    @property
    def slots(self) -> Sequence[int]:
        """The adapter slot of each row."""

    @property
    def bytes(self) -> int:
        """Allocated memory in bytes, in use or not."""

    def length(self, row: int) -> int:
        """Tokens of this row whose keys and values are in the cache."""

    def join(self, other: Any) -> None:
        """Append all rows of another cache of the same runner. `other` must not be used afterwards."""

    def leave(self, row: int) -> None:
        """Drop a row. The last row takes its number."""

    def save(self, row: int) -> SavedRow:
        """Copy one row's keys and values, for `Runner.cache`."""


@dataclass(frozen=True)
class Watch:
    """What `Runner.read` reports of a row in addition to logits."""

    layers: tuple[int, ...] = ()
    """Layers whose hidden states are reported, counted from 0; -1 is the last layer."""
    experts: bool = False
    """Whether the experts that the routers chose are reported."""


LOGITS = Watch()  # logits and nothing else


@dataclass(frozen=True)
class Reading:
    """What a model computes for one row of T tokens."""

    states: tuple[Tensor, ...]
    """Hidden states after each layer of `Watch.layers`, `[T, width]` each. Those of the last layer are after the final
    norm."""
    experts: tuple[Tensor, ...]
    """The experts chosen for each token, `[T, K]` int64, one tensor for every layer with a router, first to last."""
    head: Callable[[slice], Tensor]
    """Computes the logits of a slice of the tokens, `[tokens, vocabulary]` float32."""

    def logits(self, first: int = 0, end: int | None = None) -> Tensor:
        """Next-token logits after the tokens from `first` up to `end`, `[tokens, vocabulary]` float32. Each call
        computes them, so that the logits of many rows are never in memory at once."""
        return self.head(slice(first, end))


class Runner(Protocol):
    """Computes one model. One thread uses it at a time; only `check` and `load` may be called by any thread."""

    @property
    def model(self) -> TextModel:
        """The text side of the computed model."""

    @property
    def layers(self) -> int:
        """Number of layers."""

    @property
    def width(self) -> int:
        """Width of hidden states."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""

    # ---- adapters

    @property
    def slots(self) -> int:
        """Adapters that can be loaded at once. 0: the runner computes the base alone."""

    def check(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Raises `ModelError` when an adapter, given in PEFT's names and shapes, cannot be loaded. Changes nothing."""

    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Put an adapter, given in PEFT's names, into a slot that no row uses. Rows of other slots may be computed
        meanwhile. Raises `ModelError` as `check` does; then nothing has changed."""

    def clear(self, slot: int) -> None:
        """Empty a slot that no row uses. The slot then computes the base."""

    # ---- rows with a cache

    def cache(self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0) -> Cache:
        """A cache for rows with these adapter slots; `BASE` is a row without an adapter. `saved[i]` is a saved row and
        the number of its tokens that row i begins with, or (None, 0) when the row begins empty. `tokens` is how many
        tokens a row will soon get, as far as known. It helps to allocate and is no limit."""

    def prefill(
        self, cache: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True, allowed_BV: Tensor | None = None
    ) -> Tensor | None:
        """Read the next ids of every row. A row that already has tokens in the cache must get as many ids as the
        longest row; an empty row may get fewer, or none.

        Returns float32 `logits_BV` after each row's last id, or None when `logits` is False. A logit is -inf where
        `allowed_BV` (bool) is False. The logits of a row that got no ids mean nothing.
        """

    def decode(self, cache: Cache, tokens: Sequence[int], *, allowed_BV: Tensor | None = None) -> Tensor:
        """Read one more token of every row. Returns `logits_BV` after it, as `prefill` does."""

    @property
    def mixes(self) -> bool:
        """Whether `mixed` can be used. It saves time where both parts share one reading of the weights."""

    def mixed(
        self, cache: Cache, tokens: Sequence[int], other: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True,
        allowed_BV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """`decode` of `cache` and `prefill` of `other` in one forward. When it raises, both caches are unchanged.
        `allowed_BV` has the rows of `cache`, followed by those of `other` when `logits` is True."""

    # ---- rows without a cache

    def read(self, rows: Sequence[Sequence[int]], slots: Sequence[int], watch: Watch = LOGITS) -> Iterator[Reading]:
        """Read whole rows, each with the adapter of its slot. Yields one `Reading` for each row, in order. All rows are
        computed together, so the caller has to pass no more than fit into memory."""

    # ---- the machine

    def hand_over(self) -> None:
        """The calling thread stops computing: release the cores that it occupies."""

    def take_over(self, tokens: int) -> None:
        """The calling thread computes from now on, mostly in steps of up to `tokens` tokens."""

    def bulk(self) -> AbstractContextManager[None]:
        """In this context many rows are answered and read at once. The runner may use memory to make that faster."""

    def close(self) -> None:
        """Free everything that was made for running, such as slots and copies. The model is as before."""
