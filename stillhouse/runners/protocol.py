"""What computes a model: the one thing that serving, `generate` and the gates know of an engine.

A `Runner` has weights, slots for adapters, and rows with a cache. In: token ids and the adapter slot of every row. Out:
next-token logits, and on request the hidden states and the experts of whole rows. Numbers are handed over as torch
tensors, on whatever device: `torch.from_numpy` costs nothing. A runner keeps no gradients.

The text side is apart: `Runner.model` renders messages, makes ids of texts and texts of ids, and has the fingerprint.
`stillhouse/runners/torch` is the first runner; tests/runners/numpy_runner.py is the smallest, and
tests/runners/test_contract.py is what every one has to pass.

It does not know requests, users, sampling or gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..models import TextModel

BASE = -1  # the slot that is no adapter


@dataclass(frozen=True)
class Config:
    """What a runner makes room for."""

    slots: int = 0
    """Adapters at once, at least 0; fewer where they would take more than `adapter_bytes`. 0: the base alone."""
    rank: int = 16
    """Largest rank of an adapter."""
    adapter_bytes: int = 4 * 2**30
    """Bytes that all slots together may take; one slot there is in any case."""
    packed_bytes: int = 0
    """Bytes of copies of weights in an order in which they are multiplied faster; 0: no copies."""
    deterministic: bool = False
    """Whether a row that runs alone gives the same numbers whatever ran before it, at the cost of speed."""


class SavedRow(Protocol):
    """The keys and values of one row, put aside. They stay as they are, whatever happens to the cache."""

    @property
    def tokens(self) -> int:
        """How many tokens they are of."""

    @property
    def bytes(self) -> int:
        """What they take."""


class Cache(Protocol):
    """Keys and values of rows that run together. Rows are numbered from 0. It is used with the runner that made it."""

    @property
    def slots(self) -> Sequence[int]:
        """The adapter slot of each row."""

    @property
    def bytes(self) -> int:
        """Allocated, in use or not."""

    def length(self, row: int) -> int:
        """How many tokens of a row it holds."""

    def join(self, other: Any) -> None:
        """Take over all rows of another cache of the same runner, behind the ones here. `other` is not used again."""

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its number."""

    def save(self, row: int) -> SavedRow:
        """A copy of one row's keys and values, for `Runner.cache`."""


@dataclass(frozen=True)
class Watch:
    """What `Runner.read` reports of a row beside logits."""

    layers: tuple[int, ...] = ()
    """Layers whose hidden states are wanted, from 0; -1 is the last one."""
    experts: bool = False
    """Whether the experts that routers chose are wanted."""


LOGITS = Watch()  # and nothing else


@dataclass(frozen=True)
class Reading:
    """What a model makes of one row of T tokens."""

    states: tuple[Tensor, ...]
    """Hidden states behind each layer of `Watch.layers`, `[T, width]`; of the last layer, behind the final norm."""
    experts: tuple[Tensor, ...]
    """The experts chosen for each token, `[T, K]` int64, of every layer with a router, first to last."""
    head: Callable[[slice], Tensor]

    def logits(self, first: int = 0, end: int | None = None) -> Tensor:
        """Next-token logits behind the tokens from `first` up to `end`, `[tokens, vocabulary]` float32. They are made
        when they are asked for, so that those of many rows need not be there at once."""
        return self.head(slice(first, end))


class Runner(Protocol):
    """Computes one model. One thread uses it at a time, but for `check` and `load`, which any thread may call."""

    @property
    def model(self) -> TextModel:
        """The text side of what is computed here."""

    @property
    def layers(self) -> int:
        """How many layers there are."""

    @property
    def width(self) -> int:
        """How wide hidden states are."""

    @property
    def token_bytes(self) -> int:
        """Bytes that one token's keys and values take, over all layers."""

    # ---- adapters

    @property
    def slots(self) -> int:
        """Adapters that it holds at once; 0: it computes the base alone."""

    def check(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """`ModelError` where an adapter in PEFT's names and shapes cannot be loaded. Nothing changes."""

    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Put an adapter in PEFT's names into a slot that no row uses. Rows of other slots may be computed meanwhile.
        `ModelError` as `check`, and nothing has changed then."""

    def clear(self, slot: int) -> None:
        """Let go of what is in a slot that no row uses: it equals the base."""

    # ---- rows with a cache

    def cache(self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0) -> Cache:
        """A cache for rows with these adapter slots, `BASE` for the base alone. Row i begins with as many tokens of a
        saved row as `saved[i]` says, or with nothing. `tokens`: how many more a row will have soon, as far as known;
        they are not a limit."""

    def prefill(
        self, cache: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True, allowed_BV: Tensor | None = None
    ) -> Tensor | None:
        """Read the next ids of every row. A row that holds tokens already gets as many as the longest; one that has
        none yet may get fewer, or none.

        Returns `logits_BV` behind each row's last id, float32, or None where `logits` is False. Where `allowed_BV`
        (bool) is False a logit is -inf. A row without ids has logits that mean nothing.
        """

    def decode(self, cache: Cache, tokens: Sequence[int], *, allowed_BV: Tensor | None = None) -> Tensor:
        """One more token of every row: `logits_BV` behind it, as `prefill`."""

    @property
    def mixes(self) -> bool:
        """Whether `mixed` can be used; it is worth it where weights are read once for both."""

    def mixed(
        self, cache: Cache, tokens: Sequence[int], other: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True,
        allowed_BV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """`decode` of one cache and `prefill` of another in one forward. When it raises, both are as they were.
        `allowed_BV` has the rows of `cache` and, where `logits` is True, those of `other` behind them."""

    # ---- rows without a cache

    def read(self, rows: Sequence[Sequence[int]], slots: Sequence[int], watch: Watch = LOGITS) -> Iterator[Reading]:
        """What the model makes of whole rows, each with the adapter of its slot; one after the other, in their order.
        All are computed together: whoever calls sees to it that they fit."""

    # ---- the machine

    def hand_over(self) -> None:
        """The calling thread does not compute any more: let go of what it holds of the machine's cores."""

    def take_over(self, tokens: int) -> None:
        """The calling thread computes from here on, mostly in steps of up to so many tokens."""

    def bulk(self) -> AbstractContextManager[None]:
        """Inside, many rows at a time are answered and read: what makes that faster may be prepared, for memory."""

    def close(self) -> None:
        """Let go of everything that was made for running: slots, copies. The model is as it was."""
