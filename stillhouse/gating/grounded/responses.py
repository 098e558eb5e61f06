"""A student's answers to questions with passages in the prompt: what they cite, whether they refuse.

In: questions, a `Corpus`, a function that answers prompts. Out: one `ResponseRecord` per question. The prompt numbers
the passages that the retriever gives, and answers cite them by number. A closed-book answer has the same record,
without evidence and citations.

It does not know who answers, nor whether an answer with valid citations is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...models import TextModel
from ...records import digest
from ...text.language import NO_PASSAGES, PASSAGES_SYSTEM, is_unknown
from ...text.prompts import Message
from ..scored_answers import ScoredAnswer, StopReason
from .citations import Citation, citations, without_markers
from .corpus import Corpus
from .evidence import RETRIEVED, CorpusEvidence, Label, LabelThresholds, find_evidence

AnswerPrompts = Callable[[Sequence[list[int]]], list[ScoredAnswer]]


@dataclass(frozen=True)
class ResponseRecord:
    """One answer as the behavioural gates judge it."""

    prompt_id: str
    expected: bool  # it should refuse
    refused: bool  # it does
    coherence_score: float  # geometric mean of the probabilities that the student gave its own tokens, 0 to 1
    stop_reason: StopReason
    citations: tuple[Citation, ...] = ()
    evidence: CorpusEvidence | None = None  # None for a closed-book answer
    label: Label | None = None  # None for a closed-book answer


@dataclass(frozen=True)
class GroundedPrompt:
    """The prompt of one question with passages."""

    prompt_id: str
    ids: tuple[int, ...]
    shown: tuple[str, ...] = ()  # ids of the passages, in the order of their numbers


def prompt_id(question: str, grounded: bool) -> str:
    """The name of a prompt in a trace: 16 hexadecimal digits. They depend on the question and on `grounded` alone."""
    return digest(["grounded" if grounded else "closed", question])[:16]


def grounded_prompt(model: TextModel, question: str, corpus: Corpus, room: int) -> GroundedPrompt:
    """The prompt of a question with passages, best first: as many as leave `room` tokens for the answer."""
    passages = [passage for passage, _ in corpus.search(question, RETRIEVED)]
    while True:
        numbered = "\n".join(f"[{n}] {' '.join(p.text.split())}" for n, p in enumerate(passages, 1))
        ids = model.chat_ids(_messages(numbered or NO_PASSAGES, question))
        if len(ids) + room <= model.context or not passages:
            return GroundedPrompt(prompt_id(question, grounded=True), tuple(ids), tuple(p.id for p in passages))
        passages.pop()


def respond(
    model: TextModel, questions: Sequence[str], corpus: Corpus, thresholds: LabelThresholds, room: int,
    answer: AnswerPrompts,
) -> list[tuple[ResponseRecord, GroundedPrompt, ScoredAnswer]]:  # fmt: skip
    """Every question answered with passages of `corpus`, in the order given.

    `room`: tokens kept free for the answer; `answer` takes prompts as ids and gives one answer for each.
    """
    prompts = [grounded_prompt(model, question, corpus, room) for question in questions]
    answers = answer([list(prompt.ids) for prompt in prompts])
    return [
        (_record(question, prompt, scored, corpus, thresholds), prompt, scored)
        for question, prompt, scored in zip(questions, prompts, answers, strict=True)
    ]


def closed_book(question: str, expected: bool, answer: ScoredAnswer) -> ResponseRecord:
    """The record of an answer without passages. `expected`: it should refuse."""
    name = prompt_id(question, grounded=False)
    return ResponseRecord(name, expected, is_unknown(answer.text), answer.confidence, answer.stop_reason)


def _record(
    question: str, prompt: GroundedPrompt, answer: ScoredAnswer, corpus: Corpus, thresholds: LabelThresholds
) -> ResponseRecord:
    evidence = find_evidence(question, corpus)
    label = evidence.label(thresholds)
    return ResponseRecord(
        prompt.prompt_id, label == "indeterminate", is_unknown(without_markers(answer.text)), answer.confidence,
        answer.stop_reason, citations(answer.text, prompt.shown, corpus.texts), evidence, label,
    )  # fmt: skip


def _messages(passages: str, question: str) -> list[Message]:
    system = PASSAGES_SYSTEM.format(passages=passages)
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]
