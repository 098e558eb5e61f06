"""Stage 1 of a distillation: from a recipe to the teacher's signals on every data set.

In: a recipe and the home folder. Out: `RecipeSignals`: the teacher, open, and one `Lesson` per data set with the
signals on its training and its held-out examples. Signals lie in `signals/<digest>/` under home, in a folder named by
the teacher, the settings and the examples, so a second recipe with the same three finds them made.

It does not know how students are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..capture import prompts
from ..config import as_dict
from ..errors import InputError
from ..progress import progress
from ..records import digest
from ..trainer.ranks import Ranks, ranks
from ..work import Work
from .checks import check_students
from .data import Data, parts
from .recipe import Recipe
from .teacher import OpenTeacher, open_teacher


@dataclass(frozen=True)
class Lesson:
    """One data set with the teacher's signals on it. Examples are as people ask them, without a domain's style."""

    name: str
    """The name of the domain, "" where the recipe has one data set."""
    data: Data
    train: Sequence[prompts.Example]
    held_out: Sequence[prompts.Example]
    signals: prompts.Captured
    """On the training examples."""
    held_out_signals: prompts.Captured | None
    """On the held-out examples; None where nothing is held out."""

    def requests(self, limit: int) -> list[prompts.Example]:
        """At most `limit` held-out requests in the domain's style. Of running text, a request is its first words."""
        requests = [e for e in self.held_out if e.messages or e.text] or [_opening(e) for e in self.held_out]
        return [self.data.style(e) for e in requests[:limit]]


@dataclass(frozen=True)
class RecipeSignals:
    """Everything that the students of one recipe are made from."""

    recipe: Recipe
    teacher: OpenTeacher
    lessons: tuple[Lesson, ...]
    home: Path
    ranks: Ranks
    """The processes that work on this recipe together."""
    show: bool
    """Whether this process shows progress."""


def collect_signals(recipe: Recipe, home: Path, show: bool, measured: bool = True) -> RecipeSignals:
    """Read the data, open the teacher, and capture what is missing.

    `measured`: students will be made and measured, so every data set has to hold examples out, and students that
    cannot be made are refused before anything is captured. `InputError`: that, or data that cannot be read or captured;
    `ModelError`: a model that cannot be opened; `StoreError`: damaged signals.
    """
    here = ranks()
    show = show and here.first
    sets = [(name, data, *parts(data, recipe.folder, recipe.seed)) for name, data in recipe.sets]
    for name, _, _, held_out in sets if measured else ():
        if not held_out:
            where = f"domains.{name}" if name else "data"
            raise InputError(f"{where}.held_out: 0 leaves nothing to measure a student on; give a share or files")
    teacher = here.in_turn(lambda: open_teacher(recipe.teacher, home))
    if measured:
        here.in_turn(lambda: check_students(recipe, teacher, here))

    def signals(title: str, data: Data, examples: Sequence[prompts.Example]) -> prompts.Captured:
        styled, config = [data.style(e) for e in examples], recipe.capture_of(data)
        key = digest([teacher.fingerprint, as_dict(config), styled])
        work = Work(home / "signals" / key[:32] / prompts.ABOUT, lambda mark: prompts.load(mark.parent))

        def capture(folder: Path) -> None:
            with progress(title.strip(), len(styled), show) as step:
                teacher.capture(styled, config, folder, step)

        return work.once(capture)

    def lesson(name: str, data: Data, train: Sequence[prompts.Example], held_out: Sequence[prompts.Example]) -> Lesson:
        captured = signals(f"capture {name}", data, train)
        return Lesson(
            name, data, train, held_out, captured, signals(f"held out {name}", data, held_out) if held_out else None
        )

    return RecipeSignals(recipe, teacher, here.in_turn(lambda: tuple(lesson(*row) for row in sets)), home, here, show)


def _opening(example: prompts.Example) -> prompts.Example:
    """The first words of running text, to be continued."""
    words = (example.answer or "").split()
    return prompts.Example(text=" ".join(words[: max(1, min(8, len(words) // 2))]))
