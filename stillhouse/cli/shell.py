"""What commands share: their two options, the store of `--home`, one object or lines on stdout."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError

Run = Callable[[argparse.Namespace], None]


def command(commands: Any, name: str, run: Run, about: str) -> argparse.ArgumentParser:
    """A command or verb that takes `--home` and `--json` and calls `run(args)`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.add_argument("--home", type=Path, default=None, help="where everything is kept (default ~/.stillhouse)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no progress")
    parser.set_defaults(run=run)
    return parser


def show(result: Any, as_json: bool, lines: Callable[[], object]) -> None:
    """Print `result` as one JSON object, or call `lines` to print it for people."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        lines()


def open_store(args: argparse.Namespace) -> Any:
    """The store of `--home`."""
    from ..inputs import home_folder
    from ..store import Store

    return Store(home_folder(args.home))


def memory_files(folder: Path) -> list[Path]:
    """The files of a `--memories` folder, sorted, hidden ones left out. `InputError` when it is no folder."""
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no folder; --memories is a folder of UTF-8 text files")
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def version_row(version: Any) -> dict[str, Any]:
    """A version for JSON."""
    return asdict(version) | {"parents": list(version.parents)}


def pick_version(store: Any, user: str, number: int | None) -> Any:
    """A user's version by number; without one the champion, or the newest. `InputError` lists what there is."""
    versions = store.versions(user)
    if not versions:
        raise InputError(f"user {user!r} has no versions; known users: {', '.join(store.users()) or 'none'}")
    if number is None:
        return store.champion(user) or versions[-1]
    for version in versions:
        if version.number == number:
            return version
    raise InputError(f"user {user!r} has no v{number}; there are: {', '.join(f'v{v.number}' for v in versions)}")
