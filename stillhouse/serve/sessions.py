"""What a user said becomes the user's memory: sessions, the memory's text, and whether it is time to consolidate.

In: the records of one user, and what the newest version was made of. Out: text for the pipeline and for retrieval, and
the plain numbers that the policy decides on. Of a conversation only what the user states is kept: questions, orders to
the model and the model's own words are not. What was handed over as a memory stands first, word for word.

The memory is a function of the journal alone, so nothing has to be kept in step with it. It does not see that a later
statement contradicts an earlier one; both stand in it, the later one last.
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
class Standing:
    """Where a user stands. `memory`: all that is to be known; `learned`: whether the champion was made of exactly this;
    `fresh`: statements that the champion was not made of; `sessions`: how many ended sessions made some of them."""

    memory: str
    learned: bool
    fresh: tuple[str, ...]
    sessions: int
    attempted: bool

    def state(self, tokens: int, kv_bytes: int, queued: bool) -> policy.UserState:
        """For `policy.decide`; `tokens` are those of `fresh`."""
        return policy.UserState(tokens, self.sessions, kv_bytes, queued, self.attempted)


def new_turns(messages: Sequence[Turn], first: bool) -> tuple[Turn, ...]:
    """The messages a request adds to its session: all of the first request, afterwards what follows the last answer."""
    if first:
        return tuple(messages)
    answers = [i for i, turn in enumerate(messages) if turn.role == "assistant"]
    return tuple(messages[answers[-1] + 1 :] if answers else messages)


def sessions(records: Iterable[Record]) -> list[Session]:
    """A user's sessions, in the order they began. A session that goes on after its end is open again."""
    found: dict[str, Session] = {}
    for record in records:
        if isinstance(record, Exchange):
            session = found.get(record.session) or Session(record.user, record.session, record.time, record.time)
            found[record.session] = replace(
                session,
                last=record.time,
                exchanges=session.exchanges + 1,
                prompt_tokens=session.prompt_tokens + record.prompt_tokens,
                completion_tokens=session.completion_tokens + record.completion_tokens,
                ended=False,
            )
        elif isinstance(record, SessionEnd) and record.session in found:
            found[record.session] = replace(found[record.session], ended=True)
    return list(found.values())


def memory_text(records: Iterable[Record], limit: int = MAX_MEMORY_BYTES) -> str:
    """All that a user wants known: memories word for word, then a dated list per session of what the user stated.

    At most `limit` bytes: the oldest statements of sessions go first. Empty if there is nothing.
    """
    given, said = _given(records := list(records)), _said(records)
    left = limit - len(given.encode()) - 2
    lines: list[str] = []
    for session, date, texts in reversed(said):
        kept: list[str] = []
        for text in reversed(texts):
            left -= len(text.encode()) + 3
            kept = [f"- {text}", *kept] if left >= 0 else kept
        heading = f"## {date} ({session[:40]})" if session else f"## {date}"
        lines = [heading, "", *kept, "", *lines] if kept else lines
    return "\n\n".join(part for part in (given.strip(), "\n".join(lines).strip()) if part)


def stated(text: str) -> list[str]:
    """The statements of a memory, orders to the model aside: what retrieval finds passages among."""
    return [s.text for s in statements(text) if not s.instruction]


def remembered(home: Path, user: str) -> str:
    """A user's memory as the journal of a home has it now."""
    return memory_text(read(home, *KINDS, user=user))


def standing(
    records: Sequence[Record], versions: Sequence[Version], champion: Version | None, store: Store
) -> Standing:
    """Where a user stands: what the journal holds against what the champion was made of."""
    memory = memory_text(records)
    made_of = _memory(store, champion)
    known = {_plain(text) for text in stated(made_of)} if made_of is not None else set()
    fresh = tuple(text for text in stated(memory) if _plain(text) not in known)
    name = digest(memory.encode())
    learned = champion is not None and not fresh and bool(memory)
    attempted = any(name in version.parents for version in versions[-1:])
    return Standing(memory, learned, fresh, _ended_with(records, set(fresh)), attempted)


def _memory(store: Store, version: Version | None) -> str | None:
    """The memory that a version was made of; None where there is no version or its memory is not kept."""
    if version is None:
        return None
    try:
        return store.blobs.get(version.parents[-1]).decode()
    except NotFound:
        return None


def _ended_with(records: Sequence[Record], fresh: set[str]) -> int:
    """How many ended sessions stated something fresh; a memory that was handed over counts as one."""
    over = {s.id for s in sessions(records) if s.ended}
    talked = sum(bool(fresh & set(texts)) for session, _, texts in _said(records) if session in over)
    given = stated(_given(records))
    return talked + bool(fresh & set(given))


def _given(records: Iterable[Record]) -> str:
    texts: list[str] = []
    for record in records:
        if isinstance(record, Memory):
            texts = [record.text] if record.replace else [*texts, record.text]
    return "\n\n".join(text.lstrip("\ufeff").replace("\r\n", "\n").strip() for text in texts)


def _said(records: Iterable[Record]) -> list[tuple[str, str, list[str]]]:
    """(session, date, statements) of what users stated, each statement once: where it was said last."""
    dates: dict[str, str] = {}
    where: dict[str, tuple[str, str]] = {}
    for record in records:
        if isinstance(record, Exchange):
            dates.setdefault(record.session, record.time[:10])
            for text in _stated_in(record):
                where.pop(_plain(text), None)
                where[_plain(text)] = (record.session, text)
    return [(s, date, [text for session, text in where.values() if session == s]) for s, date in dates.items()]


def _stated_in(exchange: Exchange) -> list[str]:
    return [text for turn in exchange.turns if turn.role == "user" for text in stated(turn.content)]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
