"""Settings: a frozen dataclass beside the code that reads it; this file turns mappings into them and back.

In: a mapping (TOML table, JSON object, command-line options). Out: the dataclass, or `InputError` naming the unknown
key, what is allowed, and the nearest spelling. Defaults are the setting we stand behind.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from .errors import InputError

C = TypeVar("C")
T = TypeVar("T")


class SettingError(InputError):
    """A value that its own settings refuse. They know its `key`; where they stand in a file, `resolve` knows."""

    def __init__(self, table: str, key: str, problem: str):
        super().__init__(table, key, problem)
        self.key, self.problem = key, problem

    def __str__(self) -> str:
        return "{}.{}: {}".format(*self.args)


def resolve(kind: type[C], values: Mapping[str, Any], where: str = "config") -> C:
    """Build `kind` from `values`.

    Lists become tuples, tables become the dataclass their field asks for, and whole numbers become floats where the
    field is one, so that equal settings have equal digests. Unknown or missing keys and values of a wrong type are
    `InputError`. A value that `kind` refuses by a `SettingError` is named by its whole path.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a table of settings, found {values!r:.60}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    ready = {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(_unknown(where, key, list(fields)))
        ready[key] = _convert(value, hints[key], f"{where}.{key}")
    for name, field in fields.items():
        if name not in ready and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: missing {name!r}")
    try:
        return kind(**ready)
    except SettingError as error:
        raise InputError(f"{where}.{error.key}: {error.problem}") from error


def later(default: T) -> T:
    """The default of a setting that came after results had been stored. At its default it is left out of `as_dict`, so
    digests of older settings stay as they are."""
    field: T = dataclasses.field(default=default, metadata={"later": True})
    return field


def as_dict(config: object) -> dict[str, Any]:
    """The resolved settings, ready for canonical JSON; stored with every result."""
    values: dict[str, Any] = _plain(config)
    return values


def _plain(value: Any) -> Any:
    """`value` with mappings in place of dataclasses."""
    if dataclasses.is_dataclass(value):
        given = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: _plain(x) for f, x in given if not f.metadata.get("later") or x != f.default}
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value] if isinstance(value, list) else tuple(map(_plain, value))
    return value


def check_numbers(settings: object, where: str, positive: Collection[str], free: Collection[str] = ("seed",)) -> None:
    """`InputError` for a number among `settings` that is below 0, or that is 0 and named in `positive`.

    Those named in `free` may be anything.
    """
    for name, value in vars(settings).items():
        if isinstance(value, int | float) and name not in free and (value < 0 or (not value and name in positive)):
            least = "more than 0" if name in positive else "at least 0"
            raise InputError(f"{where}.{name}: {value} is not allowed; it must be {least}")


def _unknown(where: str, key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key {key!r}; allowed: {', '.join(sorted(allowed))}{hint}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, Mapping) and (table := _table(hint)) is not None:
        return resolve(table, value, where)
    if not _fits(value, hint):
        raise InputError(f"{where}: {value!r} is not {_spell(hint)}")
    return _shape(value, hint)


def _table(hint: Any) -> type | None:
    """The dataclass that a table is read as, `X | None` included."""
    options = [h for h in (hint, *typing.get_args(hint)) if isinstance(h, type) and dataclasses.is_dataclass(h)]
    return options[0] if options and typing.get_origin(hint) is not tuple else None


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in args)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin is tuple:
        return isinstance(value, list | tuple) and _elements_fit(value, args)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, origin or hint)


def _elements_fit(value: list[Any] | tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    if args[-1] is Ellipsis:
        return all(_fits(v, args[0]) for v in value)
    return len(value) == len(args) and all(map(_fits, value, args))


def _shape(value: Any, hint: Any) -> Any:
    """A value that fits, in the one form that its field has: 1 -> 1.0, [..] -> (..)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        exact = [h for h in args if isinstance(h, type) and type(value) is h]
        return value if exact else _shape(value, next(h for h in args if _fits(value, h)))
    if origin is tuple:
        return tuple(_shape(v, args[0] if args[-1] is Ellipsis else args[i]) for i, v in enumerate(value))
    if origin in (dict, Mapping):
        return {k: _shape(v, args[1]) for k, v in value.items()}
    return float(value) if hint is float else value


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return "of type " + (hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint))
