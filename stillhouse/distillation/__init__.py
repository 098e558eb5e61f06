"""A recipe goes the whole way: teacher, signals, students, domains, router, report, audit."""

from __future__ import annotations

from .data import Data
from .run import Recipe, Run, audit, capture, captures, distill, load_recipe, opened, specialists

__all__ = ["Data", "Recipe", "Run", "audit", "capture", "captures", "distill", "load_recipe", "opened", "specialists"]
