"""Batches in which the student writes and the teacher scores, among batches of stored signals.

In: a feed of stored signals with its shards, the student as it is at this step, a live teacher of the same tokens. Out:
a feed of the same examples. A share of its micro-batches is on-policy (GKD, Agarwal et al. 2023, arXiv 2306.13649): the
student answers the prompts, and the teacher gives its distribution at every token of the answers. With `takeover` the
teacher writes a token where their distributions are further apart than that (as in SKD, Xu et al. 2024, arXiv
2410.11325, there by rank), so that answers stay where the teacher knows something.

What a batch holds is a function of the student's weights and of torch's random state alone, both of which a resumed
run has: it does what an uninterrupted one does. It does not know optimisers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..capture.prompts import Captured
from ..config import check_numbers
from ..errors import InputError
from ..generate import Decoder, Draw, Sampling, next_tokens
from ..losses import Objective, SparseTargets
from ..models import Model
from ..records import digest
from ..signals import Shard
from ..teachers.examples import Example, TokenizedExample, rendered
from ..teachers.local import Local, Teacher
from ..teachers.settings import Config
from .same_tokens import Feed, FeedBatch, Head, SameBatch, SameTokens, padded, trimmed


@dataclass(frozen=True)
class OnPolicy:
    """How often, and how, a student writes its own answers."""

    share: float = 0.5
    """Share of the micro-batches that are on-policy, above 0 and at most 1."""
    after: int = 0
    """Steps before the first one."""
    takeover: float = 0.0
    """Jensen-Shannon divergence in nats above which the teacher writes the token; 0: never. It is below ln 2 = 0.69."""
    temperature: float = 1.0
    """At which tokens are drawn; 0: greedy."""
    max_new_tokens: int = 0
    """Longest answer in tokens; 0: as long as the stored one."""
    compare: bool = True
    """Train the same student off-policy too, at equal steps, so that the report shows which is better."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(
                f"on_policy.share: {self.share} is not a share; more than 0, at most 1; none: leave it out"
            )
        if not 0 <= self.takeover < math.log(2):
            raise InputError(
                f"on_policy.takeover: {self.takeover} is not allowed; 0 (never) to under {math.log(2):.3f}"
            )
        check_numbers(self, "on_policy", ())


@dataclass(frozen=True)
class Prompted:
    """An example before it is answered: what both sides read, and how long the stored answer is."""

    example: TokenizedExample
    length: int


class OnPolicyFeed:
    """`stored` with a share of its batches on-policy. It counts steps by `told`, which wraps a training's `on_step`."""

    def __init__(self, stored: Feed, taught: Sequence[Captured], student: Model, teacher: Teacher, settings: OnPolicy):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("on_policy: a student that is shared out over processes cannot write; train it on one")
        if settings.takeover and not isinstance(teacher, Local):
            raise InputError("on_policy.takeover: an endpoint cannot take over in the middle of an answer; set it to 0")
        if not isinstance(stored, SameTokens):
            raise InputError("on_policy: takes a student with the teacher's own tokenizer; leave on_policy out")
        self.lengths, self.positions = stored.lengths, stored.positions
        self.stored, self.student, self.teacher, self.settings = stored, student, teacher, settings
        cut = {name: taught[0].config[name] for name in ("top_k", "draws", "share", "keep")}
        self.capture = Config(**cut, batch_tokens=1 << 30)
        self.prompted = [
            prompted
            for signals in taught
            for shard in signals.read()
            for prompted in _prompted(shard, teacher, str(signals.config["teacher_system"]))
        ]
        self.step = self.written = 0

    def told(self, on_step: Callable[[int, str], None]) -> Callable[[int, str], None]:
        """`on_step`, and this feed counts the steps."""

        def listen(n: int = 1, note: str = "") -> None:
            self.step += n
            on_step(n, note)

        return listen

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> FeedBatch:
        """These examples as they are stored, or with the student's own answers."""
        drawn = float(torch.rand(()))
        if self.step < self.settings.after or drawn >= self.settings.share:
            return self.stored.batch(numbers, pad, device)
        seed = int(torch.randint(1 << 31, ()))
        prompted = [self.prompted[i] for i in numbers]
        with answering(self.student):
            answered = write(self.student, self.teacher, prompted, self.settings, seed)
        self.written += sum(len(s.answer) for s in answered)
        return WrittenBatch(self._scored(answered, seed, pad, device), [self.positions[i] for i in numbers])

    def _scored(self, answered: Sequence[TokenizedExample], seed: int, pad: int, device: torch.device) -> SameBatch:
        scored = self.teacher.signals(answered, (), self.capture, digest([seed, [s.x_ids for s in answered]]))
        place = {s: i for i, s in enumerate(scored.examples)}  # the teacher batches them by length
        starts = np.cumsum([0, *scored.counts_N])
        rows = [np.arange(starts[place[s]], starts[place[s] + 1]) for s in answered]
        targets = trimmed(scored.targets.sparse(np.concatenate(rows), device), self.student.vocabulary)
        at_P = np.concatenate([scored.targets.position_P[r] for r in rows])
        row_P = np.repeat(np.arange(len(answered)), [len(r) for r in rows])
        ids_BT, mask_BT = padded([np.array(s.x_ids, np.int64) for s in answered], pad, device)
        return SameBatch(
            ids_BT, mask_BT, torch.from_numpy(row_P).to(device), torch.from_numpy(at_P).to(device), targets
        )


