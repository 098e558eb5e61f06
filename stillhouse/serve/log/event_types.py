"""The types of events: what can happen, as frozen records. `TYPES` maps the name on disk to the class.

In: plain values. Out: a fact: what happened to which user, never a text of theirs. The log (`events.py`) gives it a
number and a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class JobChanged:
    """A job was queued, began, went on, or ended: `done` of `total` steps of `stage`."""

    type: ClassVar[str] = "job"

    job: str
    user: str
    state: str
    stage: str = ""
    done: int = 0
    total: int | None = None
    note: str = ""


@dataclass(frozen=True)
class VersionSaved:
    """A version was saved; `failed` names the gates that refused it."""

    type: ClassVar[str] = "version"

    user: str
    number: int
    approved: bool
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class AliasMoved:
    """Version `number` is served from now on; None: the base alone."""

    type: ClassVar[str] = "alias"

    user: str
    number: int | None
    before: int | None = None
    by: str = ""


@dataclass(frozen=True)
class AdapterMoved:
    """An adapter moved: `hot` is in the bank, `warm` in host memory, `cold` on disk; `refused` cannot be used."""

    type: ClassVar[str] = "adapter"

    user: str
    number: int
    tier: Literal["hot", "warm", "cold", "refused"]
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Consolidated:
    """A memory became weights, or the gates refused it. `tokens_saved`: prompt tokens that each request now saves."""

    type: ClassVar[str] = "consolidation"

    user: str
    number: int
    approved: bool
    memory_tokens: int = 0
    tokens_saved: int = 0
    coverage: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Routed:
    """A user's requests take another path than before."""

    type: ClassVar[str] = "routing"

    user: str
    path: str
    before: str = ""
    version: int | None = None
    why: str = ""


@dataclass(frozen=True)
class MemoryPressure:
    """Bytes were freed because the budget of `what` (kv, adapters or sessions) was reached."""

    type: ClassVar[str] = "memory_pressure"

    what: str
    used: int
    limit: int
    freed: int = 0


@dataclass(frozen=True)
class SessionEnded:
    """A session ended, and what the policy made of it."""

    type: ClassVar[str] = "session"

    user: str
    session: str
    why: str = ""
    decision: str = ""


@dataclass(frozen=True)
class ServerChanged:
    """A server or worker process started or stopped."""

    type: ClassVar[str] = "server"

    what: str
    pid: int
    note: str = ""


@dataclass(frozen=True)
class UserForgotten:
    """Everything of a user was removed; `who` is the SHA-256 of the id."""

    type: ClassVar[str] = "forgotten"

    who: str
    removed: int = 0


Fact = (
    JobChanged | VersionSaved | AliasMoved | AdapterMoved | Consolidated | Routed | MemoryPressure | SessionEnded
    | ServerChanged | UserForgotten
)  # fmt: skip
_CLASSES: tuple[type[Fact], ...] = (
    JobChanged, VersionSaved, AliasMoved, AdapterMoved, Consolidated, Routed, MemoryPressure, SessionEnded,
    ServerChanged, UserForgotten,
)  # fmt: skip
TYPES: Mapping[str, type[Fact]] = {kind.type: kind for kind in _CLASSES}
