"""The command line: arguments in, stage functions called, one result printed."""

from __future__ import annotations

from .entry import main, program

__all__ = ["main", "program"]
