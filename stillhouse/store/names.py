"""User ids as names of folders.

In: a user id, any Unicode of 1 to 128 characters on one line. Out: a file name of at most 200 ASCII bytes that is never
"." or "..", holds no separator, and belongs to that user id alone. Percent-encoding (RFC 3986) of everything but ASCII
letters, digits, "_" and "-"; a name that grows too long keeps its start and ends in "~" and the id's SHA-256, and the
folder it names keeps the id in a file (`ID_FILE`), because a digest cannot be read back.

It does not fold case: on a file system that ignores case, two ids that differ only in case would share a folder.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

from ..errors import InputError, StoreError

LONGEST_ID = 128  # characters
LONGEST_NAME = 200  # bytes: leaves room for suffixes within a file system's 255
ID_FILE = "user.txt"

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPED = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+")
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line and paragraph separators


def check_user(user: str) -> str:
    """The same id, or `InputError` saying what is wrong with it and what is allowed."""
    allowed = f"a user id is 1 to {LONGEST_ID} characters without control characters"
    if not user:
        raise InputError(f"the user id is empty; {allowed}")
    if len(user) > LONGEST_ID:
        raise InputError(f"the user id {user[:20]!r}… has {len(user)} characters; {allowed}")
    bad = next((c for c in user if unicodedata.category(c) in _CONTROL), None)
    if bad is not None:
        raise InputError(f"the user id {user!r} ({len(user)} characters) contains U+{ord(bad):04X}; {allowed}")
    return user


def escape_user(user: str) -> str:
    """The folder name of a user id. `InputError` if the id is not allowed."""
    escaped = "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in check_user(user).encode())
    if len(escaped) <= LONGEST_NAME:
        return escaped
    end = f"~{hashlib.sha256(user.encode()).hexdigest()}"
    start = escaped[: LONGEST_NAME - len(end)]
    return re.sub(r"%.?$", "", start) + end


def is_shortened(name: str) -> bool:
    """Whether a folder name ends in a digest, so that the id has to be read from its `ID_FILE`."""
    return "~" in name


def unescape_user(folder: Path) -> str:
    """The user id of a folder. `StoreError` if it is nobody's folder or its `ID_FILE` is missing or another's."""
    name = folder.name
    if not is_shortened(name):
        if not _ESCAPED.fullmatch(name):
            raise StoreError(f"{str(folder)!r} is not a user's folder; move it elsewhere")
        return _decode(folder, re.sub(rb"%(..)", lambda m: bytes.fromhex(m[1].decode()), name.encode()))
    kept = folder / ID_FILE
    if not kept.is_file():
        raise StoreError(f"{str(kept)!r} is missing: it names the user whose folder this is")
    return _decode(folder, kept.read_bytes())


def _decode(folder: Path, data: bytes) -> str:
    user = data.decode(errors="replace")
    if not user or len(user) > LONGEST_ID or escape_user(user) != folder.name:
        raise StoreError(f"{str(folder)!r} does not belong to the user id {user[:LONGEST_ID]!r}; move it elsewhere")
    return user
