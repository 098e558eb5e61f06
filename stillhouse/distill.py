"""Distil a teacher into students: signals once, students many; the flow from a recipe to reports.

In: a recipe (TOML, or `Recipe`): a teacher, data, capture settings, and one table per student. Out: per student a
folder with the model or the adapter, `report.html` and `report.json`. Everything is under `home` in folders named by
the digest of what they are made from, so a killed run is run again and goes on, and a second recipe with the same
teacher and data finds the signals made.

A student whose tokenizer is not the teacher's is trained on chunks of bytes. It does not know kinds of models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import align, models
from ._distill_data import read, split
from ._distill_measure import Measured, measure
from ._distill_report import Sample, report
from ._distill_student import Student, build, write_folder
from .blobs import write_atomic
from .capture import prompts
from .capture.prompts import Captured, Example
from .config import as_dict, resolve
from .errors import InputError
from .export import peft
from .generate import Sampling, generate
from .inputs import home_folder, read_tables
from .lora import AdapterBank
from .models import Device, Model
from .progress import progress
from .records import canonical, digest, from_mapping
from .train import full
from .train._aligned import AlignedTokens, Teacher
from .train._examples import Feed, SameTokens

__all__ = ["Distilled", "Recipe", "Student", "capture", "distill", "load_recipe"]

REPORT = "report.json"


@dataclass(frozen=True)
class TeacherTable:
    """`model`: tiny, a local Hugging Face folder or a hub id."""

    model: str = models.DEFAULT
    device: Device = "auto"


@dataclass(frozen=True)
class Data:
    """`train`: files in TRL's formats, or `stdlib:N`. `held_out`: a share of it, or files of their own."""

    train: tuple[str, ...] = ()
    held_out: float | tuple[str, ...] = 0.1
    limit: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.held_out, tuple) and not 0 <= self.held_out < 1:
            raise InputError(f"data.held_out: {self.held_out} is not a share from 0 to under 1, or a list of files")
        if self.limit < 0:
            raise InputError(f"data.limit: {self.limit} is not allowed; at least 0, which is all")


@dataclass(frozen=True)
class Recipe:
    """What to distil. `samples` prompts of the held-out part are answered by teacher and students for the report."""

    teacher: TeacherTable = field(default_factory=TeacherTable)
    data: Data = field(default_factory=Data)
    capture: prompts.Config = field(default_factory=prompts.Config)
    samples: int = 6
    seed: int = 0
    students: tuple[tuple[str, Student], ...] = ()
    folder: Path = field(default_factory=Path)  # what relative paths are from


@dataclass(frozen=True)
class Distilled:
    """One student: where it is, and how near its teacher before and after, on held-out signals."""

    name: str
    folder: Path
    steps: int
    before: Measured
    after: Measured
    parameters: int
    teacher_parameters: int
    same_tokens: bool
    skipped: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return as_dict(self) | {"folder": str(self.folder)}


