"""A recipe goes the whole way: teacher, signals, students, domains, router, report, audit."""

from __future__ import annotations

from .data import Data
from .recipe import Recipe, load_recipe
from .run import audit, capture, captures, distill, specialists

__all__ = ["Data", "Recipe", "audit", "capture", "captures", "distill", "load_recipe", "specialists"]
