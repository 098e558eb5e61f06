"""What a student says of a question with passages before it: what it cites, whether it refuses.

In: questions, a `Corpus`, a way to have prompts answered. Out: one `Response` per question. The passages that the
retriever finds are shown with numbers, and answers cite them by number. The same record holds a closed-book answer,
which has no evidence and nothing to cite.

It does not know who answers, nor whether an answer that cites rightly is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...models import TextModel
from ...records import digest
from ...text.language import NO_PASSAGES, PASSAGES_SYSTEM, is_unknown
from ...text.prompts import Message
from ..replies import Reply, StopReason
from .citations import Citation, citations, without_markers
from .corpus import Corpus
from .evidence import FOUND, Evidence, Label, Limits, evidence

Answer = Callable[[Sequence[list[int]]], list[Reply]]


@dataclass(frozen=True)
class Response:
    """One answer as the behavioural gates see it.

    `label` and `evidence` are None for a closed-book answer. `expected`: it should have refused. `coherence_score`:
    geometric mean of the probabilities that the student gave its own tokens, 0 to 1.
    """

    prompt_id: str
    expected: bool
    refused: bool
    coherence_score: float
    stop_reason: StopReason
    citations: tuple[Citation, ...] = ()
    evidence: Evidence | None = None
    label: Label | None = None


@dataclass(frozen=True)
class Asked:
    """A question as it was put: the ids of the prompt, and of the passages shown, in the order of their numbers."""

    prompt_id: str
    prompt: tuple[int, ...]
    shown: tuple[str, ...] = ()


def prompt_id(question: str, grounded: bool) -> str:
    """The name of a prompt in a trace: 16 hexadecimal digits that depend on the question alone."""
    return digest(["grounded" if grounded else "closed", question])[:16]


def put(model: TextModel, question: str, corpus: Corpus, room: int) -> Asked:
    """The prompt of a question with as many passages, best first, as leave `room` tokens for the answer."""
    found = [passage for passage, _ in corpus.found(question, FOUND)]
    while True:
        numbered = "\n".join(f"[{n}] {' '.join(p.text.split())}" for n, p in enumerate(found, 1))
        ids = model.chat_ids(_messages(numbered or NO_PASSAGES, question))
        if len(ids) + room <= model.context or not found:
            return Asked(prompt_id(question, grounded=True), tuple(ids), tuple(p.id for p in found))
        found.pop()


def respond(
    model: TextModel, questions: Sequence[str], corpus: Corpus, limits: Limits, room: int, answer: Answer
) -> list[tuple[Response, Asked, Reply]]:
    """Every question answered with passages of `corpus`, in the order given."""
    asked = [put(model, question, corpus, room) for question in questions]
    found = answer([list(a.prompt) for a in asked])
    return [
        (_response(question, a, reply, corpus, limits), a, reply)
        for question, a, reply in zip(questions, asked, found, strict=True)
    ]


def closed_book(question: str, expected: bool, reply: Reply) -> Response:
    """The record of an answer without passages."""
    name = prompt_id(question, grounded=False)
    return Response(name, expected, is_unknown(reply.text), reply.confidence, reply.stop_reason)


def _response(question: str, asked: Asked, reply: Reply, corpus: Corpus, limits: Limits) -> Response:
    told = evidence(question, corpus)
    label = told.label(limits)
    return Response(
        asked.prompt_id, label == "indeterminate", is_unknown(without_markers(reply.text)), reply.confidence,
        reply.stop_reason, citations(reply.text, asked.shown, corpus.texts), told, label,
    )  # fmt: skip


def _messages(passages: str, question: str) -> list[Message]:
    system = PASSAGES_SYSTEM.format(passages=passages)
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]
