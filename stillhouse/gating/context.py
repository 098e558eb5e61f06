"""What every gate may look at: the student in its adapter slot, its study, other users' adapters, held-out text.

In: a runner with adapters in its slots. Out: greedy closed-book answers with their likelihood, and comparisons of base
and student on held-out passages. Each is computed once, however many gates ask.

It does not know the memory's text, so no gate can show it to the student.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..models import TextModel
from ..records import Question, Study, digest
from ..runners import Runner
from ..signals import DistillArtifact
from ..text.answers import Expected
from ..text.corpus import held_out
from ..text.prompts import UNKNOWN_ANSWER, without_memory
from .answers import expectations
from .grounded.corpus import Corpus
from .grounded.evidence import LabelThresholds
from .grounded.responses import GroundedPrompt, ResponseRecord, closed_book, prompt_id, respond
from .grounded.trace import Trace, token_records
from .grounded.trace_lines import TraceRecord
from .passages import PassageComparison, compare_passages
from .scored_answers import ScoredAnswer, scored_answers
from .suite import Suite

SHORTEST_LIMIT = 48  # new tokens that an answer may have, even when all expected ones are short
PASSAGES = 16  # of held-out text


@dataclass
class Context:
    """Everything that gates may ask of one candidate. `BASE` is the slot of the base alone."""

    runner: Runner
    slot: int
    """The student's adapter slot."""
    study: Study
    others: tuple[int, ...] = ()
    """Slots of other users' champions in the same runner."""
    texts: tuple[str, ...] = field(default_factory=lambda: tuple(held_out(PASSAGES)))
    """Held-out passages of running text, on which base and student are compared."""
    trained: frozenset[str] | None = None
    """Digests of the prompts that the student was trained on (`trained_prompts`); None where nobody knows them."""
    suite: Suite | None = None
    """Questions of the user's own, on which base and student are compared."""
    corpus: Corpus | None = None
    """Passages that the student is shown and has to cite."""
    label_thresholds: LabelThresholds = field(default_factory=LabelThresholds)
    """Thresholds of the labels that the corpus's evidence gives to questions."""
    trace: Trace | None = None
    """Responses recorded before, which are judged in place of new ones."""
    _answers: dict[tuple[str, int], ScoredAnswer] = field(default_factory=dict, init=False, repr=False)
    _prompt_answers: dict[tuple[int, ...], ScoredAnswer] = field(default_factory=dict, init=False, repr=False)
    _comparisons: dict[int, tuple[PassageComparison, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> TextModel:
        """The text side of the base."""
        return self.runner.model

    def answers(self, questions: Sequence[str], slot: int) -> list[str]:
        """Greedy answers without the memory, in the order asked. Raises `FloatingPointError` on NaN logits."""
        return [answer.text for answer in self.scored_answers(questions, slot)]

    def scored_answers(self, questions: Sequence[str], slot: int) -> list[ScoredAnswer]:
        """`answers` with their likelihoods.

        The first question to the student asks all `examined_questions`, so that they share full batches.
        """
        pairs = [(q, slot) for q in questions]
        if slot == self.slot and any(pair not in self._answers for pair in pairs):
            self.ask([(q.text, slot) for q in self.examined_questions])
        self.ask(pairs)
        return [self._answers[pair] for pair in pairs]

    def ask(self, pairs: Sequence[tuple[str, int]]) -> list[str]:
        """Answers to `(question, slot)` pairs. Different adapters answer in one batch."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._answers]
        if new:
            self._answers.update(zip(new, self._generate(new), strict=True))
        return [self._answers[pair].text for pair in pairs]

    def passage_comparisons(self, slot: int) -> tuple[PassageComparison, ...]:
        """Base and `slot` compared on every held-out passage.

        Passages are cut at the model's context; those with fewer than two tokens are left out. Raises
        `FloatingPointError` on NaN logits.
        """
        if slot not in self._comparisons:
            self._comparisons[slot] = compare_passages(self.runner, self.texts, slot)
        return self._comparisons[slot]

    @property
    def examined_questions(self) -> list[Question]:
        """The study's questions that the student is examined on: all that the memory answers. Of those that it does not
        answer, only the held-out ones, which tell more."""
        return [q for q in self.study.questions if q.use == "held_out" or q.direction != "unknown"]

    @property
    def held_out_questions(self) -> list[Question]:
        """The study's questions that nothing was trained on, answerable and not."""
        return [q for q in self.study.questions if q.use == "held_out"]

    @property
    def grounded_questions(self) -> list[str]:
        """The questions that are asked with passages: those of the suite without choices, else the held-out ones."""
        own = [item.question for item in self.suite.items if not item.choices] if self.suite else []
        return own or list(dict.fromkeys(q.text for q in self.held_out_questions))

    def closed_book_responses(self) -> list[ResponseRecord]:
        """The student's closed-book responses to the held-out questions, from the trace where there is one."""
        questions = self.held_out_questions
        if self.trace is not None:
            return self.trace.responses_to([prompt_id(q.text, grounded=False) for q in questions])
        answers = self.scored_answers([q.text for q in questions], self.slot)
        return [closed_book(q.text, q.direction == "unknown", a) for q, a in zip(questions, answers, strict=True)]

    def grounded_responses(self, corpus: Corpus | None = None) -> list[ResponseRecord] | None:
        """The student's responses with passages of `corpus`, or of the context's own, in the prompt.

        They come from the trace where there is one. None where there is no corpus, or where the trace was written
        without one.
        """
        if self.trace is not None:
            used = any(r.evidence is not None for r in self.trace.responses)
            prompt_ids = [prompt_id(q, grounded=True) for q in self.grounded_questions]
            return self.trace.responses_to(prompt_ids) if used else None
        used_corpus = corpus or self.corpus
        return [response for response, _, _ in self._respond(used_corpus)] if used_corpus else None

    def trace_records(self) -> Iterator[TraceRecord]:
        """The records that `write_trace` takes: every response of this run once, after its tokens and their layers."""
        texts = [q.text for q in self.held_out_questions]
        prompts = [tuple(self.model.chat_ids(without_memory(text))) for text in texts]
        answers = self.scored_answers(texts, self.slot)
        runs = list(zip(self.closed_book_responses(), prompts, answers, strict=True))
        if self.corpus:
            runs += [(response, prompt.ids, answer) for response, prompt, answer in self._respond(self.corpus)]
        for response, prompt, answer in {run[0].prompt_id: run for run in runs}.values():
            yield from token_records(self.runner, self.slot, response.prompt_id, prompt, answer.ids)
            yield response

    def _respond(self, corpus: Corpus) -> list[tuple[ResponseRecord, GroundedPrompt, ScoredAnswer]]:
        questions, thresholds = self.grounded_questions, self.label_thresholds
        return respond(self.model, questions, corpus, thresholds, self.answer_limit, self._answer_prompts)

    def _answer_prompts(self, prompts: Sequence[list[int]]) -> list[ScoredAnswer]:
        """The student's answers to prompts as ids; each is computed once."""
        new = [p for p in dict.fromkeys(map(tuple, prompts)) if p not in self._prompt_answers]
        if new:
            slots = [self.slot] * len(new)
            answers = scored_answers(self.runner, [list(p) for p in new], slots, self.answer_limit)
            self._prompt_answers.update(zip(new, answers, strict=True))
        return [self._prompt_answers[tuple(p)] for p in prompts]

    def _generate(self, pairs: Sequence[tuple[str, int]]) -> list[ScoredAnswer]:
        prompts = [self.model.chat_ids(without_memory(question)) for question, _ in pairs]
        known = {q.text: q.teacher or q.answer for q in self.study.questions}
        likely = [known.get(text, UNKNOWN_ANSWER) if slot == self.slot else UNKNOWN_ANSWER for text, slot in pairs]
        ids_of = {text: self.model.text_ids(text) for text in set(likely)}
        slots, drafts = [slot for _, slot in pairs], [ids_of[text] for text in likely]
        return scored_answers(self.runner, prompts, slots, self.answer_limit, drafts)

    @cached_property
    def expected(self) -> dict[Question, Expected]:
        """What is expected of an answer to each question of the study."""
        return expectations(self.study)

    @cached_property
    def answer_limit(self) -> int:
        """The most new tokens of an answer: twice those of the longest answer that the study expects."""
        longest = max((len(self.model.text_ids(q.teacher or q.answer)) for q in self.study.questions), default=0)
        return max(SHORTEST_LIMIT, 2 * longest)


def trained_prompts(artifacts: Iterable[DistillArtifact]) -> frozenset[str]:
    """Digests of the prompts of training examples. A prompt is the ids before the first target."""
    return frozenset(prompt_digest(a.x_ids[: a.targets[0].position]) for a in artifacts if a.targets)


def prompt_digest(ids: Sequence[int]) -> str:
    """The digest of one prompt's token ids."""
    return digest(list(ids))
