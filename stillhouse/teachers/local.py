"""The interface of teachers that write signals on a data set, and the teacher made of models on this machine.

In: examples in token ids, with answers or without. Out: all of them with answers and signals. Several models of one
tokenizer can be one teacher. Their distributions are mixed, and each answer is written by one model, drawn by weight.

It does not know files or data sets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..compute.packed import packing
from ..compute.threads import fastest_threads
from ..errors import InputError
from ..generate import Sampling, batches, generate
from ..models import Model, TextModel, align
from ..records import digest
from ..signals.columns import Ints, Targets, concatenate
from .examples import TokenizedExample, TokenizedExamples, end
from .scoring import Mixture, nothing, targets
from .settings import Config


@dataclass(frozen=True)
class TeacherSignals:
    """N examples with their answers. Example n has the next `counts_N[n]` positions of `targets`."""

    examples: tuple[TokenizedExample, ...]
    targets: Targets
    counts_N: Ints


class Teacher(Protocol):
    """Writes signals. `tail`: what a shard holds of the mass outside the exact entries, "sampled" draws or the "mass"
    alone. `fingerprint` changes with anything that changes the signals."""

    @property
    def text_model(self) -> TextModel: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def tail(self) -> str: ...

    def signals(
        self,
        given: TokenizedExamples,
        asked: TokenizedExamples,
        config: Config,
        key: str,
        kept: Path | None = None,
    ) -> TeacherSignals:
        """Signals on the answers of `given`, and on the answers that the teacher writes for `asked`.

        `key` (hex): the seed of all draws. `kept`: a file for replies of an endpoint, so that no request is sent twice.
        """
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
    def text_model(self) -> Model:
        return self.mixture.models[0]

    @property
    def vocabulary(self) -> int:
        return self.mixture.vocabulary

    @property
    def fingerprint(self) -> str:
        if len(self.mixture.models) == 1:
            return self.text_model.fingerprint
        return digest(["mixture", [m.fingerprint for m in self.mixture.models], list(self.mixture.weights)])

    def signals(
        self,
        given: TokenizedExamples,
        asked: TokenizedExamples,
        config: Config,
        key: str,
        kept: Path | None = None,
    ) -> TeacherSignals:
        with ExitStack() as packed:
            packed.enter_context(fastest_threads(self.text_model))
            for model in self.mixture.models:
                packed.enter_context(packing(model.network, once=model.once))
            return self._signals(given, asked, config, key)

    def _signals(self, given: TokenizedExamples, asked: TokenizedExamples, config: Config, key: str) -> TeacherSignals:
        examples = [*given, *self._written(asked, config, int(key[:8], 16) + config.seed)]
        generator = torch.Generator(device=self.text_model.device).manual_seed(int(key[:15], 16))
        order: list[TokenizedExample] = []
        parts: list[Targets] = []
        counts: list[Ints] = []
        for rows in batches([len(s.teacher_prompt) + len(s.answer) for s in examples], config.batch_tokens):
            batch = [examples[i] for i in rows]
            signals, counts_N = targets(self.mixture, batch, config, generator)
            order += batch
            parts.append(signals)
            counts.append(counts_N)
        if not order:
            return TeacherSignals((), nothing(), np.zeros(0, np.int64))
        return TeacherSignals(tuple(order), concatenate(parts), np.concatenate(counts))

    def replies(self, prompts: Sequence[list[int]], longest: int) -> list[str]:
        answers = generate(self.text_model, prompts, Sampling(longest)) if prompts else []
        return [self.text_model.text(ids) for ids in answers]

    def _written(self, asked: TokenizedExamples, config: Config, seed: int) -> list[TokenizedExample]:
        """Every example with an answer by one of the models; an example whose answer is empty is left out."""
        draw = random.Random(seed)
        writers = draw.choices(range(len(self.mixture.models)), self.mixture.weights, k=len(asked))
        answers: dict[int, tuple[int, ...]] = {}
        for number, model in enumerate(self.mixture.models):
            mine = [i for i, writer in enumerate(writers) if writer == number]
            if mine:
                answers |= zip(mine, _answers(model, [asked[i] for i in mine], config, seed + number), strict=True)
        return [replace(s, answer=answers[i]) for i, s in enumerate(asked) if answers[i]]


def _answers(model: Model, asked: TokenizedExamples, config: Config, seed: int) -> list[tuple[int, ...]]:
    """Answers, each with its end token where it ended before the limit."""
    sampling = Sampling(config.max_new_tokens, config.temperature, seed)
    answers = generate(model, [list(s.teacher_prompt) for s in asked], sampling)
    limits = [min(config.max_new_tokens, model.context - len(s.teacher_prompt)) for s in asked]
    return [(*ids, *(end(model) if len(ids) < limit else [])) for ids, limit in zip(answers, limits, strict=True)]


def _check_alike(first: Model, other: Model) -> None:
    if not align.same_vocabulary(first.token_bytes, other.token_bytes):
        raise InputError(
            f"teacher.mix: the tokenizers of {first.ref} and {other.ref} differ; only distributions over the same "
            "tokens can be mixed. Capture them one by one, and train on both"
        )
