"""Prompts to answers and to logits, in batches, on a shared prefix when there is one.

In: lists of token ids; optionally a `Prefix` (keys and values of text every prompt begins with, computed once) and an
AdapterBank with one slot per prompt. Out: generated ids, and whatever the caller makes of the logits; the logits
themselves never outlive a step, so no `[tokens, vocabulary]` tensor is kept.

It does not know what the prompts mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .errors import InputError, ModelError
from .models import Model

R = TypeVar("R")
Ids = list[int]


class Bank(Protocol):
    """What this file asks of an AdapterBank."""

    def rows(self, slots: Sequence[int] | None) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Prefix:
    """Keys and values of `ids` for a batch of one. Never written to: batches get expanded views of it."""

    ids: tuple[int, ...]
    cache: DynamicCache

    def expand(self, rows: int) -> DynamicCache:
        """The same keys and values for `rows` rows, without copying them."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
                raise ModelError(f"a cache layer of {type(layer).__name__} cannot be shared between prompts")
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache


def common_prefix(prompts: Sequence[Ids]) -> int:
    """How many leading ids all prompts share, leaving each prompt at least one id of its own."""
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return max(shortest, 0)


@torch.inference_mode()
def prefill(model: Model, ids: Sequence[int], chunk: int = 2048) -> Prefix:
    """Run `ids` through the model once and keep their keys and values."""
    cache = DynamicCache(config=model.network.config)
    for start in range(0, len(ids), chunk):
        part_BT = torch.tensor([ids[start : start + chunk]], device=model.device)
        model.network.base_model(input_ids=part_BT, past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), cache)


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. `temperature` 0 is greedy; otherwise each prompt draws by the seed and its number,
    whatever else is in the batch."""

    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0


def generate(
    model: Model,
    prompts: Sequence[Ids],
    sampling: Sampling = Sampling(),
    *,
    prefix: Prefix | None = None,
    bank: Bank | None = None,
    slots: Sequence[int] | None = None,
    batch: int = 64,
    on_step: Callable[[list[int], Tensor], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Ids]:
    """Answers to `prompts` (each: the ids after the prefix), without the stop token, in the order given.

    `on_step(rows, logits_NV)` sees, before each token is chosen, the numbers of the prompts still being answered and
    their next-token logits in float32: N may shrink from step to step. `on_batch(n)` is told how many prompts are done.
    """
    longest = max((len(p) for p in prompts), default=0) + (len(prefix.ids) if prefix else 0)
    if longest + 1 > model.context:
        raise InputError(f"prompt of {longest} tokens does not fit the model's context of {model.context} tokens")
    answers: list[Ids] = [[] for _ in prompts]
    for rows in _groups(prompts, batch, _one_length(prefix, longest + sampling.max_new_tokens)):
        chosen = [slots[i] for i in rows] if slots is not None else None
        state = _Decoding(model, [prompts[i] for i in rows], prefix, bank, chosen)
        shared = len(prefix.ids) if prefix else 0
        room = [min(sampling.max_new_tokens, model.context - shared - len(prompts[i])) for i in rows]
        _decode(state, rows, answers, sampling, room, on_step)
        if on_batch:
            on_batch(len(rows))
    return answers


def _groups(prompts: Sequence[Ids], batch: int, one_length: bool) -> Iterator[list[int]]:
    """Prompt numbers in groups of at most `batch`, of similar length or of one."""
    group: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if group and (len(group) == batch or (one_length and len(prompts[i]) != len(prompts[group[0]]))):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _one_length(prefix: Prefix | None, longest: int) -> bool:
    """Whether padding would do harm: it stands between prefix and prompt, and a sliding window counts it."""
    sliding = [layer for layer in prefix.cache.layers if getattr(layer, "is_sliding", False)] if prefix else []
    return any(longest > getattr(layer, "sliding_window", 0) for layer in sliding)


class _Decoding:
    """The rows of one batch while they are being answered; finished rows leave it."""

    def __init__(
        self, model: Model, prompts: Sequence[Ids], prefix: Prefix | None, bank: Bank | None, slots: list[int] | None
    ):
        self.model, self.bank, self.slots = model, bank, slots
        width, shared = max(len(p) for p in prompts), len(prefix.ids) if prefix else 0
        pad = model.tokenizer.pad_token_id or 0
        self.ids_BT = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        own_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        self.mask_BT = torch.cat([own_BT.new_ones(len(prompts), shared), own_BT], dim=1)
        self.position_BT = (own_BT.cumsum(1) - 1).clamp(min=0) + shared
        self.cache = prefix.expand(len(prompts)) if prefix else DynamicCache(config=model.network.config)

    def step(self) -> Tensor:
        """Next-token logits_BV in float32."""
        with self.bank.rows(self.slots) if self.bank else nullcontext():
            out = self.model.network(
                input_ids=self.ids_BT,
                attention_mask=self.mask_BT,
                position_ids=self.position_BT,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits_BV: Tensor = out.logits[:, -1].float()
        return logits_BV

    def append(self, next_B: Tensor) -> None:
        self.ids_BT = next_B[:, None]
        self.position_BT = self.position_BT[:, -1:] + 1
        self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(next_B), 1)], dim=1)

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.model.device)
        self.ids_BT, self.mask_BT = self.ids_BT[index], self.mask_BT[index]
        self.position_BT = self.position_BT[index]
        self.cache.batch_select_indices(index)
        self.slots = [self.slots[r] for r in rows] if self.slots is not None else None


@torch.inference_mode()
def _decode(
    state: _Decoding,
    rows: list[int],
    answers: list[Ids],
    sampling: Sampling,
    room: list[int],
    on_step: Callable[[list[int], Tensor], None] | None,
) -> None:
    """Answer the prompts numbered `rows`; an answer ends at a stop token, or when it fills its `room`."""
    alive, left = list(rows), dict(zip(rows, room, strict=True))
    for step in range(max(room)):
        logits_BV = state.step()
        if on_step:
            on_step(alive, logits_BV)
        next_B = _choose(logits_BV, sampling, alive, step)
        going = [r for r, token in enumerate(next_B.tolist()) if token not in state.model.stop_ids]
        for r in going:
            answers[alive[r]].append(int(next_B[r]))
        going = [r for r in going if step + 1 < left[alive[r]]]
        if not going:
            return
        state.append(next_B)
        if len(going) < len(alive):
            state.keep(going)
            alive = [alive[r] for r in going]


def _choose(logits_BV: Tensor, sampling: Sampling, rows: list[int], step: int) -> Tensor:
    if sampling.temperature <= 0:
        return logits_BV.argmax(-1)
    chosen = []
    for row, logits_V in zip(rows, logits_BV.cpu(), strict=True):
        generator = torch.Generator().manual_seed(hash((sampling.seed, row, step)) & 0x7FFFFFFFFFFFFFFF)
        probabilities_V = torch.softmax(logits_V / sampling.temperature, -1)
        chosen.append(int(torch.multinomial(probabilities_V, 1, generator=generator)))
    return torch.tensor(chosen, device=logits_BV.device)


@torch.inference_mode()
def score(
    model: Model,
    sequences: Sequence[Ids],
    reduce: Callable[[int, Tensor], R],
    *,
    bank: Bank | None = None,
    slots: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> list[R]:
    """`reduce(i, logits_TV)` for every sequence: the logits of all its positions, float32, freed afterwards."""
    results: dict[int, R] = {}
    for rows in batches([len(s) for s in sequences], batch_tokens):
        ids_BT, mask_BT = pad_right([sequences[i] for i in rows], model)
        chosen = [slots[i] for i in rows] if slots is not None else None
        with bank.rows(chosen) if bank else nullcontext():
            hidden_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        for i, hidden_TH in zip(rows, hidden_BTH, strict=True):
            results[i] = reduce(i, head(model)(hidden_TH[: len(sequences[i])]).float())
    return [results[i] for i in range(len(sequences))]


def head(model: Model) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits, with the final soft cap of the Gemma classes where the configuration has one."""
    output: torch.nn.Module = model.network.get_output_embeddings()
    cap = getattr(model.network.config.get_text_config(), "final_logit_softcapping", None)
    if not cap:
        return output
    return lambda hidden: torch.tanh(output(hidden) / cap) * cap


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in groups of similar length, each at most `batch_tokens` with padding (one row always fits)."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def pad_right(sequences: Sequence[Ids], model: Model) -> tuple[Tensor, Tensor]:
    """`(ids_BT, mask_BT)` padded on the right."""
    width = max(len(s) for s in sequences)
    pad = model.tokenizer.pad_token_id or 0
    ids_BT = torch.tensor([s + [pad] * (width - len(s)) for s in sequences], device=model.device)
    mask_BT = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=model.device)
    return ids_BT, mask_BT
