"""Who writes signals: what any teacher of a data set can do, and the one that is made of models on this machine.

In: examples in token ids, with answers or without. Out: all of them with answers and signals. Several models of one
tokenizer are one teacher: their distributions are mixed, each answer is written by one of them, drawn by weight.

It does not know files or data sets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..compute.packed import packing
from ..compute.threads import fastest_threads
from ..errors import InputError
from ..generate import Sampling, batches, generate
from ..models import Model, align
from ..records import digest
from ..signals.columns import Ints, Targets, concatenate
from .examples import Spoken, Words, end
from .scoring import Mixture, nothing, targets
from .settings import Config


@dataclass(frozen=True)
class Said:
    """Examples with their answers, `counts_N` positions of `targets` each."""

    spoken: tuple[Spoken, ...]
    targets: Targets
    counts_N: Ints


class Teacher(Protocol):
    """Who writes signals. `tail` says what a shard knows of the mass outside its exact entries: "sampled" draws, or
    "mass" alone. `fingerprint` changes with anything that changes what it says."""

    @property
    def words(self) -> Words: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def tail(self) -> str: ...

    def signals(
        self, given: Sequence[Spoken], asked: Sequence[Spoken], config: Config, key: str, kept: Path | None = None
    ) -> Said:
        """Signals on the answers of `given` and on those it writes for `asked`. `key` (hex) seeds what is drawn;
        `kept` is a file of its own, for what must not be asked twice."""
        ...

    def replies(self, prompts: Sequence[list[int]], longest: int) -> list[str]:
        """Greedy answers as text."""
        ...


@dataclass(frozen=True)
class Local:
    """Models on this machine. `models[0]` renders prompts."""

    mixture: Mixture
    tail: str = "sampled"

    @classmethod
    def of(cls, *models: Model, weights: Sequence[float] = ()) -> Local:
        """One model, or several with a weight each. `InputError` where their tokens differ, or for a weight."""
        parts = tuple(weights) or (1.0,) * len(models)
        if len(parts) != len(models):
            raise InputError(f"{len(models)} teachers and {len(parts)} weights; each teacher has one")
        for model, weight in zip(models, parts, strict=True):
            if not weight > 0:
                raise InputError(f"teacher.mix: {model.ref} weighs {weight}; a weight is more than 0")
            if model is not models[0]:
                _check_alike(models[0], model)
        return cls(Mixture(models, tuple(w / sum(parts) for w in parts)))

    @property
    def words(self) -> Model:
        return self.mixture.models[0]

    @property
    def vocabulary(self) -> int:
        return self.mixture.vocabulary

    @property
    def fingerprint(self) -> str:
        if len(self.mixture.models) == 1:
            return self.words.fingerprint
        return digest(["mixture", [m.fingerprint for m in self.mixture.models], list(self.mixture.weights)])

    def signals(
        self, given: Sequence[Spoken], asked: Sequence[Spoken], config: Config, key: str, kept: Path | None = None
    ) -> Said:
        with fastest_threads(self.words), packing(model.network for model in self.mixture.models):
            return self._signals(given, asked, config, key)

    def _signals(self, given: Sequence[Spoken], asked: Sequence[Spoken], config: Config, key: str) -> Said:
        spoken = [*given, *self._written(asked, config, int(key[:8], 16) + config.seed)]
        generator = torch.Generator(device=self.words.device).manual_seed(int(key[:15], 16))
        order: list[Spoken] = []
        found: list[Targets] = []
        counts: list[Ints] = []
        for rows in batches([len(s.teacher_prompt) + len(s.answer) for s in spoken], config.batch_tokens):
            some = [spoken[i] for i in rows]
            signals, counts_N = targets(self.mixture, some, config, generator)
            order += some
            found.append(signals)
            counts.append(counts_N)
        if not order:
            return Said((), nothing(), np.zeros(0, np.int64))
        return Said(tuple(order), concatenate(found), np.concatenate(counts))

    def replies(self, prompts: Sequence[list[int]], longest: int) -> list[str]:
        return [self.words.text(ids) for ids in generate(self.words, prompts, Sampling(longest))] if prompts else []

    def _written(self, asked: Sequence[Spoken], config: Config, seed: int) -> list[Spoken]:
        """Every example with an answer of one of the models; those answered with nothing at all are left out."""
        draw = random.Random(seed)
        writers = draw.choices(range(len(self.mixture.models)), self.mixture.weights, k=len(asked))
        answers: dict[int, tuple[int, ...]] = {}
        for number, model in enumerate(self.mixture.models):
            mine = [i for i, writer in enumerate(writers) if writer == number]
            if mine:
                answers |= zip(mine, _answers(model, [asked[i] for i in mine], config, seed + number), strict=True)
        return [replace(s, answer=answers[i]) for i, s in enumerate(asked) if answers[i]]


def _answers(model: Model, asked: Sequence[Spoken], config: Config, seed: int) -> list[tuple[int, ...]]:
    """Answers, with the token that ends them where they did not run out of room."""
    sampling = Sampling(config.max_new_tokens, config.temperature, seed)
    found = generate(model, [list(s.teacher_prompt) for s in asked], sampling)
    rooms = [min(config.max_new_tokens, model.context - len(s.teacher_prompt)) for s in asked]
    return [(*ids, *(end(model) if len(ids) < room else [])) for ids, room in zip(found, rooms, strict=True)]


def _check_alike(first: Model, other: Model) -> None:
    if not align.same_vocabulary(first.token_bytes, other.token_bytes):
        raise InputError(
            f"teacher.mix: the tokenizers of {first.ref} and {other.ref} differ; only distributions over the same "
            "tokens can be mixed. Capture them one by one, and train on both"
        )
