"""Distil a teacher into students: signals once, students many; the flow from a recipe to reports.

In: a recipe (TOML, or `Recipe`): a teacher, data, capture settings, and one table per student. Out: per student a
folder with the model or the adapter, `report.html` and `report.json`. Everything is under `home` in folders named by
the digest of what they are made from, so a killed run is run again and goes on, and a second recipe with the same
teacher and data finds the signals made.

A recipe of several domains gives every student one specialist per domain and a router over them. A student whose
tokenizer is not the teacher's is trained on chunks of bytes. It does not know kinds of models.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import models
from ..capture import prompts
from ..capture.prompts import Captured, Example
from ..capture.prompts.states import Config as Traces
from ..capture.prompts.states import record
from ..config import as_dict, resolve
from ..errors import InputError
from ..feeds.on_policy import OnPolicyFeed
from ..feeds.same_tokens import Feed, SameTokens
from ..feeds.states import TracedFeed
from ..inputs import home_folder, read_tables
from ..lora import AdapterBank
from ..models import Model
from ..progress import progress
from ..records import digest
from ..teachers.local import Local
from ..train import full
from ..trainer.ranks import Ranks, ranks
from . import router
from .audit import Audit, Auditor
from .audit_page import Case, share, write_audit
from .data import Data, Domain, parts
from .data import read as read_data
from .domains import Lesson, adapters, bank_of, feed_of, said_of, write_summary
from .evaluate import Answer, Look, answer, lengths, measure
from .report import Sample
from .result import REPORT, Distilled, read, write, write_weights
from .specialists import Specialists
from .student import Student, build
from .teacher import Opened, TeacherTable, open_teacher

__all__ = [
    "Data", "Distilled", "Domain", "Recipe", "Student", "audit", "capture", "captures", "distill", "load_recipe",
    "specialists",
]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What to distil: `data`, or `domains`, each of which becomes a specialist. `answers` held-out requests of each are
    answered by teacher and students, `samples` of them shown in the report. `traces`: inner states that are kept beside
    the signals, for students that match them."""

    teacher: TeacherTable = field(default_factory=TeacherTable)
    data: Data = field(default_factory=Data)
    capture: prompts.Config = field(default_factory=prompts.Config)
    router: router.Config = field(default_factory=router.Config)
    traces: Traces | None = None
    samples: int = 6
    answers: int = 12
    seed: int = 0
    domains: tuple[tuple[str, Domain], ...] = ()
    students: tuple[tuple[str, Student], ...] = ()
    folder: Path = field(default_factory=Path)  # what relative paths are from

    def __post_init__(self) -> None:
        if self.domains and self.data != Data():
            raise InputError("recipe: data and domains are both given; put the data of [data] into a domain of its own")
        for name, student in self.students if self.domains else ():
            if student.train.lora is None:
                raise InputError(
                    f"students.{name}.train.lora: missing; the specialists of several domains are adapters on one "
                    "base, for example lora = {}"
                )

    @property
    def sets(self) -> tuple[tuple[str, Data], ...]:
        """The data sets by the names of their domains; one without a name where there are none."""
        return self.domains or (("", self.data),)


