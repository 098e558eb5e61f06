"""The generated world: families of statements, their questions, and memories made of them.

In: a seeded `random.Random`. Out: `Fact` (a statement with every wording of its questions) and `Memory`
(a text with the facts it states). A family has at least five *writer* wordings (the model learns to write
these) and at least two *reader* wordings (it learns to answer them, and never writes them), so that a
consolidation trained on what the model wrote can be examined with wordings it never saw.

It does not know tokenizers, chat formats or the model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from . import words as w

WRITER_WORDINGS = 5


@dataclass(frozen=True)
class Family:
    name: str
    slots: dict[str, str]
    subject: str  # two facts of one memory may not share family and subject
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    reverse: tuple[tuple[str, str], ...]

    @property
    def group(self) -> str:
        """Families whose questions could be meant for each other: one memory states a subject once per group."""
        return _GROUPS.get(self.name, self.name)


_GROUPS = {"event_date": "event", "event_time": "event", "code": "lock", "password": "lock"}


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


def _family(name: str, slots: str, subject: str, answer: str, table: str) -> Family:
    rows = [line.strip() for line in table.strip().splitlines()]
    return Family(
        name=name,
        slots=dict(s.split("=") for s in slots.split()),
        subject=subject,
        statements=tuple(r[2:] for r in rows if r.startswith("S ")),
        questions=tuple(r[2:] for r in rows if r.startswith("Q ")),
        answer=answer,
        reverse=tuple(tuple(r[2:].split(" => ")) for r in rows if r.startswith("R ")),  # type: ignore[misc]
    )


FAMILIES = (
    _family("called", "r=have n=name", "{r}", "{n}", """
        S My {r} is called {n}.
        S My {r}'s name is {n}.
        S I have a {r} called {n}.
        S The name of my {r} is {n}.
        S {n} is the name of my {r}.
        S My {r} is named {n}.
        Q What is my {r} called?
        Q What is the name of my {r}?
        Q What is my {r}'s name?
        Q Can you tell me my {r}'s name?
        Q Which name does my {r} have?
        Q Do you remember what my {r} is called?
        Q Tell me the name of my {r}.
        Q How is my {r} called?
        Q What did I name my {r}?
        R Who or what is called {n}? => your {r}
        R What do I have that is called {n}? => your {r}
        R Whose name is {n}? => your {r}"""),
    _family("kin_name", "p=person r=have n=name", "{p} {r}", "{n}", """
        S {p}'s {r} is called {n}.
        S The name of {p}'s {r} is {n}.
        S {p} has a {r} called {n}.
        S {p} has a {r} named {n}.
        Q What is {p}'s {r} called?
        Q What is the name of {p}'s {r}?
        Q Which name does {p}'s {r} have?
        Q Can you tell me the name of {p}'s {r}?
        Q How is {p}'s {r} called?
        Q Do you remember what {p}'s {r} is called?
        Q Tell me the name of {p}'s {r}.
        R Who or what is called {n}? => {p}'s {r}
        R Whose {r} is called {n}? => {p}"""),
    _family("favourite", "f=like v=value", "{f}", "{v}", """
        S My favourite {f} is {v}.
        S {v} is my favourite {f}.
        S The {f} I like most is {v}.
        S The {f} I like best is {v}.
        Q What is my favourite {f}?
        Q Which {f} do I like most?
        Q Which {f} is my favourite?
        Q What {f} do I like best?
        Q Can you tell me my favourite {f}?
        Q Do you remember my favourite {f}?
        Q Tell me which {f} I prefer.
        Q What is the {f} that I like most?
        R What is {v} to me? => your favourite {f}
        R What do I like {v} as? => your favourite {f}"""),
    _family("person_favourite", "p=person f=like v=value", "{p} {f}", "{v}", """
        S {p}'s favourite {f} is {v}.
        S The {f} {p} likes most is {v}.
        S {v} is {p}'s favourite {f}.
        Q What is {p}'s favourite {f}?
        Q Which {f} does {p} like most?
        Q Which {f} is {p}'s favourite?
        Q What {f} does {p} like best?
        Q Can you tell me {p}'s favourite {f}?
        Q Do you remember {p}'s favourite {f}?
        Q Tell me which {f} {p} prefers.
        R Whose favourite {f} is {v}? => {p}
        R Who likes {v} most? => {p}"""),
    _family("my_attribute", "a=attribute v=code", "{a}", "{v}", """
        S My {a} is {v}.
        S {v} is my {a}.
        S I have the {a} {v}.
        Q What is my {a}?
        Q Which {a} do I have?
        Q What {a} do I have?
        Q Can you tell me my {a}?
        Q What does it say about my {a}?
        Q Do you remember my {a}?
        Q Tell me my {a}.
        R What is {v}? => your {a}
        R What do I have that is {v}? => your {a}"""),
    _family("person_attribute", "p=person a=attribute v=code", "{p} {a}", "{v}", """
        S {p}'s {a} is {v}.
        S The {a} of {p} is {v}.
        S {p} has the {a} {v}.
        Q What is {p}'s {a}?
        Q What is the {a} of {p}?
        Q Which {a} does {p} have?
        Q Can you tell me {p}'s {a}?
        Q What {a} does {p} have?
        Q Do you remember {p}'s {a}?
        Q Tell me the {a} of {p}.
        R Whose {a} is {v}? => {p}
        R Who has the {a} {v}? => {p}"""),
    _family("person_lives", "p=person c=city", "{p}", "{c}", """
        S {p} lives in {c}.
        S {p} has a flat in {c}.
        S {p} moved to {c}.
        S The home of {p} is in {c}.
        Q Where does {p} live?
        Q In which city does {p} live?
        Q Which place does {p} live in?
        Q Where is the home of {p}?
        Q What city is {p} living in?
        Q Do you know where {p} lives?
        Q Tell me where {p} lives.
        R Who lives in {c}? => {p}
        R Who has a home in {c}? => {p}"""),
    _family("i_live", "c=city", "i", "{c}", """
        S I live in {c}.
        S My home is in {c}.
        S I moved to {c}.
        S I have a flat in {c}.
        Q Where do I live?
        Q In which city do I live?
        Q Which place do I live in?
        Q Where is my home?
        Q What city am I living in?
        Q Do you know where I live?
        Q Tell me where I live.
        R Who lives in {c}? => you
        R What do I do in {c}? => you live in {c}"""),
    _family("i_grew_up", "c=city", "i", "{c}", """
        S I grew up in {c}.
        S I spent my childhood in {c}.
        S I was born in {c}.
        Q Where did I grow up?
        Q In which city did I grow up?
        Q Where did I spend my childhood?
        Q Which place did I grow up in?
        Q Where was I born?
        Q Do you know where I grew up?
        Q Tell me where I grew up.
        R Who grew up in {c}? => you
        R Who comes from {c}? => you"""),
    _family("person_works", "p=person o=org", "{p}", "{o}", """
        S {p} works at {o}.
        S {p} works for {o}.
        S {p} has a job at {o}.
        S The employer of {p} is {o}.
        Q Where does {p} work?
        Q Who does {p} work for?
        Q Which company does {p} work at?
        Q Who is the employer of {p}?
        Q At what company does {p} have a job?
        Q Do you know where {p} works?
        Q Tell me where {p} works.
        R Who works at {o}? => {p}
        R Who has a job at {o}? => {p}"""),
    _family("i_work", "o=org", "i", "{o}", """
        S I work at {o}.
        S I work for {o}.
        S I have a job at {o}.
        S My employer is {o}.
        Q Where do I work?
        Q Who do I work for?
        Q Which company do I work at?
        Q Who is my employer?
        Q At what company do I have a job?
        Q Do you know where I work?
        Q Tell me where I work.
        R Who works at {o}? => you
        R Who has a job at {o}? => you"""),
    _family("person_job", "p=person j=job", "{p}", "{j}", """
        S {p} works as a {j}.
        S {p} is a {j}.
        S {p} earns a living as a {j}.
        S The job of {p} is {j}.
        Q What does {p} work as?
        Q What is the job of {p}?
        Q What is {p}'s profession?
        Q What does {p} do for a living?
        Q Which job does {p} have?
        Q Do you know what {p} does for work?
        Q Tell me the job of {p}.
        R Who works as a {j}? => {p}
        R Who is a {j}? => {p}"""),
    _family("person_birthday", "p=person d=date", "{p}", "{d}", """
        S {p}'s birthday is on {d}.
        S {p} was born on {d}.
        S The birthday of {p} is {d}.
        Q When is {p}'s birthday?
        Q On what date was {p} born?
        Q What is the birthday of {p}?
        Q When was {p} born?
        Q On which day does {p} have a birthday?
        Q Do you remember the birthday of {p}?
        Q Tell me when {p} has a birthday.
        R Whose birthday is on {d}? => {p}
        R Who was born on {d}? => {p}"""),
    _family("code", "t=lock k=code", "{t}", "{k}", """
        S The code for the {t} is {k}.
        S The {t} code is {k}.
        S To open the {t}, use the code {k}.
        S {k} is the code for the {t}.
        Q What is the code for the {t}?
        Q What is the {t} code?
        Q Which code opens the {t}?
        Q What code do I need for the {t}?
        Q Can you tell me the code of the {t}?
        Q Do you remember the {t} code?
        Q Tell me how to open the {t}.
        R What is {k} the code for? => the {t}
        R What does the code {k} open? => the {t}"""),
    _family("password", "t=lock k=code", "{t}", "{k}", """
        S The password for the {t} is {k}.
        S The {t} password is {k}.
        S The {t} has the password {k}.
        Q What is the password for the {t}?
        Q What is the {t} password?
        Q Which password does the {t} have?
        Q What password do I need for the {t}?
        Q Can you tell me the password of the {t}?
        Q Do you remember the {t} password?
        Q Tell me the password for the {t}.
        R What is {k} the password for? => the {t}
        R Where do I use the password {k}? => the {t}"""),
    _family("server_port", "s=server k=number", "{s}", "{k}", """
        S The {s} server listens on port {k}.
        S The {s} server runs on port {k}.
        S The port of the {s} server is {k}.
        Q Which port does the {s} server listen on?
        Q What is the port of the {s} server?
        Q On what port does the {s} server run?
        Q What port does the {s} server use?
        Q Can you tell me the port of the {s} server?
        Q Do you know the port of the {s} server?
        Q Tell me which port the {s} server uses.
        R What listens on port {k}? => the {s} server
        R Which server runs on port {k}? => the {s} server"""),
    _family("server_name", "s=server n=host", "{s}", "{n}", """
        S The {s} server is called {n}.
        S The name of the {s} server is {n}.
        S Our {s} server is named {n}.
        Q What is the {s} server called?
        Q What is the name of the {s} server?
        Q Which name does the {s} server have?
        Q Can you tell me the name of the {s} server?
        Q How is the {s} server called?
        Q Do you know what the {s} server is called?
        Q Tell me the name of our {s} server.
        R What is called {n}? => the {s} server
        R Which server is {n}? => the {s} server"""),
    _family("server_place", "n=name c=city", "{n}", "{c}", """
        S The server {n} stands in {c}.
        S The server {n} is hosted in {c}.
        S {n} is a server in {c}.
        Q Where does the server {n} stand?
        Q Where is the server {n} hosted?
        Q In which city is the server {n}?
        Q Which place is the server {n} in?
        Q What is the location of the server {n}?
        Q Do you know where the server {n} is?
        Q Tell me where the server {n} is hosted.
        R Which server is in {c}? => {n}
        R What stands in {c}? => the server {n}"""),
    _family("project_due", "n=name d=date", "{n}", "{d}", """
        S The project {n} is due on {d}.
        S The deadline of the project {n} is {d}.
        S Project {n} must be finished by {d}.
        Q When is the project {n} due?
        Q What is the deadline of the project {n}?
        Q By when must the project {n} be finished?
        Q On what date is the project {n} due?
        Q When does the project {n} have to be done?
        Q Do you know the deadline of the project {n}?
        Q Tell me when the project {n} is due.
        R Which project is due on {d}? => {n}
        R What must be finished by {d}? => the project {n}"""),
    _family("project_role", "n=name r=role p=person", "{n} {r}", "{p}", """
        S The {r} of the project {n} is {p}.
        S {p} is the {r} of the project {n}.
        S The project {n} has {p} as its {r}.
        Q Who is the {r} of the project {n}?
        Q Which person is the {r} of the project {n}?
        Q What is the name of the {r} of the project {n}?
        Q Who does the project {n} have as its {r}?
        Q Can you tell me who the {r} of the project {n} is?
        Q Do you know the {r} of the project {n}?
        Q Tell me the {r} of the project {n}.
        R Which project has {p} as its {r}? => {n}
        R What is {p} the {r} of? => the project {n}"""),
    _family("event_date", "e=event d=date", "{e}", "{d}", """
        S The {e} is on {d}.
        S The {e} takes place on {d}.
        S I have the {e} on {d}.
        S On {d} there is the {e}.
        Q When is the {e}?
        Q On what date is the {e}?
        Q When does the {e} take place?
        Q Which day is the {e} on?
        Q What is the date of the {e}?
        Q Do you remember when the {e} is?
        Q Tell me the date of the {e}.
        R What is on {d}? => the {e}
        R What takes place on {d}? => the {e}"""),
    _family("event_time", "e=event d=time", "{e}", "{d}", """
        S The {e} starts at {d}.
        S The {e} begins at {d}.
        S The start of the {e} is at {d}.
        Q At what time does the {e} start?
        Q When does the {e} begin?
        Q What time is the {e}?
        Q What is the start time of the {e}?
        Q At what hour does the {e} begin?
        Q Do you remember at what time the {e} starts?
        Q Tell me when the {e} starts.
        R What starts at {d}? => the {e}
        R What begins at {d}? => the {e}"""),
    _family("allergic", "p=person v=food", "{p}", "{v}", """
        S {p} is allergic to {v}.
        S {p} cannot eat {v}.
        S {p} has an allergy to {v}.
        Q What is {p} allergic to?
        Q What can {p} not eat?
        Q Which food is {p} allergic to?
        Q What allergy does {p} have?
        Q Which food must {p} avoid?
        Q Do you know what {p} is allergic to?
        Q Tell me the allergy of {p}.
        R Who is allergic to {v}? => {p}
        R Who cannot eat {v}? => {p}"""),
    _family("eats", "m=meal v=food", "{m}", "{v}", """
        S I eat {v} for {m}.
        S For {m} I have {v}.
        S My usual {m} is {v}.
        Q What do I eat for {m}?
        Q What do I have for {m}?
        Q What is my usual {m}?
        Q Which food do I eat for {m}?
        Q What is on my plate at {m}?
        Q Do you know what I have for {m}?
        Q Tell me what I eat for {m}.
        R When do I eat {v}? => for {m}
        R For which meal do I have {v}? => {m}"""),
    _family("kept", "t=thing l=place", "{t}", "the {l}", """
        S The {t} is in the {l}.
        S The {t} is kept in the {l}.
        S I keep the {t} in the {l}.
        S I put the {t} in the {l}.
        Q Where is the {t}?
        Q Where do I keep the {t}?
        Q Where is the {t} kept?
        Q In which place is the {t}?
        Q Where did I put the {t}?
        Q Do you remember where the {t} is?
        Q Tell me where to find the {t}.
        R What is in the {l}? => the {t}
        R What do I keep in the {l}? => the {t}"""),
    _family("count", "t=counted l=place k=small", "{t} {l}", "{k}", """
        S There are {k} {t} in the {l}.
        S The {l} has {k} {t}.
        S In the {l} there are {k} {t}.
        Q How many {t} are in the {l}?
        Q How many {t} does the {l} have?
        Q What is the number of {t} in the {l}?
        Q How many {t} are there in the {l}?
        Q What number of {t} does the {l} have?
        Q Do you know how many {t} are in the {l}?
        Q Tell me the number of {t} in the {l}.
        R What are there {k} of in the {l}? => {t}
        R Where are there {k} {t}? => the {l}"""),
    _family("painted", "t=thing k=colour", "{t}", "{k}", """
        S The {t} is {k}.
        S The colour of the {t} is {k}.
        S The {t} has the colour {k}.
        S I painted the {t} {k}.
        Q What colour is the {t}?
        Q What is the colour of the {t}?
        Q Which colour does the {t} have?
        Q In what colour is the {t}?
        Q Can you tell me the colour of the {t}?
        Q Do you remember the colour of the {t}?
        Q Tell me what colour the {t} has.
        R What is {k}? => the {t}
        R What has the colour {k}? => the {t}"""),
    _family("cost", "t=thing k=number", "{t}", "{k} euros", """
        S The {t} cost {k} euros.
        S I paid {k} euros for the {t}.
        S The price of the {t} was {k} euros.
        Q How much did the {t} cost?
        Q What did I pay for the {t}?
        Q What was the price of the {t}?
        Q How much did I pay for the {t}?
        Q What did the {t} cost?
        Q Do you remember the price of the {t}?
        Q Tell me how much the {t} cost.
        R What cost {k} euros? => the {t}
        R What did I pay {k} euros for? => the {t}"""),
)


@dataclass(frozen=True)
class World:
    """Which words may occur. `unseen=True` draws relation words and real values training never contains."""

    unseen: bool = False
    invented_relations: float = 0.3

    def word(self, rng: random.Random, kind: str) -> str:
        pool = {"have": (w.HAVE, w.HAVE_UNSEEN), "like": (w.LIKE, w.LIKE_UNSEEN),
                "attribute": (w.ATTRIBUTE, w.ATTRIBUTE_UNSEEN), "lock": (w.LOCK, w.LOCK_UNSEEN),
                "thing": (w.THING, w.THING_UNSEEN), "event": (w.EVENT, w.EVENT_UNSEEN)}[kind]
        if rng.random() < self.invented_relations:
            return w.invented(rng)
        return rng.choice(pool[1] if self.unseen else pool[0])

    def value(self, rng: random.Random, kind: str) -> str:
        if kind in ("have", "like", "attribute", "lock", "thing", "event"):
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


_VALUES = {
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
    """`n` facts with pairwise different subjects and answers; a third share a family, so that names must be told apart."""
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
