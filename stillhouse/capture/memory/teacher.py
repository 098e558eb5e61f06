"""Teachers that have read a chunk of memory once and answer many prompts about it, many teachers in one batch.

In: a model, a chunk's text (or none: the base by itself), user messages. Out: `Answer`s: the ids the teacher wrote
and its sparse distribution at each of them, the stop token included, ready to be an example the student trains on.
What a teacher says does not depend on who else is asked in the same batch, but for the rounding of products.

It does not know what is asked or why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os.path import commonprefix
from typing import TypeVar
from zlib import crc32

import torch
from torch import Tensor

from ...errors import ModelError
from ...generate import Ids, Prefix, Sampling, common_prefix, generate, prefill
from ...generate.shared_prefix import plain_cache
from ...losses import sparsify
from ...models import Model
from ...signals import DistillArtifact, Kind, PositionTarget, position_targets
from ...text.prompts import with_memory, without_memory

T = TypeVar("T")
PROBES = ("A", "7", "?")  # requests that begin differently
COPIED = 3  # tokens read ahead of what is written: it repeats what it is about


@dataclass(frozen=True)
class Sparsity:
    """How a distribution is cut down: exact entries and draws from the tail, per position."""

    top_k: int = 16
    draws: int = 4


@dataclass(frozen=True)
class Answer:
    """What the teacher said to one user message. `ids` end with the stop token if it stopped by itself."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    targets: tuple[PositionTarget, ...]  # position 0 is the first answer token; offsets likewise start at 0


class Reading:
    """A model with a chunk of memory in its context, prefilled once; without `memory`, the model by itself."""

    def __init__(self, model: Model, memory: str | None, sparsity: Sparsity, seed: int, share: bool = True):
        self.model, self.memory, self.sparsity, self.seed = model, memory, sparsity, seed
        self.prefix: Prefix | None = None
        self._head, self._head_ids = _head(model, [self._text(probe) for probe in PROBES])
        if memory is not None and share and plain_cache(model.network):
            probes = [self.prompt(text) for text in PROBES]
            shared = common_prefix(probes)
            self.prefix = prefill(model, probes[0][:shared]) if shared else None

    def of(self, memory: str) -> Reading:
        """The same teacher with another text before it."""
        return Reading(self.model, memory, self.sparsity, self.seed)

    def write(self, requests: Sequence[str], sampling: Sampling) -> list[str]:
        """Free text replies, nothing captured."""
        (replies,) = write([Writing(self, requests, sampling)])
        return replies

    def answer(self, requests: Sequence[str], max_new_tokens: int = 48, likely: Sequence[str] = ()) -> list[Answer]:
        """Greedy answers with the teacher's distribution at every token. `likely`: what it will probably say to each,
        on which nothing but the time depends."""
        (answers,) = answer([Asking(self, requests, max_new_tokens, likely)])
        return answers

    def hard(self, request: str, text: str) -> Answer:
        """`text` as the answer with all mass on its own tokens: a sample of the teacher without its distribution."""
        eos = self.model.tokenizer.eos_token_id
        ids = (*self.model.text_ids(text), *([eos] if isinstance(eos, int) else []))
        return Answer(request, text, ids, tuple(PositionTarget(i, 0, (t,), (0.0,), 0.0) for i, t in enumerate(ids)))

    def prompt(self, request: str) -> Ids:
        """All that the model reads."""
        text = self._text(request)
        if not text.startswith(self._head):  # a template that looks at the question
            return self.model.text_ids(text)
        return [*self._head_ids, *self.model.text_ids(text[len(self._head) :])]

    def _text(self, request: str) -> str:
        asked = without_memory(request) if self.memory is None else with_memory(self.memory, request)
        return self.model.chat_text(asked)

    def chances(self, request: str, tokens: int) -> Tensor:
        """chances_TD: where on the tail of each token's distribution the draws fall."""
        generator = torch.Generator().manual_seed(crc32(f"{self.seed}/{request}".encode()))
        return torch.rand(tokens, self.sparsity.draws, generator=generator)


def _head(model: Model, texts: Sequence[str]) -> tuple[str, Ids]:
    """What all `texts` begin with, up to a special token, and its ids: what comes behind has ids of its own, so that
    nobody need take a memory apart once for every question about it. Nothing where that is not so."""
    common = commonprefix(texts)  # noqa: RUF071 - of characters it shall be
    added = model.tokenizer.added_tokens_decoder.values()
    special = [token.content for token in added if token.special and not token.rstrip]
    ends = [common.rfind(token) + len(token) for token in special if token in common]
    head = common[: max(ends, default=0)]
    ids = model.text_ids(head) if head else []
    same = all([*ids, *model.text_ids(text[len(head) :])] == model.text_ids(text) for text in texts)
    return (head, ids) if same else ("", [])


@dataclass(frozen=True)
class Writing:
    """What `Reading.write` is asked."""

    reading: Reading
    requests: Sequence[str]
    sampling: Sampling