def load_recipe(file: Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file, `table.key=value` assignments put over it.

    `InputError`: a missing or malformed file, an unknown key (with the nearest spelling), a value of the wrong type.
    """
    tables = read_tables(file, assignments)
    students, domains = (
        _named(tables, what, example) for what, example in (("students", "small"), ("domains", "task"))
    )
    if "folder" in tables:
        raise InputError("recipe: unknown key 'folder'; relative paths are from where the recipe lies")
    made = tuple((name, resolve(Student, s, f"students.{name}")) for name, s in students.items())
    asked = tuple((name, resolve(Domain, d, f"domains.{name}")) for name, d in domains.items())
    return replace(resolve(Recipe, tables, "recipe"), students=made, domains=asked, folder=file.parent)


def _named(tables: dict[str, Any], what: str, example: str) -> dict[str, Any]:
    """Takes the tables `[what.NAME]` out. Their names become folders."""
    found = tables.pop(what, {})
    if not isinstance(found, dict) or not all(isinstance(t, dict) for t in found.values()):
        raise InputError(f"recipe.{what}: one table each is expected, for example [{what}.{example}]")
    if wrong := [name for name in found if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)]:
        raise InputError(f"recipe.{what}: {wrong[0]!r} is no name; letters, digits, '_', '-' and '.' are")
    return found


def capture(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> tuple[Captured, Captured | None]:
    """The teacher's signals on training and held-out examples of the first data set, made where they are missing."""
    return next(iter(captures(recipe, home=home, show=show).values()))


def captures(
    recipe: Recipe, *, home: Path | str | None = None, show: bool = False
) -> dict[str, tuple[Captured, Captured | None]]:
    """The same of every domain, by its name."""
    root = home_folder(home)
    read = {name: (data, *parts(data, recipe.folder, recipe.seed)) for name, data in recipe.sets}
    teacher = open_teacher(recipe.teacher, root)
    return {
        name: (
            _signals(teacher, recipe, data, train, root, f"capture {name}".strip(), show),
            _signals(teacher, recipe, data, held, root, f"held out {name}".strip(), show) if held else None,
        )
        for name, (data, train, held) in read.items()
    }


def distill(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> list[Distilled]:
    """Capture what is missing, train every student that is not there yet, measure, and write the reports.

    With domains, one `Distilled` per student and domain. Under `torchrun` every process calls this.
    """
    if not recipe.students:
        raise InputError("recipe: no students; give at least one table such as [students.small]")
    run = opened(recipe, home, show)
    return [done for name, student in recipe.students for done in run.student(name, student)]


def audit(
    recipe: Recipe,
    *,
    home: Path | str | None = None,
    asked: Sequence[str] = (),
    correct: int = 0,
    margin: float = 0.5,
    show: bool = False,
) -> list[Audit]:
    """The teacher as auditor of every student, on held-out requests, or on those of the data sets `asked`.

    With `correct`, answers to as many training requests (or to those `asked`) that are `margin` nats per token less
    likely to the teacher than its own are corrected in the `corrections` file of the data set. Held-out requests never
    are. Writes `audit.html` and `audit.json` beside the student. `InputError`: a student that is not trained yet.
    """
    run, requests = opened(recipe, home, show), read_data(asked, recipe.folder) if asked else []
    return [found for name, student in recipe.students for found in run.audit(name, student, requests, correct, margin)]


def specialists(recipe: Recipe, name: str, *, home: Path | str | None = None) -> Specialists:
    """The specialists of a trained student, with their router and the teacher, ready to answer."""
    student = dict(recipe.students).get(name)
    if student is None or not recipe.domains:
        names = ", ".join(n for n, _ in recipe.students) or "none"
        raise InputError(f"student {name!r}: no specialists of that name; students of this recipe: {names}")
    run = opened(recipe, home, False)
    model, bank, folder = run.trained(name, student)
    assert bank is not None, "specialists are adapters"
    known = router.load(folder / router.FILE, model)
    most, system = recipe.capture.max_new_tokens, recipe.capture.teacher_system
    return Specialists(model, bank, known, recipe.domains, run.teacher.teacher, most, system)


def opened(recipe: Recipe, home: Path | str | None, show: bool) -> Run:
    """A recipe with its teacher loaded and its signals there."""
    root, here = home_folder(home), ranks()
    read = [(name, data, *parts(data, recipe.folder, recipe.seed)) for name, data in recipe.sets]
    for name, _, _, held in read:
        if not held:
            where = f"domains.{name}" if name else "data"
            raise InputError(f"{where}.held_out: 0 leaves nothing to measure a student on; give a share or files")
    teacher = here.in_turn(lambda: open_teacher(recipe.teacher, root))
    show = show and here.first

    def lesson(name: str, data: Data, train: Sequence[Example], held: Sequence[Example]) -> Lesson:
        taught = _signals(teacher, recipe, data, train, root, f"capture {name}".strip(), show)
        return Lesson(name, data, train, held, taught, _signals(
            teacher, recipe, data, held, root, f"held out {name}".strip(), show))  # fmt: skip

    lessons = here.in_turn(lambda: tuple(lesson(*row) for row in read))
    return Run(recipe, teacher, lessons, root, show, here)


def _signals(
    teacher: Opened, recipe: Recipe, data: Data, examples: Sequence[Example], home: Path, what: str, show: bool
) -> Captured:
    styled, config = [data.style(e) for e in examples], settings_of(recipe, data)
    key = digest([teacher.fingerprint, as_dict(config), styled])
    folder = home / "signals" / key[:32]
    if (folder / prompts.ABOUT).exists():
        return prompts.load(folder)
    with progress(what, len(styled), show) as step:
        return teacher.capture(styled, config, folder, step)


def settings_of(recipe: Recipe, data: Data) -> prompts.Config:
    """How a data set is captured: as the recipe says, with the system message that is for its teacher alone."""
    own = data.teacher_system if isinstance(data, Domain) else ""
    return replace(recipe.capture, teacher_system=own) if own else recipe.capture


@dataclass(frozen=True)
class Run:
    """One recipe's students, one after the other."""

    recipe: Recipe
    teacher: Opened
    lessons: tuple[Lesson, ...]
    home: Path
    show: bool
    here: Ranks

    def place(self, name: str, student: Student) -> tuple[Path, str]:
        """A student's folder, and the digest of everything it is made from."""
        base = models.fingerprint(models.locate(student.model)) if student.model else self.teacher.fingerprint
        signals = [shards for lesson in self.lessons for shards in (lesson.taught.shards, lesson.asked.shards)]
        asked = [self.recipe.seed, self.recipe.samples, self.recipe.answers]
        names = [[lesson.name, as_dict(lesson.data)] for lesson in self.lessons] if self.recipe.domains else []
        router_settings = as_dict(self.recipe.router) if names else {}
        traces = as_dict(self.recipe.traces) if self.recipe.traces else None
        key = digest([*signals, as_dict(student), base, *asked, names, router_settings, traces])
        return self.home / "students" / f"{name}-{key[:16]}", key

    def student(self, name: str, student: Student) -> list[Distilled]:
        """A student, or its specialists; trained unless it is there."""
        student = tailed(student, [lesson.taught for lesson in self.lessons])
        folder, key = self.place(name, student)
        if not (folder / REPORT).exists():
            self._make(name, student, folder, key)
        return read(folder)

    def trained(self, name: str, student: Student) -> tuple[Model, AdapterBank | None, Path]:
        """A finished student: its base with its adapters, or its own weights. `InputError` where there is none yet."""
        student = tailed(student, [lesson.taught for lesson in self.lessons])
        folder, _ = self.place(name, student)
        if not (folder / REPORT).exists():
            raise InputError(f"students.{name} is not trained with these data and settings; run `stillhouse distill`")
        if student.train.lora is None:
            return models.load(str(folder / "model"), self.recipe.teacher.device), None, folder
        model = self.base(student, folder)
        where = list(adapters(folder).values()) if self.recipe.domains else [folder / "adapter"]
        return model, bank_of(model, where, student.train.lora), folder

    def audit(
        self, name: str, student: Student, requests: Sequence[Example], correct: int, margin: float
    ) -> list[Audit]:
        """Every lesson of a finished student, and one report."""
        model, bank, folder = self.trained(name, student)
        try:
            known = router.load(folder / router.FILE, model) if self.recipe.domains and requests else None
            shares = share(requests, self.lessons, model, known)
            found = []
            for slot, lesson in enumerate(self.lessons):
                system = settings_of(self.recipe, lesson.data).teacher_system
                auditor = Auditor(self.teacher.teacher, system, self.recipe.capture.max_new_tokens)
                file = self.recipe.folder / lesson.data.corrections if lesson.data.corrections else None
                case = Case(name, lesson, auditor, model, bank, slot)
                if shares is None or shares[slot]:
                    found.append(case.audit(shares[slot] if shares else None, correct, margin, file))
        finally:
            if bank:
                bank.detach()
        write_audit(folder, found)
        return found

    def base(self, student: Student, folder: Path) -> Model:
        """What a student starts from."""
        device = self.recipe.teacher.device
        return self.here.in_turn(
            lambda: build(
                student, self.teacher.base(student.model), self._texts(), folder / "start", device, self.recipe.seed
            )
        )

    def _make(self, name: str, student: Student, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._twin(name, student)
        model = self.base(student, folder)
        feed, owners = feed_of(model, [lesson.taught for lesson in self.lessons])
        if self.show:
            sys.stderr.write(said_of(name, model, feed))
        slots = owners if self.recipe.domains else []
        names = [lesson.name for lesson in self.lessons] if slots else []
        before = [self._look(model, lesson, None) for lesson in self.lessons] if self.here.first else []
        with progress(f"train {name}", full.planned(feed, student.train, slots), self.show) as step:
            live = self._live(feed, model, student)
            told = live.told(step) if live else step
            validated = [lesson.asked for lesson in self.lessons] if student.train.validate_every else []
            held, held_slots = feed_of(model, validated) if validated else (None, [])
            trained = full.train(
                model, live or self._traced(feed, student), student.train, folder, told, key, slots, names,
                held, held_slots if slots else [],
            )  # fmt: skip
        try:
            if self.here.first:
                self._finish(name, student, folder, model, trained, before, feed)
        finally:
            if trained.bank:
                trained.bank.detach()
        self.here.wait()

    def _live(self, feed: Feed, model: Model, student: Student) -> OnPolicyFeed | None:
        """Batches in which the student writes, where it is to."""
        if student.on_policy is None:
            return None
        if self.here.world > 1:
            raise InputError("on_policy: the student writes in one process only; leave it out, or do without torchrun")
        taught = [lesson.taught for lesson in self.lessons]
        return OnPolicyFeed(feed, taught, model, self.teacher.teacher, student.on_policy)

    def _traced(self, feed: Feed, student: Student) -> Feed:
        """With the teacher's inner states beside it, where the student is to match them."""
        if self.recipe.traces is None or not (student.train.hidden or student.train.routing):
            return feed
        teacher = self.teacher.teacher
        single = isinstance(teacher, Local) and len(teacher.mixture.models) == 1
        if not single or not isinstance(feed, SameTokens) or not isinstance(teacher, Local) or student.on_policy:
            raise InputError(
                "traces: inner states are of one model on this machine, on stored signals, for a student with its "
                "tokenizer; leave train.hidden and train.routing out"
            )
        taught = [lesson.taught for lesson in self.lessons]
        return TracedFeed(
            feed, [t for signals in taught for t in record(teacher.text_model, signals, self.recipe.traces)]
        )

    def _twin(self, name: str, student: Student) -> list[Distilled]:
        """The same student trained on stored signals alone, at equal steps; for comparison."""
        if student.on_policy is None or not student.on_policy.compare:
            return []
        return self.student(f"{name}-off-policy", replace(student, on_policy=None))

    def _finish(
        self, name: str, student: Student, folder: Path, model: Model, trained: full.Trained, before: Sequence[Look],
        feed: Feed,
    ) -> None:  # fmt: skip
        """Measure, write weights and reports; what says that all is there comes last."""
        done, twins = [], self._twin(name, student)
        for slot, lesson in enumerate(self.lessons):
            old, new = before[slot], self._look(model, lesson, trained.bank, slot)
            said = self._taught(lesson)
            write_weights(folder / lesson.name, model, trained, slot)
            done.append(Distilled(
                name, folder / lesson.name, len(trained.by_slot[slot]), old.measured, new.measured, _parameters(model),
                self.teacher.parameters, isinstance(feed, SameTokens), getattr(feed, "skipped", 0),
                lengths(said, old.answers, new.answers), lesson.name,
            ))  # fmt: skip
            asked = [e.messages[-1]["content"] if e.messages else e.text for e in lesson.shown(self.recipe.samples)]
            texts = [[a.text for a in side] for side in (said, old.answers, new.answers)]
            samples = [Sample(*row) for row in zip(asked, *texts, strict=False)]
            twin = {"off_policy": as_dict(twins[slot].after)} if twins else {}
            write(done[-1], trained.by_slot[slot], samples, self._about(student, lesson) | twin)
        if self.recipe.domains:
            found = self._route(model, folder)
            settings = {"student": as_dict(student), "teacher": self.teacher.ref, "router": as_dict(self.recipe.router)}
            write_summary(folder, done, trained.by_slot, found, settings, self.lessons)

    def _route(self, model: Model, folder: Path) -> dict[str, Any]:
        """The router over the domains, learned on training requests and calibrated on held-out ones."""
        asked = [(lesson.name, lesson.train, lesson.held) for lesson in self.lessons]
        made, measured = router.learn(model, asked, self.recipe.router)
        router.save(made, folder / router.FILE)
        return as_dict(measured)

    def _look(self, model: Model, lesson: Lesson, bank: AdapterBank | None, slot: int = 0) -> Look:
        feed, _ = feed_of(model, [lesson.asked])
        return Look(measure(model, feed, bank, slot), self._answers(model, lesson, bank, slot))

    def _answers(self, model: Model, lesson: Lesson, bank: AdapterBank | None, slot: int = 0) -> list[Answer]:
        return answer(model, self._shown(lesson), self.recipe.capture.max_new_tokens, bank, slot)

    def _taught(self, lesson: Lesson) -> list[Answer]:
        """What the teacher answers."""
        return self.teacher.answers(self._shown(lesson), self.recipe.capture.max_new_tokens)

    def _shown(self, lesson: Lesson) -> list[Example]:
        return lesson.shown(max(self.recipe.samples, self.recipe.answers))

    def _texts(self) -> list[str]:
        """What a new tokenizer is trained on: everything that is said in the data."""
        examples = [lesson.data.style(e) for lesson in self.lessons for e in lesson.train]
        said = [t for e in examples for t in (*(m["content"] for m in e.messages), e.text, e.answer or "")]
        shards = [shard for lesson in self.lessons for shard in lesson.taught.read()]
        answers = [x.decode(errors="replace") for shard in shards for x in shard.x_bytes]
        return [t for t in (*said, *answers) if t]

    def _about(self, student: Student, lesson: Lesson) -> dict[str, Any]:
        taught = lesson.taught
        settings = {"student": as_dict(student), "capture": taught.config, "teacher": self.teacher.ref}
        if lesson.name:
            settings["domain"] = as_dict(lesson.data)
        signals = {"folder": str(taught.folder), "examples": taught.examples, "positions": taught.positions,
                   "skipped": list(taught.skipped)}  # fmt: skip
        return {"settings": settings, "signals": signals}


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.network.parameters())


def tailed(student: Student, taught: Sequence[Captured]) -> Student:
    """The student's settings as they are used: an endpoint's signals hold no draws from the tail, so that it counts as
    one more token instead."""
    objective = student.train.objective
    if objective.tail not in ("steadied", "sampled") or all(signals.tail == "sampled" for signals in taught):
        return student
    return replace(student, train=replace(student.train, objective=replace(objective, tail="ghost")))
