"""Everything that can go wrong on purpose, as one tree.

Each error is one clear line: the offending value, what is allowed, what to do. The command line prints that line and
exits with `exit_code`; an HTTP server answers with `status`. Nothing here is caught and re-raised inside the package.
"""

from __future__ import annotations


class StillhouseError(Exception):
    """Base of all errors the package raises for its user."""

    exit_code = 2
    status = 500


class InputError(StillhouseError):
    """The user's input (memory, user id, setting, path) cannot be used."""

    status = 400


class ModelError(StillhouseError):
    """A model reference cannot be loaded, or a model cannot do what was asked of it."""

    status = 400


class StoreError(StillhouseError):
    """The store is damaged, from another version, out of room or locked."""


class NotFound(StoreError):
    """A named thing is not in the store."""

    status = 404


class Busy(StoreError):
    """Somebody else holds the lock; trying again later will work."""

    status = 409


class DiskFull(StoreError):
    """There is no room to write; what was there before is still there, and reading goes on."""

    status = 507


class Rejected(StillhouseError):
    """A gate refused the candidate."""

    exit_code = 1
    status = 422


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none: other libraries' errors in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
