"""What a new user sees first: one memory, before and after.

In: a memory file. Out: a table `question | base | teacher with memory | student without it`, the figures that matter
and the verdict. It does the same as `stillhouse consolidate --diagnose`, then prints. Remedies are tried because a
dozen facts are few: one question too few answered refuses a candidate.

It does not know stages or gates.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import consolidation, inputs
from .consolidation import Consolidation
from .errors import Rejected
from .gating.answers import expected_by_text
from .text.answers import grade


def run(memory: str, user: str, model: str, home: Path | None, as_json: bool = False) -> None:
    """Consolidate `memory` for `user` and show the comparison. Raises `Rejected` when gates refuse every candidate."""
    text = inputs.read_memory(memory)
    result = consolidation.consolidate(user, text, model=model, home=home, show=not as_json, diagnose=True)
    if as_json:
        print(json.dumps(result.as_dict() | {"samples": [asdict(s) for s in result.samples]}, ensure_ascii=False))
    else:
        show(result, memory, Console())
    if not result.approved:
        raise Rejected(f"{user!r} v{result.version.number} rejected by {', '.join(result.failed)}")


def show(result: Consolidation, memory: str, console: Console) -> None:
    """Print the table and the figures."""
    table = Table(title=f"{memory}: what {result.user}'s model answers", title_justify="left", show_lines=False)
    for name in (
        "question (a wording never trained on)",
        "base without memory",
        "teacher with memory",
        "student without it",
    ):
        table.add_column(name, overflow="fold")
    expected = expected_by_text(result.study)
    for s in result.samples:
        right = grade(s.student, expected[s.question]).correct
        table.add_row(
            *map(_plain, (s.question, s.base, s.teacher)), f"[{'green' if right else 'red'}]{_plain(s.student)}[/]"
        )
    console.print(table)
    console.print(result.summary(), markup=False, highlight=False)
    took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    console.print(f"  {took}", markup=False, highlight=False)
    console.print(
        f'\nask it yourself: stillhouse ask --user {result.user} "{result.samples[0].question}"', markup=False
    )


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
