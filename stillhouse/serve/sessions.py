"""A user's memory, made from the journal: sessions, the text of the memory, and what of it is new.

In: the records of one user, and what the newest version was made of. Out: text for the pipeline and for retrieval, and
the plain numbers that the policy decides on. Of a conversation only the user's statements are kept: no questions, no
orders to the model, none of the model's own words. A memory that the user uploaded stands first, word for word.

The memory is a function of the journal alone, so nothing else has to be kept up to date. It does not notice that a
later statement contradicts an earlier one: both are in it, the later one last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import NotFound
from ..inputs import MAX_MEMORY_BYTES
from ..records import Version, digest
from ..store import Store
from ..text.statements import statements
from . import policy
from .log.journal import read
from .log.journal_records import Exchange, Memory, Record, SessionEnd, Turn

KINDS = ("exchange", "memory", "session_end")


@dataclass(frozen=True)
class Session:
    """One conversation of one user. Times are ISO 8601, UTC."""

    user: str
    id: str
    started: str
    last: str
    exchanges: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ended: bool = False


@dataclass(frozen=True)
class MemoryStatus:
    """A user's memory, and what of it the champion was made of."""

    memory: str
    """The text of the memory."""
    learned: bool
    """Whether the champion was made of all of it."""
    fresh: tuple[str, ...]
    """Statements that the champion was not made of."""
    sessions: int
    """Ended sessions in which some of them were stated."""
    attempted: bool
    """Whether the newest version, approved or not, was made of exactly this memory."""

    def policy_state(self, tokens: int, kv_bytes: int, queued: bool) -> policy.UserState:
        """What `policy.decide` looks at; `tokens` of `fresh`, `kv_bytes` of idle keys and values."""
        return policy.UserState(tokens, self.sessions, kv_bytes, queued, self.attempted)


def new_turns(messages: Sequence[Turn], first: bool) -> tuple[Turn, ...]:
    """The messages a request adds to its session: all of the first request, then those after the last answer."""
    if first:
        return tuple(messages)
    answers = [i for i, turn in enumerate(messages) if turn.role == "assistant"]
    return tuple(messages[answers[-1] + 1 :] if answers else messages)


def sessions(records: Iterable[Record]) -> list[Session]:
    """A user's sessions, in the order they began. A session that goes on after its end is open again."""
    by_id: dict[str, Session] = {}
    for record in records:
        if isinstance(record, Exchange):
            session = by_id.get(record.session) or Session(record.user, record.session, record.time, record.time)
            by_id[record.session] = replace(
                session,
                last=record.time,
                exchanges=session.exchanges + 1,
                prompt_tokens=session.prompt_tokens + record.prompt_tokens,
                completion_tokens=session.completion_tokens + record.completion_tokens,
                ended=False,
            )
        elif isinstance(record, SessionEnd) and record.session in by_id:
            by_id[record.session] = replace(by_id[record.session], ended=True)
    return list(by_id.values())


def memory_text(records: Iterable[Record], limit: int = MAX_MEMORY_BYTES) -> str:
    """The memory of a user: uploaded texts word for word, then a dated list of statements for each session.

    It has at most `limit` bytes: the oldest statements of sessions are dropped first. Empty if there is nothing.
    """
    uploaded, by_session = _uploaded(records := list(records)), _statements(records)
    left = limit - len(uploaded.encode()) - 2
    lines: list[str] = []
    for session, date, texts in reversed(by_session):
        kept: list[str] = []
        for text in reversed(texts):
            left -= len(text.encode()) + 3
            kept = [f"- {text}", *kept] if left >= 0 else kept
        heading = f"## {date} ({session[:40]})" if session else f"## {date}"
        lines = [heading, "", *kept, "", *lines] if kept else lines
    return "\n\n".join(part for part in (uploaded.strip(), "\n".join(lines).strip()) if part)


def stated(text: str) -> list[str]:
    """The statements of a memory without orders to the model: the passages that retrieval chooses from."""
    return [s.text for s in statements(text) if not s.instruction]


def memory_of(home: Path, user: str) -> str:
    """The text of a user's memory, from the journal of a home."""
    return memory_text(read(home, *KINDS, user=user))


def memory_status(
    records: Sequence[Record], versions: Sequence[Version], champion: Version | None, store: Store
) -> MemoryStatus:
    """The memory in a user's `records`, compared with what the champion was made of."""
    memory = memory_text(records)
    learned_text = _memory(store, champion)
    known = {_normalised(text) for text in stated(learned_text)} if learned_text is not None else set()
    fresh = tuple(text for text in stated(memory) if _normalised(text) not in known)
    name = digest(memory.encode())
    learned = champion is not None and not fresh and bool(memory)
    attempted = any(name in version.parents for version in versions[-1:])
    return MemoryStatus(memory, learned, fresh, _ended_sessions(records, set(fresh)), attempted)


def _memory(store: Store, version: Version | None) -> str | None:
    """The memory that a version was made of; None where there is no version or its memory is not kept."""
    if version is None:
        return None
    try:
        return store.blobs.get(version.parents[-1]).decode()
    except NotFound:
        return None


def _ended_sessions(records: Sequence[Record], fresh: set[str]) -> int:
    """The number of ended sessions in which something fresh was stated; uploaded memories count as one."""
    ended = {s.id for s in sessions(records) if s.ended}
    count = sum(bool(fresh & set(texts)) for session, _, texts in _statements(records) if session in ended)
    return count + bool(fresh & set(stated(_uploaded(records))))


def _uploaded(records: Iterable[Record]) -> str:
    texts: list[str] = []
    for record in records:
        if isinstance(record, Memory):
            texts = [record.text] if record.replace else [*texts, record.text]
    return "\n\n".join(text.lstrip("\ufeff").replace("\r\n", "\n").strip() for text in texts)


def _statements(records: Iterable[Record]) -> list[tuple[str, str, list[str]]]:
    """(session, date, statements) of every session. A statement that was repeated stands where it came last."""
    dates: dict[str, str] = {}
    where: dict[str, tuple[str, str]] = {}
    for record in records:
        if isinstance(record, Exchange):
            dates.setdefault(record.session, record.time[:10])
            for text in _stated_in(record):
                where.pop(_normalised(text), None)
                where[_normalised(text)] = (record.session, text)
    return [(s, date, [text for session, text in where.values() if session == s]) for s, date in dates.items()]


def _stated_in(exchange: Exchange) -> list[str]:
    return [text for turn in exchange.turns if turn.role == "user" for text in stated(turn.content)]


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()
