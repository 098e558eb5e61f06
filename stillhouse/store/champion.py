"""Who is served: the alias `champion` of each user, a file that is replaced whole and keeps the history of its moves.

In: a user, a version number, why. Out: `<home>/adapters/<user>/champion.json`
= `{"format":1,"number":n,"moves":[{"from","to","when","why","by"},…]}`. It does not know verdicts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import StoreError
from ..records import canonical
from ..storage.files import write_atomic
from ..storage.locks import now

CHAMPION_FILE = "champion.json"
FORMAT = 1

By = Literal["save", "promote", "rollback"]


@dataclass(frozen=True)
class Alias:
    """The version that `champion` points to (None: there is none), and all its moves, oldest first."""

    number: int | None
    moves: tuple[dict[str, Any], ...]

    def moved(self, to: int, why: str, by: By) -> Alias:
        """The alias after one more move."""
        move = {"from": self.number, "to": to, "when": now(), "why": why, "by": by}
        return Alias(to, (*self.moves, move))

    def previous(self) -> int | None:
        """The champion that a rollback returns to. A rollback undoes the moves after its target, other moves add."""
        line: list[int] = []
        for move in self.moves:
            if move["by"] == "rollback" and move["to"] in line:
                last = len(line) - 1 - line[::-1].index(move["to"])
                line = line[: last + 1]
            elif not line or line[-1] != move["to"]:
                line.append(move["to"])
        return line[-2] if len(line) > 1 else None


NOBODY = Alias(None, ())


def read(folder: Path) -> Alias:
    """The alias of a user's folder. `StoreError` if the file is damaged."""
    path = folder / CHAMPION_FILE
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        return NOBODY
    except ValueError:
        raw = None
    if not _well_formed(raw):
        raise StoreError(f"{str(path)!r} is damaged; delete it and promote a version again")
    if raw["format"] != FORMAT:
        raise StoreError(
            f"{str(path)!r} has format {raw['format']!r}, this program reads {FORMAT}; use the one that wrote it"
        )
    return Alias(raw["number"], tuple(raw["moves"]))


def write(folder: Path, alias: Alias) -> None:
    """Replace the alias; durable on return."""
    write_atomic(folder / CHAMPION_FILE, canonical({"format": FORMAT, "number": alias.number, "moves": alias.moves}))


def _well_formed(raw: Any) -> bool:
    return (
        isinstance(raw, dict)
        and "format" in raw
        and isinstance(raw.get("number"), int | None)
        and isinstance(raw.get("moves"), list)
        and all(isinstance(m, dict) and {"from", "to", "when", "why", "by"} <= set(m) for m in raw["moves"])
    )
