"""Settings: a frozen dataclass beside the code that reads it; this file turns mappings into them and back.

In: a mapping (TOML table, JSON object, command-line options). Out: the dataclass, or `InputError` naming the unknown
key, what is allowed, and the nearest spelling. Defaults are the setting we stand behind.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InputError

C = TypeVar("C")


def resolve(kind: type[C], values: Mapping[str, Any], where: str = "config") -> C:
    """Build `kind` from `values`; unknown keys and values of a wrong type are errors."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in fields:
            raise InputError(_unknown(where, key, list(fields)))
        if not _fits(value, hints[key]):
            raise InputError(f"{where}.{key}: {value!r} is not of type {_spell(hints[key])}")
    ready = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**ready)


def as_dict(config: object) -> dict[str, Any]:
    """The resolved settings, ready for canonical JSON; stored with every result."""
    return dataclasses.asdict(config)  # type: ignore[call-overload, no-any-return]


def _unknown(where: str, key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key {key!r}; allowed: {', '.join(sorted(allowed))}{hint}"


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return str(getattr(hint, "__name__", hint))
