"""Notes with questions become lessons in the trade: to read notes, to write questions, to say that one does not know.

In: notes (`text/notes.py`). Out: `Lesson`s, each a conversation and the reply to it. The tasks are `read` (a part of
the note and a question: the value), `refuse` (the same with a question that the note does not answer), `closed` (a
question without the note: it is not known), `values` (what one could ask for in a line), `questions` (questions about a
line that a value answers, and in the other direction), and `near` (questions that a line does not answer).

It does not know models or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...seeds import seed_of
from ...text.notes import Fact, Line, Note
from ...text.prompts import UNKNOWN_ANSWER, Message, with_memory, without_memory
from ...text.writing import near_request, questions_reply, questions_request, values_reply, values_request
from .settings import Config

Task = Literal["read", "refuse", "closed", "values", "questions", "near"]


@dataclass(frozen=True)
class Lesson:
    """A conversation that ends with a user's turn, and the reply to it."""

    task: Task
    messages: tuple[Message, ...]
    reply: str


def lessons_of(notes: Sequence[Note], config: Config) -> list[Lesson]:
    """All lessons of `notes`, in their order. The same notes and settings give the same lessons."""
    return [
        lesson
        for note in notes
        for number in range(len(note.lines))
        for lesson in _of_line(note, number, random.Random(seed_of("lessons", config.seed, note.name, number)), config)
    ]


def _of_line(note: Note, number: int, rng: random.Random, config: Config) -> Iterator[Lesson]:
    line = note.lines[number]
    yield from _written(line, rng)
    for fact in (fact for fact in line.facts if fact.questions):
        for question in _some(rng, fact.questions, config.readings):
            yield _lesson("read", with_memory(_part(note, number, rng, config), question), fact.value)
        for question in _some(rng, fact.questions, config.closed):
            yield _lesson("closed", without_memory(question), UNKNOWN_ANSWER)
    for question in _some(rng, line.near, config.unanswered):
        yield _lesson("refuse", with_memory(_part(note, number, rng, config), question), UNKNOWN_ANSWER)


def _written(line: Line, rng: random.Random) -> Iterator[Lesson]:
    """What a writer is asked for about one line."""
    statement = line.told()
    yield _lesson("values", values_request(statement), values_reply([fact.value for fact in line.facts]))
    for fact in line.facts:
        for value, questions in _asked(fact):
            shuffled = rng.sample(questions, len(questions))
            yield _lesson("questions", questions_request(statement, value), questions_reply(shuffled))
    if line.near:
        yield _lesson("near", near_request(statement), questions_reply(line.near))


def _asked(fact: Fact) -> Iterator[tuple[str, list[str]]]:
    """Values with the questions that they answer, in both directions."""
    if fact.questions:
        yield fact.value, list(fact.questions)
    if fact.reverse:
        yield fact.reverse_value, [fact.reverse]


def _part(note: Note, number: int, rng: random.Random, config: Config) -> str:
    """Some lines of a note, one to `widest`, with line `number` among them: the narrow ones as often as the wide."""
    width = min(len(note.lines), round(config.widest ** rng.random()))
    first = max(0, min(number - rng.randrange(width), len(note.lines) - width))
    return "\n".join(line.told() for line in note.lines[first : first + width])


def _some(rng: random.Random, questions: Sequence[str], count: int) -> list[str]:
    return rng.sample(list(questions), min(count, len(questions)))


def _lesson(task: Task, messages: Sequence[Message], reply: str) -> Lesson:
    return Lesson(task, tuple(messages), reply)
