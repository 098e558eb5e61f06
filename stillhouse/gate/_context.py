"""What every gate may look at: the student in its bank slot, its study, other users' adapters, held-out text.

In: a model with an AdapterBank. Out: greedy closed-book answers, and per passage the likelihoods of base and student
with the divergence between them; both are computed once, however many gates ask.

It does not know the memory's text, so no gate can put it before the student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stillhouse import chat, texts
from stillhouse.generate import Bank, Sampling, generate, score
from stillhouse.models import Model
from stillhouse.records import Study

BASE = -1  # the slot that is no adapter
SHORTEST_LIMIT = 48  # new tokens an answer may have, even when all expected ones are short
PASSAGES = 16


@dataclass(frozen=True)
class TextScore:
    """One passage: negative log-likelihoods and KL(base || student), in nats, summed over `tokens` predictions."""

    tokens: int
    base_nll: float
    student_nll: float
    kl: float


@dataclass
class Context:
    """`slot` is the student's; `others` are slots of other users' champions in the same bank; -1 is the base alone."""

    model: Model
    bank: Bank
    slot: int
    study: Study
    others: tuple[int, ...] = ()
    texts: tuple[str, ...] = field(default_factory=lambda: tuple(texts.held_out(PASSAGES)))
    _answers: dict[tuple[str, int], str] = field(default_factory=dict, init=False, repr=False)
    _scores: dict[int, tuple[TextScore, ...]] = field(default_factory=dict, init=False, repr=False)

    def answers(self, questions: Sequence[str], slot: int) -> list[str]:
        """Greedy answers without the memory, in the order asked. Raises `FloatingPointError` on NaN logits.

        The first question to the student asks the whole study, so that gates share full batches.
        """
        pairs = [(q, slot) for q in questions]
        if slot == self.slot and any(pair not in self._answers for pair in pairs):
            self.ask([(q.text, slot) for q in self.study.questions])
        return self.ask(pairs)

    def ask(self, pairs: Sequence[tuple[str, int]]) -> list[str]:
        """Answers to `(question, slot)` pairs; different adapters answer in one batch."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._answers]
        if new:
            prompts = [self.model.chat_ids(chat.without_memory(question)) for question, _ in new]
            sampling = Sampling(max_new_tokens=self._limit())
            slots = [slot for _, slot in new]
            answers = generate(
                self.model, prompts, sampling, bank=self.bank, slots=slots, on_step=lambda _, logits: refuse_nan(logits)
            )
            self._answers.update((pair, self.model.text(ids)) for pair, ids in zip(new, answers, strict=True))
        return [self._answers[pair] for pair in pairs]

    def text_scores(self, slot: int) -> tuple[TextScore, ...]:
        """Scores of every held-out passage under the base and under `slot`, from one pass over both.

        Passages are cut at the model's context; those with fewer than two tokens are left out. Raises
        `FloatingPointError` on NaN logits.
        """
        if slot not in self._scores:
            passages = [self.model.tokenizer(text)["input_ids"][: self.model.context] for text in self.texts]
            self._scores[slot] = _score(self.model, self.bank, [p for p in passages if len(p) > 1], slot)
        return self._scores[slot]

    def _limit(self) -> int:
        longest = max((len(self.model.text_ids(q.teacher or q.answer)) for q in self.study.questions), default=0)
        return max(SHORTEST_LIMIT, 2 * longest)


def refuse_nan(logits: Tensor) -> None:
    """Raise `FloatingPointError` if any logit is NaN: every comparison with NaN is false, and argmax would pick it."""
    if bool(torch.isnan(logits).any()):
        raise FloatingPointError("the model's logits are not numbers (NaN); the adapter is broken")


def _score(model: Model, bank: Bank, passages: Sequence[list[int]], slot: int) -> tuple[TextScore, ...]:
    """Base and student see each passage side by side: row 2i and row 2i + 1 have one length, so `score` meets them one
    after the other and only one passage's log-probabilities wait at a time."""
    waiting: dict[int, Tensor] = {}
    pairs = [ids for ids in passages for _ in range(2)]
    slots = [row for _ in passages for row in (BASE, slot)]
    found = score(model, pairs, _compare(pairs, waiting), bank=bank, slots=slots)
    assert not waiting, "a passage was scored under the base alone"
    return tuple(s for s in found if s is not None)


def _compare(pairs: Sequence[list[int]], waiting: dict[int, Tensor]) -> Callable[[int, Tensor], TextScore | None]:
    def reduce(row: int, logits_TV: Tensor) -> TextScore | None:
        refuse_nan(logits_TV)
        logp_TV = torch.log_softmax(logits_TV[:-1], -1)
        if row % 2 == 0:
            waiting[row] = logp_TV
            return None
        base_TV = waiting.pop(row - 1)
        next_T1 = torch.tensor(pairs[row][1:], device=logp_TV.device)[:, None]
        terms_TV = torch.where(base_TV > -torch.inf, base_TV.exp() * (base_TV - logp_TV), 0.0)
        return TextScore(
            tokens=len(next_T1),
            base_nll=-float(base_TV.gather(1, next_T1).double().sum()),
            student_nll=-float(logp_TV.gather(1, next_T1).double().sum()),
            kl=float(terms_TV.sum(-1).double().clamp(min=0).sum()),
        )

    return reduce
