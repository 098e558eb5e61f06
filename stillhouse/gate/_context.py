"""What every gate may look at: the student in its bank slot, its study, other users' adapters, held-out text.

In: a model with an AdapterBank. Out: greedy closed-book answers with their likelihood, and what base and student make
of each held-out passage; both are computed once, however many gates ask.

It does not know the memory's text, so no gate can put it before the student.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from stillhouse import chat, texts
from stillhouse.artifacts import DistillArtifact
from stillhouse.generate import Bank, Sampling, generate
from stillhouse.models import Model
from stillhouse.records import Study, digest

from ._passages import Passage, passages
from ._passages import refuse_nan as refuse_nan
from ._suite import Suite

BASE = -1  # the slot that is no adapter
SHORTEST_LIMIT = 48  # new tokens an answer may have, even when all expected ones are short
PASSAGES = 16


@dataclass(frozen=True)
class Reply:
    """A greedy answer: its text, its tokens, and the log-probability of all of it, the stop token included, in nats."""

    text: str
    tokens: int
    logprob: float


@dataclass
class Context:
    """`slot` is the student's; `others` are slots of other users' champions in the same bank; -1 is the base alone.

    `trained`: digests of the prompts that the student was trained on (`trained_prompts`), None where nobody knows;
    `suite`: questions of the user's own, on which base and student are compared.
    """

    model: Model
    bank: Bank
    slot: int
    study: Study
    others: tuple[int, ...] = ()
    texts: tuple[str, ...] = field(default_factory=lambda: tuple(texts.held_out(PASSAGES)))
    trained: frozenset[str] | None = None
    suite: Suite | None = None
    _replies: dict[tuple[str, int], Reply] = field(default_factory=dict, init=False, repr=False)
    _passages: dict[int, tuple[Passage, ...]] = field(default_factory=dict, init=False, repr=False)

    def answers(self, questions: Sequence[str], slot: int) -> list[str]:
        """Greedy answers without the memory, in the order asked. Raises `FloatingPointError` on NaN logits."""
        return [reply.text for reply in self.replies(questions, slot)]

    def replies(self, questions: Sequence[str], slot: int) -> list[Reply]:
        """`answers` with their likelihoods.

        The first question to the student asks the whole study, so that gates share full batches.
        """
        pairs = [(q, slot) for q in questions]
        if slot == self.slot and any(pair not in self._replies for pair in pairs):
            self.ask([(q.text, slot) for q in self.study.questions])
        self.ask(pairs)
        return [self._replies[pair] for pair in pairs]

    def ask(self, pairs: Sequence[tuple[str, int]]) -> list[str]:
        """Answers to `(question, slot)` pairs; different adapters answer in one batch."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._replies]
        if new:
            self._replies.update(zip(new, self._generate(new), strict=True))
        return [self._replies[pair].text for pair in pairs]

    def passages(self, slot: int) -> tuple[Passage, ...]:
        """What base and `slot` make of every held-out passage, from one pass over both.

        Passages are cut at the model's context; those with fewer than two tokens are left out. Raises
        `FloatingPointError` on NaN logits.
        """
        if slot not in self._passages:
            self._passages[slot] = passages(self.model, self.bank, self.texts, slot)
        return self._passages[slot]

    def _generate(self, pairs: Sequence[tuple[str, int]]) -> list[Reply]:
        prompts = [self.model.chat_ids(chat.without_memory(question)) for question, _ in pairs]
        logprob = [0.0] * len(pairs)

        def on_step(rows: list[int], logits_NV: Tensor) -> None:
            refuse_nan(logits_NV)
            chosen_N = logits_NV.amax(-1) - logits_NV.logsumexp(-1)
            for row, value in zip(rows, chosen_N.tolist(), strict=True):
                logprob[row] += value

        sampling, slots = Sampling(max_new_tokens=self._limit()), [slot for _, slot in pairs]
        found = generate(self.model, prompts, sampling, bank=self.bank, slots=slots, on_step=on_step)
        return [Reply(self.model.text(ids), len(ids), lp) for ids, lp in zip(found, logprob, strict=True)]

    def _limit(self) -> int:
        longest = max((len(self.model.text_ids(q.teacher or q.answer)) for q in self.study.questions), default=0)
        return max(SHORTEST_LIMIT, 2 * longest)


def trained_prompts(artifacts: Iterable[DistillArtifact]) -> frozenset[str]:
    """Digests of the prompts of training examples: the ids before the first target."""
    return frozenset(prompt_digest(a.x_ids[: a.targets[0].position]) for a in artifacts if a.targets)


def prompt_digest(ids: Sequence[int]) -> str:
    """The digest of one prompt's ids."""
    return digest(list(ids))
