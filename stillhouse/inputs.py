"""What a user hands over: a memory file, a settings file, a home folder.

In: paths, bytes, assignments `stage.key=value`. Out: text, TOML tables, a folder; or `InputError` with the one thing
that is wrong. It does not know what the settings mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError

MAX_MEMORY_BYTES = 8 * 2**20


def read_memory(path: Path | str) -> str:
    """A memory file's text. `InputError`: missing, a folder, empty, binary, not UTF-8, or larger than 8 MiB."""
    file = Path(path).expanduser()
    if not file.exists():
        raise InputError(f"{path}: no such file; a memory is a UTF-8 text file")
    if not file.is_file():
        raise InputError(f"{path}: not a file; a memory is a UTF-8 text file")
    if file.stat().st_size > MAX_MEMORY_BYTES:
        raise InputError(f"{path}: {file.stat().st_size} bytes; at most {MAX_MEMORY_BYTES} are taken at once: split it")
    return check_memory(file.read_bytes(), str(path))


def check_memory(data: bytes, name: str = "memory") -> str:
    """The text of a memory's bytes, or `InputError` with what is wrong."""
    if b"\0" in data:
        raise InputError(f"{name}: binary data (a zero byte at {data.index(0)}); a memory is UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; convert it first") from error
    if not text.strip():
        raise InputError(f"{name}: empty; a memory states something")
    return text.replace("\r\n", "\n")


def read_tables(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """A TOML file's tables with `stage.key=value` assignments put over them. `InputError` names the file or the
    assignment that is missing, or not TOML."""
    tables: dict[str, Any] = {}
    if file is not None:
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not TOML: not UTF-8 at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{file}: not TOML: {error}") from error
    for text in assignments:
        try:
            tables = _merge(tables, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{text}: not TOML: {error}; write key=value, and a text in quotes") from error
    return tables


def _merge(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    both = dict(left)
    for key, value in right.items():
        tables = isinstance(left.get(key), dict) and isinstance(value, dict)
        both[key] = _merge(left[key], value) if tables else value
    return both


def home_folder(home: Path | str | None) -> Path:
    """Where everything is kept: `home`, or `~/.stillhouse`."""
    return Path(home).expanduser() if home is not None else Path.home() / ".stillhouse"
