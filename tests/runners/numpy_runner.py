"""The smallest engine: a decoder with a few hundred parameters in numpy, behind the same protocol as the networks.

In: a seed. Out: a `NumpyModel` (its text side knows 96 characters) and a `NumpyRunner`. Two layers, each with one head
of causal attention whose scores fall with distance (Press et al. 2021, arXiv 2108.12409), a router that sends every
token to one of three experts, and adapters on query and output. Tensors of torch are only handed over.

It does not know batches: every row is computed by itself.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stillhouse.errors import InputError, ModelError
from stillhouse.models import TextModel
from stillhouse.runners import BASE, Cache, Config, Reading, SavedRow, Watch
from tests.tokenizers import SPECIAL, WITH_SYSTEM

Array = NDArray[np.float32]
Adapter = Mapping[str, tuple[Array, Array]]  # A `[rank, width]` scaled, and B `[width, rank]`, by layer and target

UNKNOWN = "<|unknown|>"
CHARACTERS = [*string.printable[:95], "\n"]
LAYERS, WIDTH, EXPERTS, CONTEXT, SLOPE = 2, 4, 3, 512, 0.3
TARGETS = ("q_proj", "o_proj")
PREFIX = "base_model.model.layers"
LOGITS = Watch()


def tokenizer() -> PreTrainedTokenizerFast:
    """An id for each character."""
    ids = {token: number for number, token in enumerate([*SPECIAL, UNKNOWN, *CHARACTERS])}
    plain = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    plain.add_special_tokens([*SPECIAL, UNKNOWN])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=SPECIAL[0], pad_token=SPECIAL[0], unk_token=UNKNOWN, chat_template=WITH_SYSTEM
    )


@dataclass(frozen=True)
class NumpyModel(TextModel):
    """Weights by name, with the text side."""

    weights: Mapping[str, Array] = field(repr=False)

    @property
    def vocabulary(self) -> int:
        return len(self.weights["embedding"])

    @property
    def context(self) -> int:
        return CONTEXT


def numpy_model(seed: int = 0) -> NumpyModel:
    """A model with random weights."""
    draws, texts = np.random.default_rng(seed), tokenizer()
    shapes: dict[str, tuple[int, ...]] = {"embedding": (len(texts), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        shapes |= {f"{layer}.router": (EXPERTS, WIDTH), f"{layer}.experts": (EXPERTS, WIDTH, WIDTH)}
    weights = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    fingerprint = hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).hexdigest()
    return NumpyModel("numpy", Path("numpy"), texts, fingerprint, frozenset([0]), weights)


def adapter(seed: int, rank: int = 2, size: float = 0.5) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A random adapter in PEFT's names, with its configuration."""
    draws, tensors = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for layer in range(LAYERS):
        for target in TARGETS:
            for part, shape in (("A", (rank, WIDTH)), ("B", (WIDTH, rank))):
                name = f"{PREFIX}.{layer}.{target}.lora_{part}.weight"
                tensors[name] = torch.randn(shape, generator=draws) * size
    return tensors, {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(TARGETS)}


@dataclass(frozen=True)
class SavedArray:
    """Keys and values of one row, `[layers, 2, tokens, width]`."""

    pairs: Array

    @property
    def tokens(self) -> int:
        return int(self.pairs.shape[2])

    @property
    def bytes(self) -> int:
        return self.pairs.nbytes


EMPTY = np.zeros((LAYERS, 2, 0, WIDTH), np.float32)


