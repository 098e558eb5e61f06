"""Teachers that have read a chunk of memory once and answer many prompts about it, many teachers in one batch.

In: a model, a chunk's text (or none: the base by itself), prompts. Out: `TeacherAnswer`s: the ids that the teacher
wrote, and its sparse distribution at each of them, the stop token included; `example` makes of one what the student
trains on. An answer does not depend on the other teachers in its batch, but for the rounding of products.

It does not know what the prompts ask, or why.
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
from ...generate.prefix import plain_cache
from ...models import Model
from ...signals import DistillArtifact, Kind, PositionTarget, position_targets
from ...signals.sparsify import Sparsity, sparsify
from ...text.prompts import with_memory, without_memory

T = TypeVar("T")
PROBES = ("A", "7", "?")  # prompts that begin differently
COPIED = 3  # tokens guessed ahead while a teacher writes: its questions repeat what the memory says


@dataclass(frozen=True)
class TeacherAnswer:
    """The teacher's answer to one prompt. `ids` end with the stop token if the teacher stopped by itself."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    targets: tuple[PositionTarget, ...]  # position 0 is the first token of the answer; all offsets are 0


class MemoryTeacher:
    """A model with a chunk of memory in its context, prefilled once; without `memory`, the model by itself.

    `share`: whether the answers share the keys and values of the prefilled context; it changes nothing but the time.
    """

    def __init__(self, model: Model, memory: str | None, sparsity: Sparsity, seed: int, share: bool = True):
        self.model, self.memory, self.sparsity, self.seed = model, memory, sparsity, seed
        self.prefix: Prefix | None = None
        self._head, self._head_ids = _head(model, [self._text(probe) for probe in PROBES])
        if memory is not None and share and plain_cache(model.network):
            probes = [self.prompt_ids(text) for text in PROBES]
            shared = common_prefix(probes)
            self.prefix = prefill(model, probes[0][:shared]) if shared else None

    def with_memory(self, memory: str) -> MemoryTeacher:
        """The same teacher with another text in its context."""
        return MemoryTeacher(self.model, memory, self.sparsity, self.seed)

    def write(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Free text for each prompt; no distribution is kept."""
        (texts,) = write([WriteRequest(self, prompts, sampling)])
        return texts

    def answer(
        self, prompts: Sequence[str], max_new_tokens: int = 48, likely: Sequence[str] = ()
    ) -> list[TeacherAnswer]:
        """Greedy answers with the teacher's distribution at every token.

        `likely`: the probable answer to each prompt. A right guess saves time; no answer depends on it.
        """
        (answers,) = answer([AnswerRequest(self, prompts, max_new_tokens, likely)])
        return answers

    def hard_answer(self, prompt: str, text: str) -> TeacherAnswer:
        """`text` as the answer, with all mass on its own tokens: a label without the teacher's distribution."""
        eos = self.model.tokenizer.eos_token_id
        ids = (*self.model.text_ids(text), *([eos] if isinstance(eos, int) else []))
        targets = tuple(PositionTarget(i, 0, (t,), (0.0,), 0.0) for i, t in enumerate(ids))
        return TeacherAnswer(prompt, text, ids, targets)

    def prompt_ids(self, prompt: str) -> Ids:
        """The ids of all that the model reads for a prompt, its memory and template included."""
        text = self._text(prompt)
        if not text.startswith(self._head):  # a template that looks at the prompt
            return self.model.text_ids(text)
        return [*self._head_ids, *self.model.text_ids(text[len(self._head) :])]

    def _text(self, prompt: str) -> str:
        messages = without_memory(prompt) if self.memory is None else with_memory(self.memory, prompt)
        return self.model.chat_text(messages)

    def chances(self, prompt: str, tokens: int) -> Tensor:
        """chances_TD in [0, 1): which part of the tail each draw falls into, for every token of an answer."""
        generator = torch.Generator().manual_seed(crc32(f"{self.seed}/{prompt}".encode()))
        return torch.rand(tokens, self.sparsity.draws, generator=generator)


def _head(model: Model, texts: Sequence[str]) -> tuple[str, Ids]:
    """The common beginning of `texts`, up to its last special token, and the ids of that beginning.

    Tokens do not reach across a special token, so a memory is tokenised once and not again for every prompt. Empty
    where the ids of a text are not those of its two parts.
    """
    common = commonprefix(texts)  # noqa: RUF071 - characters, not path components
    added = model.tokenizer.added_tokens_decoder.values()
    special = [token.content for token in added if token.special and not token.rstrip]
    ends = [common.rfind(token) + len(token) for token in special if token in common]
    head = common[: max(ends, default=0)]
    ids = model.text_ids(head) if head else []
    same = all([*ids, *model.text_ids(text[len(head) :])] == model.text_ids(text) for text in texts)
    return (head, ids) if same else ("", [])


@dataclass(frozen=True)
class WriteRequest:
    """What `MemoryTeacher.write` is asked for."""

    teacher: MemoryTeacher
    prompts: Sequence[str]
    sampling: Sampling


@dataclass(frozen=True)
class AnswerRequest:
    """What `MemoryTeacher.answer` is asked for."""

    teacher: MemoryTeacher
    prompts: Sequence[str]
    max_new_tokens: int = 48
    likely: Sequence[str] = ()


def write(requests: Sequence[WriteRequest]) -> list[list[str]]:
    """The texts for each request. All requests have one model and one sampling."""
    model, sampling = requests[0].teacher.model, requests[0].sampling

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        _refuse_nan(model, logits_NV)

    outputs = _generate(requests, sampling, on_step, lookup=COPIED)
    return [[model.text(ids) for ids in part] for part in _by_request(outputs, requests)]


def answer(requests: Sequence[AnswerRequest]) -> list[list[TeacherAnswer]]:
    """The answers to each request. All requests have one model, one sparsity and one limit."""
    first = requests[0]
    model, sparsity, limit = first.teacher.model, first.teacher.sparsity, first.max_new_tokens
    prompts = [(request.teacher, prompt) for request in requests for prompt in request.prompts]
    targets: list[list[PositionTarget]] = [[] for _ in prompts]
    last = [0] * len(prompts)  # the likeliest token of the last step, which is the stop token where one was written
    chances = [iter(teacher.chances(prompt, limit)) for teacher, prompt in prompts]

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        _refuse_nan(model, logits_NV)
        logprobs_NV = torch.log_softmax(logits_NV.cpu(), -1)
        chances_ND = torch.stack([next(chances[row]) for row in rows])
        sparse = sparsify(logprobs_NV, sparsity.top_k, sparsity.draws, chances_PD=chances_ND)
        for row, target in zip(rows, position_targets(sparse, [0] * len(rows), [0] * len(rows)), strict=True):
            targets[row].append(replace(target, position=len(targets[row])))
            last[row] = target.ids[0]

    likely = [text for request in requests for text in (request.likely or [""] * len(request.prompts))]
    ids_of = {text: model.text_ids(text) if text else [] for text in set(likely)}
    drafts = [ids_of[text] for text in likely] if any(likely) else None
    outputs = _generate(requests, Sampling(limit), on_step, drafts)
    answers = [
        _answer(model, prompt, ids, targets[row], last[row])
        for row, ((_, prompt), ids) in enumerate(zip(prompts, outputs, strict=True))
    ]
    return _by_request(answers, requests)


def _answer(model: Model, prompt: str, ids: Ids, targets: list[PositionTarget], last: int) -> TeacherAnswer:
    stopped = len(targets) == len(ids) + 1
    return TeacherAnswer(prompt, model.text(ids), tuple([*ids, last] if stopped else ids), tuple(targets))


def _generate(
    requests: Sequence[WriteRequest] | Sequence[AnswerRequest],
    sampling: Sampling,
    on_step: Callable[[list[int], Tensor], None],
    drafts: Sequence[Ids] | None = None,
    lookup: int = 0,
) -> list[Ids]:
    """The outputs for all prompts of all requests, in one batch; each stands behind its teacher's prefix."""
    prompts: list[Ids] = []
    prefixes: list[Prefix | None] = []
    for request in requests:
        own, prefix = [request.teacher.prompt_ids(prompt) for prompt in request.prompts], request.teacher.prefix
        head = prefix.ids if prefix else ()
        if any(tuple(ids[: len(head)]) != head for ids in own):  # a template that looks at the prompt
            head, prefix = (), None
        prompts += [ids[len(head) :] for ids in own]
        prefixes += [prefix] * len(own)
    numbers = [number for request in requests for number in range(len(request.prompts))]
    model = requests[0].teacher.model
    return generate(
        model, prompts, sampling, prefix=prefixes, numbers=numbers, drafts=drafts, lookup=lookup, on_step=on_step
    )


def _by_request(results: Sequence[T], requests: Sequence[WriteRequest] | Sequence[AnswerRequest]) -> list[list[T]]:
    """The results of each request."""
    rest = iter(results)
    return [list(islice(rest, len(request.prompts))) for request in requests]


def _refuse_nan(model: Model, logits_NV: Tensor) -> None:
    if bool(torch.isnan(logits_NV).any()):
        raise ModelError(
            f"{model.ref}: its logits are not numbers (NaN); the weights are damaged or overflow {model.network.dtype}"
        )


def example(model: Model, answer: TeacherAnswer, kind: Kind, statement: int | None) -> DistillArtifact:
    """The student's example: the prompt without memory, the teacher's answer, the teacher's distribution on it."""
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
