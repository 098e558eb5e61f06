"""Runs transformers' networks on a CPU or an accelerator, with adapters in an `AdapterBank`.

In: a `Model` and, for adapters, a bank on its network. Out: a `Runner` (runners/protocol.py). The adapters of rows that
are decoded are copied together once, not at every step; the package's kernel multiplies them when it was built. Weights
are packed where that is faster. A step of few tokens computes with the number of threads that measured fastest.

It does not know requests or when a row ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...compute.attention import fits
from ...compute.experts import answering
from ...compute.kernels import built
from ...compute.packed import pack
from ...compute.threads import Threads, alone, give_back_workers
from ...errors import InputError
from ...lora import AdapterBank, BatchAdapters, LoraConfig, Run
from ...models import Model
from ...models.forward import head, pad_right
from ..protocol import LOGITS, Cache, Config, Reading, SavedRow, Watch
from .kv_cache import BatchCache, SavedTensors, layers_of, token_bytes
from .mixed_step import Part, flat_logits
from .watching import chosen_experts, states_of

Ids = Sequence[Sequence[int]]


class TorchRunner:
    """A model with its bank. Without a bank (None) it computes the base alone.

    A bank that is passed in belongs to the caller, and `close` leaves it attached. With `deterministic`, adapters are
    not copied together, and prompts are not read in the forwards of other rows.
    """

    def __init__(
        self, model: Model, bank: AdapterBank | None = None, *, packed_bytes: int = 0, deterministic: bool = False
    ) -> None:
        self.model, self.bank, self._deterministic = model, bank, deterministic
        self.layers = int(model.network.config.get_text_config().num_hidden_layers)
        self.width = int(model.network.config.get_text_config().hidden_size)
        self._batch_adapters = bank.batch_adapters() if bank is not None and not deterministic else None
        self._threads, self._undo = Threads(), ExitStack()
        self._undo.callback(self._threads.close)
        if packed_bytes:
            self._undo.callback(pack(model.network, packed_bytes, once=model.once))

    @classmethod
    def open(cls, model: Model, config: Config) -> TorchRunner:
        """A runner with a bank of its own, made by `config`. Raises `ModelError` when the network has nothing to adapt,
        or keeps something other than keys and values."""
        layers_of(model.network)
        bank = None
        if config.slots:
            shape = LoraConfig(rank=config.rank, alpha=2.0 * config.rank)
            bank = AdapterBank(model.network, _slots_within(model, config, shape), shape)
        runner = cls(model, bank, packed_bytes=config.packed_bytes, deterministic=config.deterministic)
        if bank is not None:
            runner._undo.callback(bank.detach)
        return runner

    @cached_property
    def _cached_layers(self) -> int:
        return layers_of(self.model.network)

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers, computed from the configuration."""
        return token_bytes(self.model.network)

    # ---- adapters

    @property
    def slots(self) -> int:
        """Adapters that can be loaded at once."""
        return self.bank.slots if self.bank is not None else 0

    def check(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Raises `ModelError` when an adapter cannot be loaded."""
        with alone():
            self._adapters.check(tensors, config)

    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Put an adapter into a slot. An accelerator copies it on a stream of its own, so that no row waits for it."""
        with alone(), _own_stream(self.model.device):
            self._adapters.load(slot, tensors, config)
            if self._batch_adapters is not None:
                self._batch_adapters.prepare(slot)

    def clear(self, slot: int) -> None:
        """Empty a slot: it computes the base again."""
        self._adapters.reset(slot, 0)
        if self._batch_adapters is not None:
            self._batch_adapters.prepare(slot)

    @property
    def _adapters(self) -> AdapterBank:
        if self.bank is None:
            raise InputError("this runner computes the base alone: it was opened without slots for adapters")
        return self.bank

    # ---- rows with a cache

    @torch.inference_mode()
    def cache(
        self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0
    ) -> BatchCache:
        """A cache whose rows end in one column."""
        own = [(source if isinstance(source, SavedTensors) else None, count) for source, count in saved]
        return BatchCache(self._cached_layers, slots, own, tokens)

    @torch.inference_mode()
    def prefill(
        self, cache: Cache, ids: Ids, *, logits: bool = True, allowed_BV: Tensor | None = None
    ) -> Tensor | None:
        """Read the next ids of every row, in one forward padded on the left."""
        batch = self._batch_adapters if self._batch_adapters is not None and self._batch_adapters.shared else None
        own = _own(cache)
        with self._adapted(own.slots, batch):
            return self._forward(own, ids, logits, allowed_BV)

    @torch.inference_mode()
    def decode(self, cache: Cache, tokens: Sequence[int], *, allowed_BV: Tensor | None = None) -> Tensor:
        """Read one more token of every row."""
        own = _own(cache)
        with self._adapted(own.slots, self._batch_adapters):
            logits_BV = self._forward(own, [[token] for token in tokens], True, allowed_BV)
        assert logits_BV is not None, "asked for"
        return logits_BV

    @property
    def mixes(self) -> bool:
        """Whether prompts can be read in the forwards of rows that are decoded."""
        return not self._deterministic and fits(self.model)

    @torch.inference_mode()
    def mixed(
        self, cache: Cache, tokens: Sequence[int], other: Cache, ids: Ids, *, logits: bool = True,
        allowed_BV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Read one more token of every row of `cache` and the next ids of `other`, in one forward."""
        first, second = _own(cache), _own(other)
        columns, rows = second.place([len(row) for row in ids]), first.rows
        first.place([1] * rows)
        self._threads.prepare(rows + columns * second.rows)
        parts = [Part(first, [[token] for token in tokens]), Part(second, self._padded(ids, columns))]
        last_places = [rows + columns * (row + 1) - 1 for row in range(second.rows if logits else 0)]
        with self._adapted(first.slots, self._batch_adapters, [(slot, columns) for slot in second.slots]):
            logits_BV = flat_logits(self.model.network, parts, [*range(rows), *last_places]).float()
            logits_BV = _masked(logits_BV, allowed_BV)
        first.extend(1)
        second.extend(columns)
        return logits_BV[:rows], logits_BV[rows:] if logits else None

    def _forward(self, cache: BatchCache, ids: Ids, logits: bool, allowed_BV: Tensor | None) -> Tensor | None:
        columns, device, network = cache.place([len(row) for row in ids]), self.model.device, self.model.network
        self._threads.prepare(columns * len(ids))
        settings = {
            "input_ids": torch.tensor(self._padded(ids, columns), device=device),
            "attention_mask": cache.mask(columns, device),
            "position_ids": cache.positions(columns, device),
            "past_key_values": cache,
            "use_cache": True,
        }
        if not logits:
            network.base_model(**settings)
            cache.extend(columns)
            return None
        logits_BV: Tensor = network(**settings, logits_to_keep=1).logits[:, -1].float()
        cache.extend(columns)
        return _masked(logits_BV, allowed_BV)

    def _padded(self, ids: Ids, columns: int) -> list[list[int]]:
        return [[*[self.model.pad_id] * (columns - len(row)), *row] for row in ids]

    def _adapted(
        self, slots: Sequence[int], batch: BatchAdapters | None, runs: Sequence[Run] = ()
    ) -> AbstractContextManager[None]:
        """In this context each row uses its own adapter. With `runs`, the flat row has one token of each row, followed
        by runs of other rows' tokens."""
        if self.bank is None:
            return nullcontext()
        return self.bank.rows(slots) if batch is None else self.bank.step(batch, slots, runs)

    # ---- rows without a cache

    @torch.inference_mode()
    def read(self, rows: Ids, slots: Sequence[int], watch: Watch = LOGITS) -> Iterator[Reading]:
        """Read whole rows in one forward, padded on the right. Logits are computed for one row at a time."""
        network, to_logits = self.model.network, head(self.model)
        ids_BT, mask_BT = pad_right(rows, self.model)
        every = any(layer not in (-1, self.layers - 1) for layer in watch.layers)
        with ExitStack() as inside:
            chosen = inside.enter_context(chosen_experts(network)) if watch.experts else []
            inside.enter_context(self._reading(slots))
            states = states_of(network, ids_BT, mask_BT, every)
        experts = [chosen_NK.view(*ids_BT.shape, -1) for chosen_NK in chosen]
        watched = [states[layer] if every else states[-1] for layer in watch.layers]
        for row, ids in enumerate(rows):
            last_TH = states[-1][row, : len(ids)]
            yield Reading(
                tuple(states_BTH[row, : len(ids)] for states_BTH in watched),
                tuple(experts_BTK[row, : len(ids)] for experts_BTK in experts),
                _Head(to_logits, last_TH),
            )

    def _reading(self, slots: Sequence[int]) -> AbstractContextManager[None]:
        """On a CPU, rows of one slot share a product. Rows of several slots do not: a broken adapter would spoil
        others."""
        if self.bank is None:
            return nullcontext()
        alike = len(set(slots)) == 1 and self.model.device.type == "cpu"
        return self.bank.rows(slots, wide=alike and self.model.network.dtype == torch.float32 and built())

    # ---- the machine

    def hand_over(self) -> None:
        """End the calling thread's OpenMP workers."""
        give_back_workers()

    def take_over(self, tokens: int) -> None:
        """Measure with how many threads a step of `tokens` tokens is fastest."""
        self._threads.measure(self.model, tokens)

    def bulk(self) -> AbstractContextManager[None]:
        """In this context all weights are packed, those of experts too, and the fused kernels are in use."""
        return answering(self.model.network, once=self.model.once)

    def close(self) -> None:
        """Restore the threads, free packed copies, and detach a bank that `open` made."""
        self._undo.close()


class _Head:
    """Computes logits from the hidden states `[T, width]` of one row."""

    def __init__(self, to_logits: Callable[[Tensor], Tensor], states_TH: Tensor) -> None:
        self._to_logits, self._states_TH = to_logits, states_TH

    @torch.inference_mode()
    def __call__(self, tokens: slice) -> Tensor:
        return self._to_logits(self._states_TH[tokens]).float()


def _masked(logits_BV: Tensor, allowed_BV: Tensor | None) -> Tensor:
    return logits_BV if allowed_BV is None else logits_BV.masked_fill(~allowed_BV, -torch.inf)


def _own(cache: Cache) -> BatchCache:
    assert isinstance(cache, BatchCache), "a cache is used with the runner that made it"
    return cache


def _slots_within(model: Model, config: Config, shape: LoraConfig) -> int:
    """`config.slots`, or as many as fit in `adapter_bytes`; at least one."""
    bank = AdapterBank(model.network, 1, shape)
    each = sum(p.nbytes for p in bank.parameters())
    bank.detach()
    return max(1, min(config.slots, config.adapter_bytes // max(each, 1)))


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """In this context, copies and the running batch's kernels do not wait for each other."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
