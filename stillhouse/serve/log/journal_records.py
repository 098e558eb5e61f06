"""The records of the journal: exchanges, feedback, uploaded memories, ends of sessions, proofs of forgetting.

In: plain values from the HTTP side. Out: frozen records; `record_of` reads one back from its line. Times are ISO 8601
in UTC. It does not know files.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import StoreError
from ...records import from_mapping
from .jsonl import decode

Source = Literal["human", "model", "code"]
Value = bool | float | str | None


@dataclass(frozen=True)
class Turn:
    """One message: `role` as in OpenAI's wire format."""

    role: str
    content: str


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. Durations are in seconds."""

    kind: ClassVar[str] = "exchange"

    id: str
    """The response id that the client got."""
    user: str
    session: str
    time: str
    turns: tuple[Turn, ...]
    """The messages that this request added to its session."""
    answer: str
    model: str
    base: str
    """Fingerprint of the base."""
    path: str
    """The route: adapted, retrieval, both, base or teacher."""
    version: int | None = None
    """Version of the adapter that answered."""
    finish: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    key: str = ""
    """Id of the API key, never the key itself."""


@dataclass(frozen=True)
class Feedback:
    """A judgement of a response. The last one of the same response, key, source and user counts."""

    kind: ClassVar[str] = "feedback"

    id: str
    """The idempotency id: a second record with it is not written."""
    user: str
    time: str
    response_id: str
    key: str = "score"
    value: Value = None
    comment: str = ""
    correction: str = ""
    """What the answer should have been: a training target."""
    source: Source = "human"


@dataclass(frozen=True)
class Memory:
    """A text that a user uploaded to be remembered; `replace`: in place of all that was uploaded before."""

    kind: ClassVar[str] = "memory"

    id: str
    user: str
    time: str
    text: str
    replace: bool = False


@dataclass(frozen=True)
class SessionEnd:
    """The end of a session: the user asked for it, or was silent for long."""

    kind: ClassVar[str] = "session_end"

    id: str
    user: str
    session: str
    time: str
    why: str = "asked"


@dataclass(frozen=True)
class Forgotten:
    """The proof that a user was forgotten: `who` is the SHA-256 of the id; `removed` records from `segments`."""

    kind: ClassVar[str] = "forgotten"

    id: str
    who: str
    time: str
    removed: int
    segments: tuple[str, ...]


Record = Exchange | Feedback | Memory | SessionEnd | Forgotten
KINDS: Mapping[str, type[Record]] = {k.kind: k for k in (Exchange, Feedback, Memory, SessionEnd, Forgotten)}
LASTING = frozenset({Memory.kind, Forgotten.kind})  # kept whatever the retention says


def now() -> str:
    """ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def new_id(prefix: str) -> str:
    """`prefix` and 128 random bits: nobody can guess another's."""
    return f"{prefix}-{uuid.uuid4().hex}"


def record_of(line: bytes) -> Record:
    """The record of one whole line. `StoreError` if another version wrote it."""
    fields = decode(line) or {}
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise StoreError(f"journal: a record of kind {kind!r}; this program reads {', '.join(KINDS)}: update it")
    return from_mapping(KINDS[kind], fields)


def latest(feedback: Iterable[Feedback]) -> list[Feedback]:
    """The feedback that counts: the last of each response, key, source and user, in the order they came."""
    return list({(f.response_id, f.key, f.source, f.user): f for f in feedback}.values())