class WrittenBatch:
    """Answers that the student wrote.

    An example weighs what its stored answer would: its mean loss counts once for each of its `positions`. So a step's
    loss stays a mean, whatever the lengths of the answers.
    """

    def __init__(self, inner: SameBatch, positions: Sequence[int]):
        self.inner, self.ids_BT, self.mask_BT = inner, inner.ids_BT, inner.mask_BT
        self.targets: SparseTargets = inner.targets
        self._positions = torch.tensor(positions, device=inner.ids_BT.device)

    def where(self) -> tuple[Tensor, Tensor]:
        return self.inner.where()

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        loss_P = self.inner.losses(hidden_BTH, head, objective)
        sums_B = loss_P.new_zeros(len(self._positions)).index_add(0, self.inner.row_P, loss_P)
        counts_B = torch.bincount(self.inner.row_P, minlength=len(self._positions)).clamp(min=1)
        return (sums_B / counts_B).repeat_interleave(self._positions)


@torch.inference_mode()
def write(
    student: Model, teacher: Teacher, prompted: Sequence[Prompted], settings: OnPolicy, seed: int
) -> list[TokenizedExample]:
    """The student's answers, the token that ends them included.

    Every row stays in the batch until the last answer has ended, because the student's adapters belong to rows.
    """
    decoders = [Decoder(student, [list(a.example.student_prompt) for a in prompted])]
    weights = [1.0]
    if settings.takeover and isinstance(teacher, Local):
        prompts = [list(a.example.teacher_prompt) for a in prompted]
        decoders += [Decoder(m, prompts) for m in teacher.mixture.models]
        weights += teacher.mixture.weights
    limits = [_limit(student, teacher, a, settings) for a in prompted]
    answers: list[list[int]] = [[] for _ in prompted]
    drawn = Sampling(temperature=settings.temperature, seed=seed)
    samplings = [drawn.numbered(row) for row in range(len(prompted))]
    for step in range(max(limits)):
        logits_BV = _next_logits([decoder.step()[:, -1] for decoder in decoders], weights, settings.takeover)
        tokens = next_tokens(logits_BV, [Draw(sampling, step) for sampling in samplings])
        for answer, limit, token in zip(answers, limits, tokens, strict=True):
            if len(answer) < limit and not (answer and answer[-1] in student.stop_ids):
                answer.append(token)
        if all(len(a) >= limit or a[-1] in student.stop_ids for a, limit in zip(answers, limits, strict=True)):
            break
        for decoder in decoders:
            decoder.append(tokens)
    return [
        TokenizedExample(a.example.teacher_prompt, a.example.student_prompt, tuple(ids), a.example.request)
        for a, ids in zip(prompted, answers, strict=True)
    ]


def _next_logits(logits: Sequence[Tensor], weights: Sequence[float], takeover: float) -> Tensor:
    """What the next token of every row is drawn from: the student's log-probabilities, or where they are too far apart
    the teacher's. The first of `logits` are the student's."""
    width = min(part.shape[-1] for part in logits)
    student_BV, *teachers = (torch.log_softmax(part[:, :width].float().cpu(), -1) for part in logits)
    if not teachers:
        return student_BV
    weighted = [part_BV + math.log(weight) for part_BV, weight in zip(teachers, weights[1:], strict=True)]
    teacher_BV = torch.stack(weighted).logsumexp(0)
    return torch.where(jensen_shannon(student_BV, teacher_BV)[:, None] > takeover, teacher_BV, student_BV)


def jensen_shannon(left_BV: Tensor, right_BV: Tensor) -> Tensor:
    """Jensen-Shannon divergence of log-probabilities, nats, `[B]`."""
    middle_BV = torch.logaddexp(left_BV, right_BV) - math.log(2)
    sides = [(p.exp() * (p - middle_BV)).nan_to_num(0.0).sum(-1) for p in (left_BV, right_BV)]
    return (sides[0] + sides[1]) / 2


def _limit(student: Model, teacher: Teacher, prompted: Prompted, settings: OnPolicy) -> int:
    """How many tokens an answer may have."""
    free = min(
        student.context - len(prompted.example.student_prompt),
        teacher.text_model.context - len(prompted.example.teacher_prompt),
    )
    return max(1, min(settings.max_new_tokens or prompted.length, free))


@contextmanager
def answering(student: Model) -> Iterator[None]:
    """Inside, the student answers: without dropout, with a cache of keys and values. Afterwards it is as before."""
    training = student.network.training
    student.network.eval()
    try:
        yield
    finally:
        student.network.train(training)


def _prompted(shard: Shard, teacher: Teacher, system: str) -> Iterator[Prompted]:
    """The prompt of each example of a shard; of running text its first half."""
    for i, x_ids in enumerate(shard.x_ids):
        ids, request = x_ids.tolist(), (shard.requests[i] if shard.requests else None) or "null"
        parsed = json.loads(request) or {}
        example = Example(tuple(parsed.get("messages", ())), parsed.get("text", ""))
        if example.messages or example.text:
            prompt = rendered(teacher.text_model, example, "")
            teacher_prompt = rendered(teacher.text_model, example, system) if system else prompt
        else:
            prompt = teacher_prompt = ids[: max(1, len(ids) // 2)]
        yield Prompted(
            TokenizedExample(tuple(teacher_prompt), tuple(prompt), (), request), max(1, len(ids) - len(prompt))
        )
