"""What every gate may look at: the student in its bank slot, its study, other users' adapters, held-out text.

In: a runner with adapters in its slots. Out: greedy closed-book answers with their likelihood, and what base and
student make of each held-out passage; both are computed once, however many gates ask.

It does not know the memory's text, so no gate can put it before the student.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..models import TextModel
from ..records import Question, Study, digest
from ..runners import BASE as BASE
from ..runners import Runner
from ..signals import DistillArtifact
from ..text import corpus as running_text
from ..text.prompts import UNKNOWN_ANSWER, without_memory
from .grounded.corpus import Corpus
from .grounded.evidence import Limits
from .grounded.responses import Asked, Response, closed_book, prompt_id, respond
from .grounded.trace import Trace, followed
from .grounded.trace_lines import Layer, Token
from .passages import Passage, passages
from .replies import Reply as Reply
from .replies import refuse_nan as refuse_nan
from .replies import replies
from .suite import Suite

SHORTEST_LIMIT = 48  # new tokens an answer may have, even when all expected ones are short
PASSAGES = 16


@dataclass
class Context:
    """`slot` is the student's; `others` are slots of other users' champions in the same runner; `BASE` is the base.

    `trained`: digests of the prompts that the student was trained on (`trained_prompts`), None where nobody knows;
    `suite`: questions of the user's own, on which base and student are compared; `corpus`: passages that the student
    is shown and has to cite, with `limits` for what counts as evidence; `trace`: responses recorded before, to be
    judged in place of new ones.
    """

    runner: Runner
    slot: int
    study: Study
    others: tuple[int, ...] = ()
    texts: tuple[str, ...] = field(default_factory=lambda: tuple(running_text.held_out(PASSAGES)))
    trained: frozenset[str] | None = None
    suite: Suite | None = None
    corpus: Corpus | None = None
    limits: Limits = field(default_factory=Limits)
    trace: Trace | None = None
    _replies: dict[tuple[str, int], Reply] = field(default_factory=dict, init=False, repr=False)
    _shown: dict[tuple[int, ...], Reply] = field(default_factory=dict, init=False, repr=False)
    _passages: dict[int, tuple[Passage, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> TextModel:
        """The text side of the base."""
        return self.runner.model

    def answers(self, questions: Sequence[str], slot: int) -> list[str]:
        """Greedy answers without the memory, in the order asked. Raises `FloatingPointError` on NaN logits."""
        return [reply.text for reply in self.replies(questions, slot)]

    def replies(self, questions: Sequence[str], slot: int) -> list[Reply]:
        """`answers` with their likelihoods.

        The first question to the student asks all that gates ask, so that they share full batches.
        """
        pairs = [(q, slot) for q in questions]
        if slot == self.slot and any(pair not in self._replies for pair in pairs):
            self.ask([(q.text, slot) for q in self.asked])
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
            self._passages[slot] = passages(self.runner, self.texts, slot)
        return self._passages[slot]

    @property
    def asked(self) -> list[Question]:
        """The study's questions that the student is examined on: what the memory answers, and of what it does not, the
        part that nothing was trained on, which tells more."""
        return [q for q in self.study.questions if q.use == "held_out" or q.direction != "unknown"]

    @property
    def held_out(self) -> list[Question]:
        """The study's questions that nothing was trained on, answerable and not."""
        return [q for q in self.study.questions if q.use == "held_out"]

    def closed(self) -> list[Response]:
        """The student's closed-book responses to the held-out questions, from the trace where there is one."""
        if self.trace is not None:
            return self.trace.of([prompt_id(q.text, grounded=False) for q in self.held_out])
        found = self.replies([q.text for q in self.held_out], self.slot)
        return [closed_book(q.text, q.direction == "unknown", r) for q, r in zip(self.held_out, found, strict=True)]

    def grounded(self, corpus: Corpus | None = None) -> list[Response] | None:
        """The student's responses with passages of `corpus`, or of the context's own, before it; from the trace where
        there is one. None where there is no corpus, or none was used for the trace."""
        if self.trace is not None:
            used = any(r.evidence is not None for r in self.trace.responses)
            return self.trace.of([prompt_id(q, grounded=True) for q in self.prompts]) if used else None
        return [response for response, _, _ in self._responded(corpus)] if corpus or self.corpus else None

    @property
    def prompts(self) -> list[str]:
        """The questions asked with passages: those of the suite that have no choices, else the held-out ones."""
        own = [item.question for item in self.suite.items if not item.choices] if self.suite else []
        return own or list(dict.fromkeys(q.text for q in self.held_out))

    def traced(self) -> Iterator[Token | Layer | Response]:
        """What `write_trace` takes: every response of this run once, after its tokens and their layers."""
        texts = [q.text for q in self.held_out]
        prompts = [tuple(self.model.chat_ids(without_memory(text))) for text in texts]
        whole = list(zip(self.closed(), prompts, self.replies(texts, self.slot), strict=True))
        if self.corpus:
            whole += [(response, asked.prompt, reply) for response, asked, reply in self._responded(None)]
        for response, prompt, reply in {r.prompt_id: (r, prompt, reply) for r, prompt, reply in whole}.values():
            yield from followed(self.runner, self.slot, response.prompt_id, prompt, reply.ids)
            yield response

    def _responded(self, corpus: Corpus | None) -> list[tuple[Response, Asked, Reply]]:
        used = corpus or self.corpus
        assert used is not None, "whoever asks with passages has some"
        return respond(self.model, self.prompts, used, self.limits, self._limit, self._answered)

    def _answered(self, prompts: Sequence[list[int]]) -> list[Reply]:
        """The student's replies to prompts as ids; each is computed once."""
        new = [p for p in dict.fromkeys(map(tuple, prompts)) if p not in self._shown]
        if new:
            slots = [self.slot] * len(new)
            found = replies(self.runner, [list(p) for p in new], slots, self._limit)
            self._shown.update(zip(new, found, strict=True))
        return [self._shown[tuple(p)] for p in prompts]

    def _generate(self, pairs: Sequence[tuple[str, int]]) -> list[Reply]:
        prompts = [self.model.chat_ids(without_memory(question)) for question, _ in pairs]
        known = {q.text: q.teacher or q.answer for q in self.study.questions}
        likely = [known.get(text, UNKNOWN_ANSWER) if slot == self.slot else UNKNOWN_ANSWER for text, slot in pairs]
        ids_of = {text: self.model.text_ids(text) for text in set(likely)}
        slots, drafts = [slot for _, slot in pairs], [ids_of[text] for text in likely]
        return replies(self.runner, prompts, slots, self._limit, drafts)

    @cached_property
    def _limit(self) -> int:
        longest = max((len(self.model.text_ids(q.teacher or q.answer)) for q in self.study.questions), default=0)
        return max(SHORTEST_LIMIT, 2 * longest)


def trained_prompts(artifacts: Iterable[DistillArtifact]) -> frozenset[str]:
    """Digests of the prompts of training examples: the ids before the first target."""
    return frozenset(prompt_digest(a.x_ids[: a.targets[0].position]) for a in artifacts if a.targets)


def prompt_digest(ids: Sequence[int]) -> str:
    """The digest of one prompt's ids."""
    return digest(list(ids))
