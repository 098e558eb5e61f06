"""Where models of this machine lie: those fetched by name, and those converted from GGUF files.

In: a home folder. Out: `<home>/models/NAME` and `<home>/models/gguf-DIGEST`; a name is also looked for in the folder
that the environment variable `STILLHOUSE_MODELS` names, and in the home that commands take when nobody says. A folder
that has its `source.json` is whole (`folders.py`). Format: `docs/formats/models.md`.

It does not know how a folder is filled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..inputs import home_folder

SOURCE = "source.json"
VARIABLE = "STILLHOUSE_MODELS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def models_folder(home: Path | None) -> Path:
    """Where a command with this home puts models; without one, where `STILLHOUSE_MODELS` says, if it does."""
    return _named() if home is None and os.environ.get(VARIABLE) else home_folder(home) / "models"


def searched(home: Path | None) -> list[Path]:
    """Where a model's name is looked for, in this order, each once."""
    places = [models_folder(home), *([_named()] if os.environ.get(VARIABLE) else []), home_folder(None) / "models"]
    return list(dict.fromkeys(place.resolve() for place in places))


def find(name: str, home: Path | None) -> Path | None:
    """The whole folder of a model that was fetched under `name`; None where there is none."""
    if not _NAME.fullmatch(name):
        return None
    return next((place / name for place in searched(home) if (place / name / SOURCE).is_file()), None)


def present(home: Path | None) -> Iterator[Path]:
    """The whole folders of all places, those of a nearer place first."""
    for place in searched(home):
        yield from sorted(file.parent for file in place.glob(f"[!.]*/{SOURCE}"))


def _named() -> Path:
    return Path(os.environ[VARIABLE]).expanduser()
