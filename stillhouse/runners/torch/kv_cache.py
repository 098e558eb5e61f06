"""The keys and values of rows that run together in a transformers decoder, and copies of single rows.

In: the keys and values that attention layers pass to a cache. Out: `BatchCache`. All its rows end in one column.
Therefore a step writes one column for all rows, rows join and leave between steps, and a sliding window counts the
right columns.

Every row has as many columns as the longest row of its batch. The columns before a row's first token are zero and
masked; they are never another row's. This module does not know requests, adapters or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from ...compute.attention import Visible
from ...errors import InputError, ModelError

BLOCK = 64  # columns are allocated in multiples of this, so that a step rarely allocates
Pair = tuple[Tensor, Tensor]


@dataclass
class _Extent:
    """Which part of the buffers is in use. All layers share one record."""

    rows: int = 0
    """Rows in use."""
    first: int = 0
    """First column in use: where the longest row begins."""
    end: int = 0
    """One past the last column in use: where all rows end."""

    @property
    def width(self) -> int:
        return self.end - self.first


class _Layer(CacheLayerMixin):
    """One layer's keys and values, `[rows, heads, columns, dim]`, with columns allocated in advance."""

    is_sliding = False

    def __init__(self, extent: _Extent) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.extent = extent

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.allocate(key_states, value_states, self.extent.end + key_states.shape[2])

    def allocate(self, keys: Tensor, values: Tensor, columns: int) -> None:
        """Allocate zeros for this many columns, with the heads, width, type and device of `keys` and `values`."""
        for name, like in (("keys", keys), ("values", values)):
            setattr(self, name, like.new_zeros(self.extent.rows, like.shape[1], _blocks(columns), like.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Write after the last column. Returns the keys and values of all columns in use, old and new."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, first, end = self.extent.rows, self.extent.first, self.extent.end
        after = end + key_states.shape[2]
        keys, values = self.pair
        keys[:rows, :, end:after] = key_states
        values[:rows, :, end:after] = value_states
        return keys[:rows, :, first:after], values[:rows, :, first:after]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.extent.width + query_length, 0

    def get_seq_length(self) -> int:
        return self.extent.width

    def get_max_length(self) -> int:
        return -1

    @property
    def pair(self) -> Pair:
        assert self.keys is not None and self.values is not None, "a layer is written before it is read"
        return self.keys, self.values

    def replace(self, rows: int, columns: int, end: int) -> None:
        """Allocate buffers of another size and move the columns in use so that they end at `end`."""
        extent = self.extent
        for name, old in zip(("keys", "values"), self.pair, strict=True):
            new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
            new[: extent.rows, :, end - extent.width : end] = old[: extent.rows, :, extent.first : extent.end]
            setattr(self, name, new)


@dataclass(frozen=True, eq=False)
class SavedTensors:
    """A copy of the keys and values of one row."""

    pairs: tuple[Pair, ...]
    """For each layer its keys and values, `[heads, tokens, dim]` each."""

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values these are."""
        return self.pairs[0][0].shape[1]

    @property
    def bytes(self) -> int:
        """Memory of the copy, in bytes."""
        return sum(t.nbytes for pair in self.pairs for t in pair)


class BatchCache(Cache):
    """Keys and values of a batch whose rows all end in one column.

    Call `place` before a forward over q more columns, and `extend(q)` after it.
    """

    def __init__(
        self, layers: int, slots: Sequence[int], saved: Sequence[tuple[SavedTensors | None, int]] = (), tokens: int = 0
    ) -> None:
        """Row i has the adapter slot `slots[i]`. `saved[i]` is a saved row and the number of its tokens that row i
        begins with. `tokens`: columns that the next forwards will add."""
        counts = [count for _, count in saved] or [0] * len(slots)
        width = max(counts, default=0)
        self.extent = _Extent(rows=len(slots), end=width)
        super().__init__(layers=[_Layer(self.extent) for _ in range(layers)])
        self.slots = list(slots)
        self.starts = [width - count for count in counts]
        self.extent.first = min(self.starts, default=0)
        for row, (source, count) in enumerate(saved):
            if source is not None and count:
                self._fill(row, source, count, tokens)

    def _fill(self, row: int, source: SavedTensors, count: int, more: int) -> None:
        end = self.extent.end
        for layer, pair in zip(self.parts, source.pairs, strict=True):
            if not layer.is_initialized:
                layer.allocate(pair[0][None], pair[1][None], end + more)
            for buffer, tensor in zip(layer.pair, pair, strict=True):
                buffer[row, :, end - count : end] = tensor[:, :count]

    @property
    def parts(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    @property
    def bytes(self) -> int:
        """Allocated memory in bytes, in use or not."""
        return sum(t.nbytes for layer in self.parts if layer.is_initialized for t in layer.pair)

    @property
    def rows(self) -> int:
        return self.extent.rows

    def length(self, row: int) -> int:
        """Tokens of this row whose keys and values are in the cache."""
        return max(self.extent.end - self.starts[row], 0)

    def mask(self, more: int, device: torch.device) -> Tensor | None:
        """`[rows, width + more]`: 1 where a row has a token. None when all rows are equally long."""
        first, width = self.extent.first, self.extent.width + more
        if all(start == first for start in self.starts):
            return None
        start_B1 = torch.tensor(self.starts, device=device)[:, None] - first
        return (torch.arange(width, device=device) >= start_B1).long()

    def positions(self, more: int, device: torch.device) -> Tensor:
        """`[rows, more]`: the position in its row of each of the next columns; 0 before a row's first token."""
        start_B1 = torch.tensor(self.starts, device=device)[:, None]
        return (torch.arange(self.extent.end, self.extent.end + more, device=device) - start_B1).clamp(min=0)

    def visible(self, more: int, device: torch.device) -> Visible:
        """Which columns each of the next `more` columns may attend to."""
        column_S = torch.arange(self.extent.first, self.extent.end + more, device=device)
        own_BS = None
        if any(start != self.extent.first for start in self.starts):
            own_BS = column_S >= torch.tensor(self.starts, device=device)[:, None]
        return Visible(column_S[None], own_BS, more)

    def place(self, counts: Sequence[int]) -> int:
        """Make room for a forward over `counts[i]` more tokens of each row i. Returns the columns that they take.

        Raises `InputError` when a row that already has tokens gets fewer than the longest row: its tokens would not be
        contiguous.
        """
        width, end = max(counts), self.extent.end
        for row, (start, count) in enumerate(zip(self.starts, counts, strict=True)):
            if start >= end:  # an empty row begins so late that it ends with the others
                self.starts[row] = end + width - count
            elif count != width:
                raise InputError(f"row {row} holds {end - start} tokens and gets {count} more, others {width}")
        self.extent.first = min(self.starts)
        self._make_room(width)
        return width

    def _make_room(self, more: int) -> None:
        extent = self.extent
        parts = [layer for layer in self.parts if layer.is_initialized]
        if not parts:
            return
        allocated, _, columns, _ = parts[0].pair[0].shape
        wanted = _blocks(extent.width + more + extent.width // 4)
        if extent.end + more > columns or columns > 4 * wanted:
            self._replace(allocated, wanted, extent.width)

    def extend(self, more: int) -> None:
        """Count the columns of the forward that has ended."""
        self.extent.end += more

    @torch.inference_mode()
    def join(self, other: BatchCache) -> None:
        """Append all rows of `other`, which must not be used afterwards."""
        if not self.rows:
            self.extent.__dict__.update(other.extent.__dict__)
            for mine, layer in zip(self.parts, other.parts, strict=True):
                mine.keys, mine.values, mine.is_initialized = layer.keys, layer.values, layer.is_initialized
            self.starts, self.slots = other.starts, other.slots
            return
        rows, width = self.rows + other.rows, max(self.extent.width, other.extent.width)
        allocated = self.parts[0].pair[0].shape[0]
        if other.extent.width > self.extent.end or rows > allocated:
            self._replace(max(rows, allocated + allocated // 2), _blocks(width + width // 4), width)
        end, theirs = self.extent.end, other.extent
        for mine, layer in zip(self.parts, other.parts, strict=True):
            for new, old in zip(mine.pair, layer.pair, strict=True):
                new[self.rows : rows, :, : end - theirs.width] = 0
                new[self.rows : rows, :, end - theirs.width : end] = old[: theirs.rows, :, theirs.first : theirs.end]
        self.starts += [start + end - theirs.end for start in other.starts]
        self.slots += other.slots
        self._count(rows)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Drop a row. The last row takes its number."""
        last, end = self.rows - 1, self.extent.end
        for layer in self.parts if row != last else []:
            for buffer in layer.pair:
                buffer[row, :, :end] = buffer[last, :, :end]
        for column in (self.starts, self.slots):
            column[row] = column[last]
            column.pop()
        self._count(last)
        if not last:
            for layer in self.parts:
                layer.keys, layer.values, layer.is_initialized = None, None, False
            self.extent.first = self.extent.end = 0

    @torch.inference_mode()
    def save(self, row: int) -> SavedTensors:
        """Copy one row."""
        start, end = self.starts[row], self.extent.end
        pairs = [[t[row, :, start:end].clone() for t in layer.pair] for layer in self.parts]
        return SavedTensors(tuple((k, v) for k, v in pairs))

    def _count(self, rows: int) -> None:
        """Set the number of rows, and skip the columns that no row uses any more."""
        self.extent.rows = rows
        self.extent.first = min([*self.starts, self.extent.end])

    def _replace(self, rows: int, columns: int, end: int) -> None:
        for layer in self.parts:
            layer.replace(rows, columns, end)
        moved = end - self.extent.end
        self.starts = [start + moved for start in self.starts]
        self.extent.first, self.extent.end = self.extent.first + moved, end


def layers_of(network: PreTrainedModel) -> int:
    """Number of layers with keys and values. Raises `ModelError` when a layer keeps something else, such as a recurrent
    state."""
    layers = DynamicCache(config=network.config).layers
    for layer in layers:
        if not isinstance(layer, DynamicLayer):
            raise ModelError(
                f"{type(network).__name__}: a cache layer of {type(layer).__name__} cannot be batched continuously; "
                "only decoders whose every layer is attention can be served"
            )
    return len(layers)


def token_bytes(network: PreTrainedModel) -> int:
    """Bytes of one token's keys and values over all layers, computed from the configuration."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(network.parameters()).element_size()
    return int(2 * config.num_hidden_layers * heads * dim * size)


def _blocks(columns: int) -> int:
    return -(-columns // BLOCK) * BLOCK