class NumpyCache:
    """Keys and values of every row, an array each."""

    def __init__(self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]]) -> None:
        self.slots = list(slots)
        self.rows = [
            row.pairs[:, :, :count] if isinstance(row, SavedArray) else EMPTY
            for row, count in saved or [(None, 0)] * len(slots)
        ]

    @property
    def bytes(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def length(self, row: int) -> int:
        return int(self.rows[row].shape[2])

    def join(self, other: Any) -> None:
        self.slots += other.slots
        self.rows += other.rows

    def leave(self, row: int) -> None:
        slot, pairs = self.slots.pop(), self.rows.pop()
        if row < len(self.rows):
            self.slots[row], self.rows[row] = slot, pairs

    def save(self, row: int) -> SavedArray:
        return SavedArray(self.rows[row].copy())


class NumpyRunner:
    """One model and adapters in slots."""

    layers, width, token_bytes, mixes = LAYERS, WIDTH, LAYERS * 2 * WIDTH * 4, False

    def __init__(self, model: NumpyModel, config: Config) -> None:
        self.model, self.slots, self._rank = model, config.slots, config.rank
        self._adapters: dict[int, Adapter] = {}

    # ---- adapters

    def check(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        if not self.slots:
            raise InputError("this runner computes the base alone: it was opened without slots for adapters")
        rank = int(config.get("r", 0))
        if not 0 < rank <= self._rank:
            raise ModelError(f"an adapter of rank {rank}; 1 to {self._rank} are allowed")
        expected = {name: tensor.shape for name, tensor in adapter(0, rank)[0].items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise ModelError(f"an adapter of other targets or shapes: {sorted(tensors)[:1]}")

    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.check(tensors, config)
        scale, made = config["lora_alpha"] / config["r"], dict[str, tuple[Array, Array]]()
        for layer in range(LAYERS):
            for target in TARGETS:
                a, b = (tensors[f"{PREFIX}.{layer}.{target}.lora_{part}.weight"].float().numpy() for part in "AB")
                made[f"{layer}.{target}"] = (a * scale, b)
        self._adapters[slot] = made

    def clear(self, slot: int) -> None:
        self._adapters.pop(slot, None)

    # ---- rows with a cache

    def cache(
        self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0
    ) -> NumpyCache:
        return NumpyCache(slots, saved)

    def prefill(
        self, cache: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True, allowed_BV: Tensor | None = None
    ) -> Tensor | None:
        assert isinstance(cache, NumpyCache), "a cache is used with the runner that made it"
        last = np.zeros((len(ids), WIDTH), np.float32)
        for row, new in enumerate(ids):
            if new:
                output = self._forward(new, cache.rows[row], cache.slots[row])
                cache.rows[row], last[row] = output.pairs, output.states[-1][-1]
        return self._logits(last, allowed_BV) if logits else None

    def decode(self, cache: Cache, tokens: Sequence[int], *, allowed_BV: Tensor | None = None) -> Tensor:
        logits_BV = self.prefill(cache, [[token] for token in tokens], allowed_BV=allowed_BV)
        assert logits_BV is not None, "asked for"
        return logits_BV

    def mixed(
        self, cache: Cache, tokens: Sequence[int], other: Cache, ids: Sequence[Sequence[int]], *, logits: bool = True,
        allowed_BV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        raise ModelError("rows are computed one by one here: nothing is gained by mixing them")

    # ---- rows without a cache

    def read(self, rows: Sequence[Sequence[int]], slots: Sequence[int], watch: Watch = LOGITS) -> Iterator[Reading]:
        for ids, slot in zip(rows, slots, strict=True):
            output = self._forward(ids, EMPTY, slot)
            states = tuple(torch.from_numpy(output.states[layer]) for layer in watch.layers)
            experts = tuple(map(torch.from_numpy, output.experts)) if watch.experts else ()
            yield Reading(states, experts, partial(self._logits_of, output.states[-1]))

    # ---- the machine

    def hand_over(self) -> None:
        """Nothing is held."""

    def take_over(self, tokens: int) -> None:
        """Nothing to prepare."""

    def bulk(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        self._adapters.clear()

    # ---- the arithmetic

    def _logits_of(self, states: Array, tokens: slice) -> Tensor:
        return self._logits(states[tokens])

    def _logits(self, states: Array, allowed: Tensor | None = None) -> Tensor:
        logits_TV = torch.from_numpy(
            states @ np.roll(self.model.weights["embedding"], 1, 0).T
        )  # no token repeats itself
        return logits_TV if allowed is None else logits_TV.masked_fill(~allowed, -torch.inf)

    def _forward(self, ids: Sequence[int], before: Array, slot: int) -> _Output:
        weights, adapted = self.model.weights, self._adapters.get(slot, {}) if slot != BASE else {}
        x: Any = weights["embedding"][list(ids)]
        pairs, states, experts = list[Array](), list[Array](), list[NDArray[np.int64]]()
        for layer in range(LAYERS):
            here = _normed(x)
            query = _product(here, weights, adapted, f"{layer}.q_proj")
            new = np.stack([_product(here, weights, adapted, f"{layer}.{name}") for name in ("k_proj", "v_proj")])
            pair = np.concatenate([before[layer], new], 1)
            x = x + _product(_attended(query, *pair), weights, adapted, f"{layer}.o_proj")
            here = _normed(x)
            chosen = (here @ weights[f"{layer}.router"].T).argmax(-1)
            x = x + np.tanh(np.einsum("ti,toi->to", here, weights[f"{layer}.experts"][chosen]))
            pairs.append(pair)
            states.append(x)
            experts.append(chosen[:, None].astype(np.int64))
        states[-1] = _normed(x)
        return _Output(np.stack(pairs), states, experts)


@dataclass(frozen=True)
class _Output:
    """What one forward of a row computes."""

    pairs: Array
    """Keys and values of all tokens of the row, `[layers, 2, tokens, width]`."""
    states: list[Array]
    """Hidden states of the new tokens after each layer, `[new, width]`."""
    experts: list[NDArray[np.int64]]
    """The expert of each new token in each layer, `[new, 1]`."""


def _normed(x: Array) -> Array:
    normed: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return normed


def _product(x: Array, weights: Mapping[str, Array], adapted: Adapter, name: str) -> Array:
    out: Array = x @ weights[name].T
    if name in adapted:
        a, b = adapted[name]
        out += x @ a.T @ b.T
    return out


def _attended(query: Array, keys: Array, values: Array) -> Array:
    """Causal attention of the newest tokens to all."""
    behind = np.arange(len(keys) - len(query), len(keys))[:, None] - np.arange(len(keys))
    scores = np.where(behind >= 0, query @ keys.T / np.sqrt(WIDTH) - SLOPE * behind, -np.inf)
    parts = np.exp(scores - scores.max(-1, keepdims=True))
    mixed: Array = (parts / parts.sum(-1, keepdims=True) @ values).astype(np.float32)
    return mixed
