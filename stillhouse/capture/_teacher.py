"""A teacher that has read a chunk of memory once and answers many prompts about it.

In: a model, the chunk's text (or none: the base by itself), user messages. Out: `Answer`s: the ids the teacher wrote
and its sparse distribution at each of them, the stop token included, ready to be an example the student trains on.

It does not know what is asked or why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import chat
from .._generate_shared import plain_cache
from ..artifacts import DistillArtifact, Kind, PositionTarget, position_targets
from ..errors import ModelError
from ..generate import Ids, Prefix, Sampling, common_prefix, generate, prefill
from ..losses import sparsify
from ..models import Model

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
        self.model, self.memory, self.sparsity = model, memory, sparsity
        self.draws = torch.Generator(device="cpu").manual_seed(seed)
        self.prefix: Prefix | None = None
        if memory is not None and share and plain_cache(model.network):
            probes = [self._prompt(text) for text in ("A", "7", "?")]
            shared = common_prefix(probes)
            self.prefix = prefill(model, probes[0][:shared]) if shared else None

    def of(self, memory: str) -> Reading:
        """The same teacher with another text before it."""
        return Reading(self.model, memory, self.sparsity, self.draws.initial_seed())

    def write(self, requests: Sequence[str], sampling: Sampling) -> list[str]:
        """Free text replies, nothing captured."""

        def on_step(rows: list[int], logits_NV: Tensor) -> None:
            _refuse_nan(self.model, logits_NV)

        replies = self._generate(requests, sampling, on_step, lookup=COPIED)
        return [self.model.text(ids) for ids in replies]

    def answer(self, requests: Sequence[str], max_new_tokens: int = 48, likely: Sequence[str] = ()) -> list[Answer]:
        """Greedy answers with the teacher's distribution at every token. `likely`: what it will probably say to each,
        on which nothing but the time depends."""
        kept: list[list[PositionTarget]] = [[] for _ in requests]
        last: list[int] = [0] * len(requests)

        def on_step(rows: list[int], logits_NV: Tensor) -> None:
            _refuse_nan(self.model, logits_NV)
            logprobs_NV = torch.log_softmax(logits_NV.cpu(), -1)
            sparse = sparsify(logprobs_NV, self.sparsity.top_k, self.sparsity.draws, self.draws)
            for row, target in zip(rows, position_targets(sparse, [0] * len(rows), [0] * len(rows)), strict=True):
                kept[row].append(replace(target, position=len(kept[row])))
                last[row] = target.ids[0]

        ids_of = {text: self.model.text_ids(text) for text in set(likely)}
        drafts = [ids_of[text] for text in likely] or None
        replies = self._generate(requests, Sampling(max_new_tokens), on_step, drafts)
        return [
            self._answer(request, ids, kept[i], last[i])
            for i, (request, ids) in enumerate(zip(requests, replies, strict=True))
        ]

    def hard(self, request: str, text: str) -> Answer:
        """`text` as the answer with all mass on its own tokens: a sample of the teacher without its distribution."""
        eos = self.model.tokenizer.eos_token_id
        ids = (*self.model.text_ids(text), *([eos] if isinstance(eos, int) else []))
        return Answer(request, text, ids, tuple(PositionTarget(i, 0, (t,), (0.0,), 0.0) for i, t in enumerate(ids)))

    def _answer(self, request: str, ids: Ids, targets: list[PositionTarget], last: int) -> Answer:
        stopped = len(targets) == len(ids) + 1
        return Answer(request, self.model.text(ids), tuple([*ids, last] if stopped else ids), tuple(targets))

    def _generate(
        self,
        requests: Sequence[str],
        sampling: Sampling,
        on_step: Callable[[list[int], Tensor], None],
        drafts: Sequence[Ids] | None = None,
        lookup: int = 0,
    ) -> list[Ids]:
        prompts, prefix = [self._prompt(r) for r in requests], self.prefix
        head = prefix.ids if prefix else ()
        if any(tuple(p[: len(head)]) != head for p in prompts):  # a template that looks at the question
            head, prefix = (), None
        own = [p[len(head) :] for p in prompts]
        return generate(self.model, own, sampling, prefix=prefix, drafts=drafts, lookup=lookup, on_step=on_step)

    def _prompt(self, request: str) -> Ids:
        if self.memory is None:
            return self.model.chat_ids(chat.without_memory(request))
        return self.model.chat_ids(chat.with_memory(self.memory, request))


def _refuse_nan(model: Model, logits_NV: Tensor) -> None:
    if bool(torch.isnan(logits_NV).any()):
        raise ModelError(
            f"{model.ref}: its logits are not numbers (NaN); the weights are damaged or overflow {model.network.dtype}"
        )


def example(model: Model, answer: Answer, kind: Kind, statement: int | None) -> DistillArtifact:
    """The student's example: the request without memory, the teacher's answer, the teacher's distribution on it."""
    prompt = model.chat_ids(chat.without_memory(answer.prompt))
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