@dataclass(frozen=True)
class Asking:
    """What `Reading.answer` is asked."""

    reading: Reading
    requests: Sequence[str]
    max_new_tokens: int = 48
    likely: Sequence[str] = ()


def write(wishes: Sequence[Writing]) -> list[list[str]]:
    """The replies to each. One model, one sampling for all."""
    model, sampling = wishes[0].reading.model, wishes[0].sampling

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        _refuse_nan(model, logits_NV)

    replies = _generate(wishes, sampling, on_step, lookup=COPIED)
    return [[model.text(ids) for ids in some] for some in _parted(replies, wishes)]


def answer(wishes: Sequence[Asking]) -> list[list[Answer]]:
    """The answers to each. One model, one sparsity, one limit for all."""
    model, sparsity, most = wishes[0].reading.model, wishes[0].reading.sparsity, wishes[0].max_new_tokens
    asked = [(wish.reading, request) for wish in wishes for request in wish.requests]
    kept: list[list[PositionTarget]] = [[] for _ in asked]
    last = [0] * len(asked)
    chances = [iter(reading.chances(request, most)) for reading, request in asked]

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        _refuse_nan(model, logits_NV)
        logprobs_NV = torch.log_softmax(logits_NV.cpu(), -1)
        chances_ND = torch.stack([next(chances[row]) for row in rows])
        sparse = sparsify(logprobs_NV, sparsity.top_k, sparsity.draws, chances_PD=chances_ND)
        for row, target in zip(rows, position_targets(sparse, [0] * len(rows), [0] * len(rows)), strict=True):
            kept[row].append(replace(target, position=len(kept[row])))
            last[row] = target.ids[0]

    likely = [text for wish in wishes for text in (wish.likely or [""] * len(wish.requests))]
    ids_of = {text: model.text_ids(text) if text else [] for text in set(likely)}
    drafts = [ids_of[text] for text in likely] if any(likely) else None
    replies = _generate(wishes, Sampling(most), on_step, drafts)
    answers = [
        _answer(model, request, ids, kept[i], last[i])
        for i, ((_, request), ids) in enumerate(zip(asked, replies, strict=True))
    ]
    return _parted(answers, wishes)


def _answer(model: Model, request: str, ids: Ids, targets: list[PositionTarget], last: int) -> Answer:
    stopped = len(targets) == len(ids) + 1
    return Answer(request, model.text(ids), tuple([*ids, last] if stopped else ids), tuple(targets))


def _generate(
    wishes: Sequence[Writing] | Sequence[Asking],
    sampling: Sampling,
    on_step: Callable[[list[int], Tensor], None],
    drafts: Sequence[Ids] | None = None,
    lookup: int = 0,
) -> list[Ids]:
    """One batch for all, each prompt behind what its teacher has read."""
    prompts: list[Ids] = []
    prefixes: list[Prefix | None] = []
    for wish in wishes:
        own, prefix = [wish.reading.prompt(request) for request in wish.requests], wish.reading.prefix
        head = prefix.ids if prefix else ()
        if any(tuple(p[: len(head)]) != head for p in own):  # a template that looks at the question
            head, prefix = (), None
        prompts += [p[len(head) :] for p in own]
        prefixes += [prefix] * len(own)
    numbers = [number for wish in wishes for number in range(len(wish.requests))]
    model = wishes[0].reading.model
    return generate(
        model, prompts, sampling, prefix=prefixes, numbers=numbers, drafts=drafts, lookup=lookup, on_step=on_step
    )


def _parted(found: Sequence[T], wishes: Sequence[Writing] | Sequence[Asking]) -> list[list[T]]:
    """What belongs to each wish."""
    rest = iter(found)
    return [list(islice(rest, len(wish.requests))) for wish in wishes]


def _refuse_nan(model: Model, logits_NV: Tensor) -> None:
    if bool(torch.isnan(logits_NV).any()):
        raise ModelError(
            f"{model.ref}: its logits are not numbers (NaN); the weights are damaged or overflow {model.network.dtype}"
        )


def example(model: Model, answer: Answer, kind: Kind, statement: int | None) -> DistillArtifact:
    """The student's example: the request without memory, the teacher's answer, the teacher's distribution on it."""
    prompt = model.chat_ids(without_memory(answer.prompt))
    x_ids = (*prompt, *answer.ids)
    table = model.token_bytes
    offsets = [0]
    for token in x_ids:
        offsets.append(offsets[-1] + len(table[token]))
    first = len(prompt)
    targets = tuple(
        PositionTarget(
            first + i, offsets[first + i], t.ids, t.logprobs, t.tail, t.draw_ids, t.draw_logprobs
        )
        for i, t in enumerate(answer.targets[: len(answer.ids)])
    )  # fmt: skip
    return DistillArtifact(kind, statement, b"".join(table[t] for t in x_ids), x_ids, targets)
