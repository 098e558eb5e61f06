"""What to distil: a recipe as people write it, checked.

In: a TOML file with `[teacher]`, `[data]` or `[domains.NAME]`, `[capture]` and `[students.NAME]` tables, and settings
from the command line. Out: a `Recipe`. It does not load models and reads no data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..capture import prompts
from ..capture.prompts import states
from ..config import resolve
from ..errors import InputError
from ..inputs import read_tables
from . import router
from .data import Data, Domain
from .student import Student
from .teacher import TeacherTable


@dataclass(frozen=True)
class Recipe:
    """What to distil, from one teacher into any number of students. Data are given in `data` or in `domains`."""

    teacher: TeacherTable = field(default_factory=TeacherTable)
    """Who writes the signals: the table `[teacher]`."""
    data: Data = field(default_factory=Data)
    """The only data set. Every student becomes one model or one adapter."""
    capture: prompts.Config = field(default_factory=prompts.Config)
    """How the teacher's signals are taken."""
    router: router.Config = field(default_factory=router.Config)
    """How requests find their specialist. Used with domains only."""
    traces: states.Config | None = None
    """Inner states that are kept beside the signals, for students that match them. None: no states are kept."""
    samples: int = 6
    """How many held-out requests the report shows with everybody's answers, per data set."""
    answers: int = 12
    """How many held-out requests teacher and student answer for the measure of length, per data set."""
    seed: int = 0
    """Decides which examples are held out and the weights of a student that starts from random ones."""
    domains: tuple[tuple[str, Domain], ...] = ()
    """Data sets with their names. Every student becomes one specialist per domain."""
    students: tuple[tuple[str, Student], ...] = ()
    """The students with their names, in the order in which they are made."""
    folder: Path = field(default_factory=Path)
    """Where relative paths start: the folder of the recipe's file."""

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

    def capture_of(self, data: Data) -> prompts.Config:
        """How one data set is captured: with the system message that is for its teacher alone, where it has one."""
        own = data.teacher_system if isinstance(data, Domain) else ""
        return replace(self.capture, teacher_system=own) if own else self.capture


def load_recipe(file: Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file, `table.key=value` assignments put over it.

    `InputError`: a missing or malformed file, an unknown key (with the nearest spelling), a value of the wrong type.
    """
    tables = read_tables(file, assignments)
    students, domains = _named(tables, "students", "small"), _named(tables, "domains", "task")
    if "folder" in tables:
        raise InputError("recipe: unknown key 'folder'; relative paths are from where the recipe lies")
    return replace(
        resolve(Recipe, tables, "recipe"),
        students=tuple((name, resolve(Student, table, f"students.{name}")) for name, table in students.items()),
        domains=tuple((name, resolve(Domain, table, f"domains.{name}")) for name, table in domains.items()),
        folder=file.parent,
    )


def _named(tables: dict[str, Any], kind: str, example: str) -> dict[str, Any]:
    """The tables `[kind.NAME]`, which are taken out of `tables`. Their names become names of folders."""
    named = tables.pop(kind, {})
    if not isinstance(named, dict) or not all(isinstance(table, dict) for table in named.values()):
        raise InputError(f"recipe.{kind}: one table each is expected, for example [{kind}.{example}]")
    if wrong := [name for name in named if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)]:
        raise InputError(f"recipe.{kind}: {wrong[0]!r} is no name; letters, digits, '_', '-' and '.' are")
    return named
