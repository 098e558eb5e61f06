"""Kinds are files: a module in a stage's folder is a kind, and the module's name is the kind's name.

In: a stage ("capture", "train", "gate", ...). Out: the names of its kinds, or the module of one name. No list of kinds
is kept anywhere; a kind is added by adding a file.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from types import ModuleType

from .errors import InputError


def names(stage: str) -> list[str]:
    """The kinds of a stage, sorted."""
    package = importlib.import_module(f"stillhouse.{stage}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(stage: str, name: str) -> ModuleType:
    """The module that is the kind `name` of `stage`; `InputError` lists the kinds there are."""
    module = sys.modules.get(f"stillhouse.{stage}.{name}")
    if module is not None and not name.startswith("_"):
        return module
    known = names(stage)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"there is no {stage} kind {name!r}; there are: {', '.join(known)}{hint}")
    return importlib.import_module(f"stillhouse.{stage}.{name}")
