"""Keys and values: of the rows that run together, and of sessions that pause.

In: what the attention layers of any transformers decoder hand to a cache. Out: `Columns`, a cache whose rows all end in
one column, so that a step writes one column for all of them, rows join and leave between steps, and a sliding window
counts right; and `Sessions`, the keys and values of idle sessions, least recently used first out.

A row is as wide as the longest of its batch: what lies before its first token is zero and masked, never another row's.
It does not know requests, adapters or time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from ...errors import ModelError

BLOCK = 64  # columns that are allocated at once
Pair = tuple[Tensor, Tensor]


@dataclass
class _Span:
    """The columns in use, `[first, end)`, of `rows` rows; shared by all layers."""

    rows: int = 0
    first: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        return self.end - self.first


class _Layer(CacheLayerMixin):
    """One layer's keys and values `[rows, heads, columns, dim]`, allocated ahead."""

    is_sliding = False

    def __init__(self, span: _Span) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.span = span

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.allocate(key_states, value_states, self.span.end + key_states.shape[2])

    def allocate(self, keys: Tensor, values: Tensor, columns: int) -> None:
        """Zeros for this many columns, of the heads, width, type and device of these."""
        for name, like in (("keys", keys), ("values", values)):
            setattr(self, name, like.new_zeros(self.span.rows, like.shape[1], _blocks(columns), like.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Write behind the last column; keys and values of all columns, old and new."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, first, end = self.span.rows, self.span.first, self.span.end
        after = end + key_states.shape[2]
        keys, values = self.pair
        keys[:rows, :, end:after] = key_states
        values[:rows, :, end:after] = value_states
        return keys[:rows, :, first:after], values[:rows, :, first:after]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.span.width + query_length, 0

    def get_seq_length(self) -> int:
        return self.span.width

    def get_max_length(self) -> int:
        return -1

    @property
    def pair(self) -> Pair:
        assert self.keys is not None and self.values is not None, "a layer is written before it is read"
        return self.keys, self.values

    def replace(self, rows: int, columns: int, end: int) -> None:
        """Other buffers of this size, with the columns in use moved so that they end at `end`."""
        here = self.span
        for name, old in zip(("keys", "values"), self.pair, strict=True):
            new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
            new[: here.rows, :, end - here.width : end] = old[: here.rows, :, here.first : here.end]
            setattr(self, name, new)


@dataclass(frozen=True, eq=False)
class Kept:
    """The keys and values of one row: `ids` and, per layer, keys and values `[heads, len(ids), dim]`."""

    ids: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for pair in self.pairs for t in pair)


Held = tuple[Kept | None, int]  # what a row begins with, and how many tokens of it


class Columns(Cache):
    """Keys and values of a batch whose rows all end in one column. `lengths`: tokens per row, the newest included.

    A forward over q more tokens per row goes between `extend(q)` and the use of its output.
    """

    def __init__(self, layers: int, lengths: Sequence[int], held: Sequence[Held] = (), more: int = 0) -> None:
        """Rows of `lengths[i]` tokens to come, whose next forward is over `more` of them (default: all).

        Row i begins with the tokens that `held[i]` says, or with nothing; then it is padded on its left to `more`.
        """
        more = more or max(lengths, default=0)
        begun = [count for _, count in held] or [0] * len(lengths)
        width = max(begun, default=0)
        self.span = _Span(rows=len(lengths), end=width)
        super().__init__(layers=[_Layer(self.span) for _ in range(layers)])
        self.starts = [width - b if b else width + max(more - n, 0) for b, n in zip(begun, lengths, strict=True)]
        self.span.first = min(self.starts, default=0)
        for row, (kept, count) in enumerate(held):
            if kept is not None and count:
                self._fill(row, kept, count, more)

    def _fill(self, row: int, kept: Kept, count: int, more: int) -> None:
        end = self.span.end
        for layer, pair in zip(self.parts, kept.pairs, strict=True):
            if not layer.is_initialized:
                layer.allocate(pair[0][None], pair[1][None], end + more)
            for buffer, tensor in zip(layer.pair, pair, strict=True):
                buffer[row, :, end - count : end] = tensor[:, :count]

    @property
    def parts(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    @property
    def bytes(self) -> int:
        """Allocated, in use or not."""
        return sum(t.nbytes for layer in self.parts if layer.is_initialized for t in layer.pair)

    @property
    def rows(self) -> int:
        return self.span.rows

    def length(self, row: int) -> int:
        """Tokens that row holds."""
        return max(self.span.end - self.starts[row], 0)

    def mask(self, more: int, device: torch.device) -> Tensor | None:
        """`[rows, width + more]`, 1 where a row has a token; None where every row is as long as the widest."""
        first, width = self.span.first, self.span.width + more
        if all(start == first for start in self.starts):
            return None
        start_B1 = torch.tensor(self.starts, device=device)[:, None] - first
        return (torch.arange(width, device=device) >= start_B1).long()

    def make_room(self, more: int) -> None:
        """Before a forward: columns for `more` tokens a row."""
        span = self.span
        parts = [layer for layer in self.parts if layer.is_initialized]
        if not parts:
            return
        held, _, columns, _ = parts[0].pair[0].shape
        wanted = _blocks(span.width + more + span.width // 4)
        if span.end + more > columns or columns > 4 * wanted:
            self._replace(held, wanted, span.width)

    def extend(self, more: int) -> None:
        """After a forward: its tokens count."""
        self.span.end += more

    def join(self, other: Columns) -> None:
        """Take over all rows of `other`, behind the ones here. `other` is not used again."""
        if not self.rows:
            self.span.__dict__.update(other.span.__dict__)
            for mine, layer in zip(self.parts, other.parts, strict=True):
                mine.keys, mine.values, mine.is_initialized = layer.keys, layer.values, True
            self.starts = other.starts
            return
        rows, width = self.rows + other.rows, max(self.span.width, other.span.width)
        held = self.parts[0].pair[0].shape[0]
        if other.span.width > self.span.end or rows > held:
            self._replace(max(rows, held + held // 2), _blocks(width + width // 4), width)
        end, theirs = self.span.end, other.span
        for mine, layer in zip(self.parts, other.parts, strict=True):
            for new, old in zip(mine.pair, layer.pair, strict=True):
                new[self.rows : rows, :, : end - theirs.width] = 0
                new[self.rows : rows, :, end - theirs.width : end] = old[: theirs.rows, :, theirs.first : theirs.end]
        self.starts += [start + end - theirs.end for start in other.starts]
        self._count(rows)

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last, end = self.rows - 1, self.span.end
        for layer in self.parts if row != last else []:
            for buffer in layer.pair:
                buffer[row, :, :end] = buffer[last, :, :end]
        self.starts[row] = self.starts[last]
        self.starts.pop()
        self._count(last)
        if not last:
            for layer in self.parts:
                layer.keys, layer.values, layer.is_initialized = None, None, False
            self.span.first = self.span.end = 0

    def keep(self, row: int, ids: Sequence[int]) -> Kept:
        """A copy of one row, which holds `ids`."""
        start, end = self.starts[row], self.span.end
        assert end - start == len(ids), "keys and values of exactly these tokens"
        pairs = [[t[row, :, start:end].clone() for t in layer.pair] for layer in self.parts]
        return Kept(tuple(ids), tuple((k, v) for k, v in pairs))

    def _count(self, rows: int) -> None:
        """Set the number of rows; columns that none of them needs are no longer looked at."""
        self.span.rows = rows
        self.span.first = min(self.starts, default=self.span.end)

    def _replace(self, rows: int, columns: int, end: int) -> None:
        for layer in self.parts:
            layer.replace(rows, columns, end)
        moved = end - self.span.end
        self.starts = [start + moved for start in self.starts]
        self.span.first, self.span.end = self.span.first + moved, end


@dataclass
class Sessions:
    """Keys and values of idle sessions, by any key, at most `limit` bytes: the least recently used leaves first."""

    limit: int
    bytes: int = 0
    evicted: int = 0
    _kept: OrderedDict[Any, Kept] = field(default_factory=OrderedDict)

    def put(self, key: Any, kept: Kept) -> None:
        """Keep it in place of what `key` had, if it fits at all."""
        self.drop(key)
        if kept.bytes <= self.limit:
            self._kept[key] = kept
            self.bytes += kept.bytes
            self.shrink(self.limit)

    def take(self, key: Any, ids: Sequence[int]) -> tuple[Kept, int] | None:
        """What is kept under `key`, and how many of `ids`, from the first and never all, it holds."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        pairs = zip(kept.ids, ids[:-1], strict=False)
        count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(kept.ids), len(ids) - 1))
        return (kept, count) if count else None

    def drop(self, key: Any) -> None:
        """Forget what `key` had."""
        if (kept := self._kept.pop(key, None)) is not None:
            self.bytes -= kept.bytes

    def bytes_of(self, match: Callable[[Any], bool]) -> int:
        """Bytes under the keys that `match(key)` is true of."""
        return sum(kept.bytes for key, kept in list(self._kept.items()) if match(key))

    def drop_where(self, match: Callable[[Any], bool]) -> None:
        """Forget every key that `match(key)` is true of."""
        for key in [k for k in self._kept if match(k)]:
            self.drop(key)

    def shrink(self, limit: int) -> None:
        """Let the least recently used go until at most `limit` bytes are held."""
        while self.bytes > limit:
            self.drop(next(iter(self._kept)))
            self.evicted += 1

    def __len__(self) -> int:
        return len(self._kept)


def layers_of(network: PreTrainedModel) -> int:
    """How many layers keep keys and values. `ModelError` where a layer keeps something else (a recurrent state)."""
    layers = DynamicCache(config=network.config).layers
    for layer in layers:
        if not isinstance(layer, DynamicLayer):
            raise ModelError(
                f"{type(network).__name__}: a cache layer of {type(layer).__name__} cannot be batched continuously; "
                "only decoders whose every layer is attention can be served"
            )
    return len(layers)


def token_bytes(network: PreTrainedModel) -> int:
    """Bytes that one token's keys and values take, over all layers; estimated from the configuration."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(network.parameters()).element_size()
    return int(2 * config.num_hidden_layers * heads * dim * size)


def _blocks(columns: int) -> int:
    return -(-columns // BLOCK) * BLOCK
