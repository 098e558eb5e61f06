"""`python -m stillhouse.cli`."""

from __future__ import annotations

from .entry import program

program()