def load_recipe(file: Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file, `table.key=value` assignments put over it.

    `InputError`: a missing or malformed file, an unknown key (with the nearest spelling), a value of the wrong type.
    """
    tables = read_tables(file, assignments)
    students = tables.pop("students", {})
    if not isinstance(students, dict) or not all(isinstance(s, dict) for s in students.values()):
        raise InputError("recipe.students: one table per student is expected, for example [students.small]")
    if "folder" in tables:
        raise InputError("recipe: unknown key 'folder'; relative paths are from where the recipe lies")
    made = tuple((name, resolve(Student, s, f"students.{name}")) for name, s in students.items())
    return replace(resolve(Recipe, tables, "recipe"), students=made, folder=file.parent)


def capture(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> tuple[Captured, Captured | None]:
    """The teacher's signals on training and held-out examples, made where they are missing."""
    train, held = _examples(recipe)
    teacher = _teacher(recipe, home_folder(home))
    return _signals(teacher, recipe, train, home_folder(home), "capture", show), (
        _signals(teacher, recipe, held, home_folder(home), "held out", show) if held else None
    )


def distill(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> list[Distilled]:
    """Capture what is missing, train every student that is not there yet, measure, and write the reports."""
    if not recipe.students:
        raise InputError("recipe: no students; give at least one table such as [students.small]")
    root = home_folder(home)
    train, held = _examples(recipe)
    if not held:
        raise InputError("data.held_out: 0 leaves nothing to measure a student on; give a share or files")
    teacher = _teacher(recipe, root)
    taught = _signals(teacher, recipe, train, root, "capture", show)
    asked = _signals(teacher, recipe, held, root, "held out", show)
    run = _Run(recipe, teacher, taught, asked, train, held, root, show)
    return [run.student(name, student) for name, student in recipe.students]


def _teacher(recipe: Recipe, home: Path) -> Model:
    home.mkdir(parents=True, exist_ok=True)
    return models.load(recipe.teacher.model, recipe.teacher.device, home / "fingerprints.json")


def _examples(recipe: Recipe) -> tuple[list[Example], list[Example]]:
    found = read(recipe.data.train, recipe.folder)
    found = found[: recipe.data.limit] if recipe.data.limit else found
    if isinstance(recipe.data.held_out, tuple):
        return found, read(recipe.data.held_out, recipe.folder)
    return split(found, recipe.data.held_out, recipe.seed)


def _signals(
    teacher: Model, recipe: Recipe, examples: Sequence[Example], home: Path, what: str, show: bool
) -> Captured:
    key = digest([teacher.fingerprint, as_dict(recipe.capture), list(examples)])
    folder = home / "signals" / key[:32]
    if (folder / prompts.ABOUT).exists():
        return prompts.load(folder)
    with progress(what, len(examples), show) as step:
        return prompts.capture(teacher, examples, recipe.capture, folder, step)


@dataclass(frozen=True)
class _Run:
    """One recipe's students, one after the other."""

    recipe: Recipe
    teacher: Model
    taught: Captured
    asked: Captured
    train: Sequence[Example]
    held: Sequence[Example]
    home: Path
    show: bool

    def student(self, name: str, student: Student) -> Distilled:
        base = models.fingerprint(models.locate(student.model)) if student.model else self.teacher.fingerprint
        signals = [self.taught.shards, self.asked.shards]
        key = digest([*signals, as_dict(student), base, self.recipe.seed, self.recipe.samples])
        folder = self.home / "students" / f"{name}-{key[:16]}"
        if (folder / REPORT).exists():
            return _read(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = build(
            student, self.teacher, self._texts(), folder / "start", self.recipe.teacher.device, self.recipe.seed
        )
        feed, asked = self._feed(model, self.taught), self._feed(model, self.asked)
        before, old = measure(model, asked), self._answers(model, None)
        with progress(f"train {name}", full.planned(feed, student.train), self.show) as step:
            trained = full.train(model, feed, student.train, folder, step, key)
        try:
            after, new = measure(model, asked, trained.bank), self._answers(model, trained.bank)
            _write(folder, model, trained)
        finally:
            if trained.bank:
                trained.bank.detach()
        done = Distilled(
            name, folder, trained.steps, before, after, _parameters(model), _parameters(self.teacher),
            isinstance(feed, SameTokens), getattr(feed, "skipped", 0),
        )  # fmt: skip
        samples = [Sample(*row) for row in zip(*self._teachers_answers, old, new, strict=True)]
        self._report(done, trained.losses, samples, student)
        return done

    def _feed(self, model: Model, signals: Captured) -> Feed:
        tokens = signals.tokens()
        if align.same_vocabulary(tokens, model.token_bytes):
            return SameTokens(signals.read(), model.vocabulary, model.context)
        return AlignedTokens(signals.read(), Teacher(tokens, signals.special()), model)

    def _texts(self) -> list[str]:
        """What a new tokenizer is trained on: everything that is said in the data."""
        said = [t for e in self.train for t in (*(m["content"] for m in e.messages), e.text, e.answer or "")]
        answers = [x.decode(errors="replace") for shard in self.taught.read() for x in shard.x_bytes]
        return [t for t in (*said, *answers) if t]

    @property
    def _shown(self) -> list[Example]:
        asked = [e for e in self.held if e.messages or e.text] or [_opening(e) for e in self.held]
        return asked[: self.recipe.samples]

    @property
    def _teachers_answers(self) -> tuple[list[str], list[str]]:
        """What is asked, and what the teacher says."""
        said = [e.messages[-1]["content"] if e.messages else e.text for e in self._shown]
        return said, self._answers(self.teacher, None)

    def _answers(self, model: Model, bank: AdapterBank | None) -> list[str]:
        asked = [model.chat_ids(e.messages) if e.messages else model.text_ids(e.text) for e in self._shown]
        if not asked:
            return []
        replies = generate(model, asked, Sampling(40), bank=bank, slots=[0] * len(asked) if bank else None)
        return [model.text(ids) for ids in replies]

    def _report(self, done: Distilled, losses: Sequence[float], samples: Sequence[Sample], student: Student) -> None:
        settings = {"student": as_dict(student), "capture": self.taught.config, "teacher": self.teacher.ref}
        found = done.as_dict() | {
            "losses": [round(x, 5) for x in losses], "samples": [as_dict(s) for s in samples], "settings": settings,
            "signals": {"folder": str(self.taught.folder), "examples": self.taught.examples,
                        "positions": self.taught.positions, "skipped": list(self.taught.skipped)},
        }  # fmt: skip
        write_atomic(done.folder / "report.html", report(found).encode())
        write_atomic(done.folder / REPORT, canonical(found))


def _opening(example: Example) -> Example:
    """The first words of running text, to be gone on with."""
    words = (example.answer or "").split()
    return Example(text=" ".join(words[: max(1, min(8, len(words) // 2))]))


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.network.parameters())


def _write(folder: Path, model: Model, trained: full.Trained) -> None:
    """The model as a Hugging Face folder, or the adapter as a PEFT folder."""
    made = trained.adapter(str(model.path))
    if made is None:
        shutil.rmtree(folder / "model", ignore_errors=True)
        write_folder(folder / "model", model.network, model.tokenizer)
        return
    tensors, about = made
    (folder / "adapter").mkdir(exist_ok=True)
    write_atomic(folder / "adapter" / "adapter_model.safetensors", peft.to_bytes(tensors))
    write_atomic(folder / "adapter" / "adapter_config.json", json.dumps(about, indent=2, sort_keys=True).encode())


def _read(folder: Path) -> Distilled:
    """A student that was finished before."""
    raw = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    named = {f: raw[f] for f in Distilled.__dataclass_fields__}
    parts = {side: from_mapping(Measured, raw[side]) for side in ("before", "after")}
    return Distilled(**(named | parts | {"folder": folder}))
