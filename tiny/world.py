"""The generated world: families of statements, their questions, and memories made of them.

In: a seeded `random.Random`. Out: `Fact` (a statement with every wording of its questions) and `Memory`
(a text with the facts it states). A family has at least five *writer* wordings (the model learns to write
these) and at least two *reader* wordings (it learns to answer them, and never writes them), so that a
consolidation trained on what the model wrote can be examined with wordings it never saw.

It does not know tokenizers, chat formats or the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from . import words as w
from .families import FAMILIES, Family

WRITER_WORDINGS = 5


@dataclass(frozen=True)
class Fact:
    family: str
    group: str
    subject: str
    statement: str
    questions: tuple[str, ...]
    answer: str
    reverse: tuple[tuple[str, str], ...]

    @property
    def writer(self) -> tuple[str, ...]:
        return self.questions[:WRITER_WORDINGS]

    @property
    def reader(self) -> tuple[str, ...]:
        return self.questions[WRITER_WORDINGS:]


@dataclass(frozen=True)
class Memory:
    text: str
    facts: tuple[Fact, ...]
    unknown: tuple[Fact, ...] = field(default=())  # facts of the same world that the text does not state


_RELATIONS = {  # words training meets, and words it never does
    "have": (w.HAVE, w.HAVE_UNSEEN),
    "like": (w.LIKE, w.LIKE_UNSEEN),
    "attribute": (w.ATTRIBUTE, w.ATTRIBUTE_UNSEEN),
    "lock": (w.LOCK, w.LOCK_UNSEEN),
    "thing": (w.THING, w.THING_UNSEEN),
    "event": (w.EVENT, w.EVENT_UNSEEN),
}


@dataclass(frozen=True)
class World:
    """Which words may occur. `unseen=True` draws relation words and real values training never contains."""

    unseen: bool = False
    invented_relations: float = 0.3

    def word(self, rng: random.Random, kind: str) -> str:
        pool = _RELATIONS[kind]
        if rng.random() < self.invented_relations:
            return w.invented(rng)
        return rng.choice(pool[1] if self.unseen else pool[0])

    def value(self, rng: random.Random, kind: str) -> str:
        if kind in _RELATIONS:
            return self.word(rng, kind)
        return _VALUES[kind](rng)


def _name(rng: random.Random) -> str:
    return w.invented(rng).capitalize()


def _code(rng: random.Random) -> str:
    style = rng.randrange(4)
    if style == 0:
        return str(rng.randint(100, 999999))
    if style == 1:
        letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 2)))
        return f"{letters}{rng.randint(10, 9999)}"
    if style == 2:
        return w.invented(rng)
    return f"{w.invented(rng, (1, 2))}{rng.randint(1, 99)}"


def _date(rng: random.Random) -> str:
    text = f"{rng.randint(1, 28)} {rng.choice(w.MONTH)}"
    if rng.random() < 0.3:
        return f"{text} {rng.randint(1950, 2029)}"
    return rng.choice(w.DAY) if rng.random() < 0.2 else text


_VALUES: dict[str, Callable[[random.Random], str]] = {
    "name": lambda r: _name(r) if r.random() < 0.8 else r.choice(w.FIRST),
    "person": lambda r: r.choice(w.FIRST) if r.random() < 0.5 else _name(r),
    "city": lambda r: r.choice(w.CITY) if r.random() < 0.3 else _name(r),
    "org": lambda r: _name(r) + (f" {r.choice(w.ORG_TAIL)}" if r.random() < 0.5 else ""),
    "job": lambda r: r.choice(w.JOB) if r.random() < 0.6 else w.invented(r),
    "food": lambda r: r.choice(w.FOOD) if r.random() < 0.5 else w.invented(r),
    "colour": lambda r: r.choice(w.COLOUR) if r.random() < 0.6 else w.invented(r),
    "value": lambda r: w.invented(r) if r.random() < 0.4 else (_name(r) if r.random() < 0.7 else r.choice(w.FOOD)),
    "place": lambda r: r.choice(w.PLACE) if r.random() < 0.7 else w.invented(r),
    "counted": lambda r: r.choice(w.COUNTED),
    "meal": lambda r: r.choice(w.MEAL),
    "server": lambda r: r.choice(w.SERVER) if r.random() < 0.7 else w.invented(r),
    "role": lambda r: r.choice(w.ROLE),
    "host": lambda r: w.invented(r) + (str(r.randint(1, 99)) if r.random() < 0.5 else ""),
    "number": lambda r: str(r.randint(10, 65000)),
    "small": lambda r: str(r.randint(2, 99)),
    "code": _code,
    "date": _date,
    "time": lambda r: f"{r.randint(0, 23)}:{r.choice(('00', '15', '30', '45', '10', '20'))}",
}


def make_fact(rng: random.Random, world: World, family: Family | None = None, **fixed: str) -> Fact:
    """One fact with every wording filled in; `fixed` slots keep their value."""
    family = family or rng.choice(FAMILIES)
    slots = {name: fixed.get(name) or world.value(rng, kind) for name, kind in family.slots.items()}
    statement = rng.choice(family.statements).format(**slots)
    return Fact(
        family=family.name,
        group=family.group,
        subject=family.subject.format(**slots),
        statement=statement[0].upper() + statement[1:],
        questions=tuple(_capital(q.format(**slots)) for q in family.questions),
        answer=family.answer.format(**slots),
        reverse=tuple((_capital(q.format(**slots)), a.format(**slots)) for q, a in family.reverse),
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def make_facts(rng: random.Random, world: World, n: int) -> list[Fact]:
    """`n` facts with different subjects and answers; a third share a family, so that names must be told apart."""
    facts: list[Fact] = []
    subjects: set[tuple[str, str]] = set()
    answers: set[str] = set()
    while len(facts) < n:
        near = rng.choice(facts).family if facts and rng.random() < 0.35 else None
        family = next((f for f in FAMILIES if f.name == near), None)
        fact = make_fact(rng, world, family)
        if (fact.group, fact.subject) in subjects or fact.answer.lower() in answers:
            continue
        subjects.add((fact.group, fact.subject))
        answers.add(fact.answer.lower())
        facts.append(fact)
    return facts


def make_memory(rng: random.Random, world: World, n: int, n_unknown: int, noise: float = 0.3) -> Memory:
    """`n` stated facts, `n_unknown` unstated ones that are close to them, in one of five text shapes."""
    facts = make_facts(rng, world, n + n_unknown)
    rng.shuffle(facts)
    known, unknown = facts[:n], facts[n:]
    lines = [f.statement for f in known]
    for _ in range(len(known) // 4 + 1):
        if rng.random() < noise:
            text = rng.choice(w.FILLER) if rng.random() < 0.75 else rng.choice(w.INJECTION).format(v=_name(rng))
            lines.insert(rng.randrange(len(lines) + 1), text)
    return Memory(_layout(rng, lines), tuple(known), tuple(unknown))


def _layout(rng: random.Random, lines: list[str]) -> str:
    shape = rng.randrange(6)
    if shape <= 1:
        return "\n".join(lines)
    if shape == 2:
        return "\n".join(f"- {line}" for line in lines)
    if shape == 3:
        return " ".join(lines)
    if shape == 4:
        replies = ("Noted.", "Thank you, I will remember that.", "Good to know.", "All right.")
        return "\n".join(
            f"User: {line}" + (f"\nAssistant: {rng.choice(replies)}" if rng.random() < 0.3 else "") for line in lines
        )
    return "# Notes\n\n" + "\n".join(lines)


def world_questions() -> list[tuple[str, str]]:
    """What the model knows without any memory, as (question, answer)."""
    pairs = []
    for country, city in w.CAPITALS.items():
        pairs += [(f"What is the capital of {country}?", city), (f"Which city is the capital of {country}?", city)]
    for word, other in w.OPPOSITES.items():
        pairs += [(f"What is the opposite of {word}?", other), (f"Which word means the opposite of {word}?", other)]
    for animal, young in w.YOUNG.items():
        pairs += [(f"What is a young {animal} called?", young), (f"How do you call a young {animal}?", young)]
    for first, second in zip(w.DAY, w.DAY[1:] + w.DAY[:1], strict=True):
        pairs.append((f"Which day comes after {first}?", second))
    for first, second in zip(w.MONTH, w.MONTH[1:] + w.MONTH[:1], strict=True):
        pairs.append((f"Which month comes after {first}?", second))
    return pairs
