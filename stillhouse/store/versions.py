"""Versions as folders: `<home>/adapters/<user>/v<n>/`, in PEFT's own file names, with `version.json` beside them.

In: a version's fields and its files. Out: a folder that is complete or absent, under a number that is never used
again. The number is taken by renaming the finished folder: renaming onto a folder with files in it fails, so two
processes can never get the same one, and no lock is needed. What survives a forgotten user is the highest number used,
under the hash of the user id.

It does not know manifests, the index, or who is champion.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import InputError, NotFound, StoreError
from ..records import Version
from ..storage.files import PARTIAL, make_folder, sync_folder, write_atomic, write_synced, writing
from .manifests import decode, encode
from .names import ID_FILE, escape_user, is_shortened, unescape_user

VERSION_FILE = "version.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
REQUIRED = (ADAPTER_CONFIG_FILE, ADAPTER_FILE, VERSION_FILE)

_FOLDER = re.compile(r"v([1-9][0-9]*)")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}


class Versions:
    """The version folders of all users of one home."""

    def __init__(self, home: Path) -> None:
        self.root = home / "adapters"
        self.retired = home / "retired"
        make_folder(self.root)
        make_folder(self.retired)

    def folder(self, user: str) -> Path:
        """A user's folder, which need not exist."""
        return self.root / escape_user(user)

    def users(self) -> list[str]:
        """Users with at least one version, sorted."""
        return sorted(unescape_user(f) for f in self.folders() if any(_numbers(f)))

    def folders(self) -> list[Path]:
        """All users' folders, sorted by name."""
        return sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def numbers(self, user: str) -> list[int]:
        """A user's version numbers, ascending."""
        return sorted(_numbers(self.folder(user)))

    def user_of(self, folder: Path) -> str:
        """Whose folder it is."""
        return unescape_user(folder)

    def of(self, folder: Path) -> list[Version]:
        """All versions in a user's folder, ascending."""
        user = unescape_user(folder)
        return [self.read(user, number) for number in sorted(_numbers(folder))]

    def dir(self, user: str, number: int) -> Path:
        """The folder of one version. `NotFound` lists the numbers there are."""
        path = self.folder(user) / f"v{number}"
        if not path.is_dir():
            there = ", ".join(map(str, self.numbers(user))) or "none"
            raise NotFound(f"user {user!r} has no version {number}; there are: {there}")
        return path

    def read(self, user: str, number: int) -> Version:
        """One version. `StoreError` if its `version.json` is damaged or belongs to another user or number."""
        path = self.dir(user, number) / VERSION_FILE
        _, version = decode(path, Version)
        if (version.user, version.number) != (user, number):
            raise StoreError(f"{str(path)!r} is version {version.number} of {version.user!r}; put it back where it was")
        return version

    def add(self, draft: Version, files: Mapping[str, bytes], claim: Callable[[Version], object]) -> Version:
        """Save `files` as the next version of `draft.user`; `draft.number` is replaced. Durable on return.

        `claim` is called with every version that is about to be tried, before it can be seen.
        """
        folder = self._prepared(draft.user)
        partial = folder / f"{PARTIAL}{uuid.uuid4().hex}"
        try:
            with writing(folder):
                partial.mkdir()
                for name, data in _checked(files).items():
                    write_synced(partial / name, data)
                return self._renamed(draft, partial, claim)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def highest(self, user: str) -> int:
        """The highest number ever used for a user, forgotten times included; 0 if none."""
        return max([0, self._retired(user), *self.numbers(user)])

    def retire(self, user: str) -> None:
        """Keep the highest number used, so that no path is used again once the user's folder is removed."""
        highest = self.highest(user)
        if highest:
            write_atomic(self._tombstone(user), json.dumps({"format": 1, "highest": highest}).encode())

    def _renamed(self, draft: Version, partial: Path, claim: Callable[[Version], object]) -> Version:
        number = self.highest(draft.user) + 1
        while True:
            version = dataclasses.replace(draft, number=number)
            (partial / VERSION_FILE).unlink(missing_ok=True)
            write_synced(partial / VERSION_FILE, encode(version))
            sync_folder(partial)
            claim(version)
            if _renames(partial, partial.parent / f"v{number}"):
                sync_folder(partial.parent)
                return version
            number += 1

    def _prepared(self, user: str) -> Path:
        folder = self.folder(user)
        make_folder(folder)
        if is_shortened(folder.name) and not (folder / ID_FILE).is_file():
            write_atomic(folder / ID_FILE, user.encode())
        return folder

    def _tombstone(self, user: str) -> Path:
        return self.retired / f"{hashlib.sha256(user.encode()).hexdigest()}.json"

    def _retired(self, user: str) -> int:
        path = self._tombstone(user)
        if not path.is_file():
            return 0
        try:
            return int(json.loads(path.read_bytes())["highest"])
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"{str(path)!r} is damaged: restore it, or write {{'format':1,'highest':N}} into it"
            ) from None


def _numbers(folder: Path) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if (match := _FOLDER.fullmatch(path.name)) and path.is_dir():
                yield int(match[1])


def _renames(partial: Path, target: Path) -> bool:
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _checked(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    bad = [n for n in files if not _FILE.fullmatch(n) or n == VERSION_FILE]
    missing = [n for n in (ADAPTER_CONFIG_FILE, ADAPTER_FILE) if n not in files]
    if bad or missing:
        raise InputError(
            f"files of a version: {bad} not allowed (plain names, not {VERSION_FILE!r}), {missing} missing"
        )
    return files
