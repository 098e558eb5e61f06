"""The families of statements, read from `families.txt`: one relation in every wording it is stated and asked in.

In: the table beside this file, whose head says how to read it. Out: `FAMILIES`, in its order: seeded draws depend on
it. It does not know words or values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_GROUPS = {"event_date": "event", "event_time": "event", "code": "lock", "password": "lock"}


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


def parse(table: str) -> tuple[Family, ...]:
    """Families of a table: blocks separated by empty lines, comments aside."""
    lines = [line for line in table.splitlines() if not line.startswith("#")]
    return tuple(_family(block.splitlines()) for block in "\n".join(lines).strip().split("\n\n"))


def _family(lines: list[str]) -> Family:
    name, slots, subject, answer = (part.strip() for part in lines[0].split(" | "))
    rows = {mark: tuple(line[2:] for line in lines[1:] if line.startswith(f"{mark} ")) for mark in "SQR"}
    reverse = [row.split(" => ") for row in rows["R"]]
    return Family(
        name=name,
        slots=dict(slot.split("=") for slot in slots.split()),
        subject=subject,
        statements=rows["S"],
        questions=rows["Q"],
        answer=answer,
        reverse=tuple((question, answer) for question, answer in reverse),
    )


FAMILIES = parse(Path(__file__).with_name("families.txt").read_text(encoding="utf-8"))
