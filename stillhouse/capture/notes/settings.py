"""How notes with questions become lessons."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True)
class Config:
    """How many lessons are made of a line of a note."""

    readings: int = 2
    """Questions about a fact that are answered with a part of its note in the context."""
    unanswered: int = 2
    """Questions about a line that its note does not answer, with a part of the note in the context."""
    closed: int = 1
    """Questions about a fact that are asked without the note: the answer is that it is not known."""
    widest: int = 12
    """Lines of the largest part of a note that is read."""
    seed: int = 0
    """Of what is drawn: which questions, which parts of a note, the order of questions."""

    def __post_init__(self) -> None:
        for name, least in (("readings", 0), ("unanswered", 0), ("closed", 0), ("widest", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: {getattr(self, name)} is too small; at least {least} is allowed")
