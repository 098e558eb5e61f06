"""Settings of a consolidation: one config per stage, from a TOML file and single assignments.

It does not know the stages beyond their configs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import gating
from ..capture import memory
from ..config import resolve
from ..inputs import read_tables
from ..train import adapter


@dataclass(frozen=True)
class Settings:
    """One config per stage; stored with the stage's result."""

    capture: memory.Config = field(default_factory=memory.Config)
    """How the teacher studies a memory, and what it writes down of it."""
    train: adapter.Config = field(default_factory=adapter.Config)
    """How the student's adapter is trained."""
    gate: gating.Config = field(default_factory=gating.Config)
    """Which gates judge the candidate, and their thresholds."""


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> Settings:
    """Settings from a TOML file with [capture], [train] and [gate] tables, then `stage.key=value` assignments.

    Raises `InputError` for a missing or malformed file, an unknown stage or key, a value of the wrong type.
    """
    return resolve(Settings, read_tables(file, assignments), "config")
