"""One server without its HTTP: the model and everything around it, and how one question becomes an answer.

In: a home, a model, settings. Out: `Service`, which prepares a question (whose adapter, which passages, which path),
has the engine answer it, journals the exchange, and asks the policy whether what was said is to become weights. What
blocks is done in threads. It does not know requests' wire format or who may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import models, runners
from ..errors import Busy, InputError, NotFound, StillhouseError, StoreError
from ..generate import Sampling
from ..models import TextModel
from ..records import digest
from ..store import Store
from ..text.prompts import MEMORY_SYSTEM, Message
from . import policy, sessions, teacher
from .access import limits
from .access.keys import Keyring
from .engine import engine
from .engine.adapters import Adapter, Key, Library, highest_rank
from .engine.engine import Done, Engine, Event, Failed, Piece, Request
from .forgetting import forget
from .jobs.queue import Job, JobQueue
from .log import journal, journal_records
from .log.event_types import AdapterMoved, AliasMoved, Fact, Routed, SessionEnded
from .log.events import Events
from .log.journal import Journal
from .log.journal_records import Exchange, Memory, SessionEnd, Turn
from .memories import UserMemories
from .metrics import Metrics
from .router import Knowledge, Route, route

Open = dict[tuple[str, str], float]
OpenRunner = Callable[[TextModel, runners.Config], runners.Runner]


@dataclass(frozen=True)
class Config:
    """`slots`: adapters in the bank, fewer where they would take more than `bank_bytes` of the device; `max_rank`: of
    the bank (None: what the champions need); `warm_bytes`: adapters in host memory; `default_tokens`: of an
    answer where the request names none; `passage_tokens`: of retrieved passages in a prompt; `session_idle`: seconds of
    silence that end a session."""

    engine: engine.Config = field(default_factory=engine.Config)
    policy: policy.Policy = field(default_factory=policy.Policy)
    limits: limits.Config = field(default_factory=limits.Config)
    journal: journal.Config = field(default_factory=journal.Config)
    teacher: teacher.Config = field(default_factory=teacher.Config)
    slots: int = 32
    bank_bytes: int = 4 * 2**30
    max_rank: int | None = None
    warm_bytes: int = 4 * 2**30
    default_tokens: int = 1024
    passage_tokens: int = 512
    session_idle: float = 1800.0


@dataclass(frozen=True)
class GenerationRequest:
    """A question: a conversation or a raw prompt. `choice`: the base alone, one version, or what the user has."""

    sampling: Sampling
    user: str | None = None
    session: str | None = None
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    choice: str = "user"  # user, base, version
    version: Key | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class PreparedRequest:
    """A question ready for the engine, and the way its answer will take."""

    request: Request
    path: Route
    version: Key | None
    session: str
    passages: int = 0
    refused: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()  # as the model sees them


class Service:
    """What one server has. `open` it, `start` its threads, `close` it."""

    def __init__(
        self, store: Store, model: TextModel, config: Config = Config(), open_runner: OpenRunner = runners.open_runner
    ) -> None:
        """`open_runner` makes what computes the model."""
        self.store, self.model, self.config, self.home = store, model, config, store.home
        self.events, self.jobs, self.keyring = Events(self.home), JobQueue(self.home), Keyring(self.home)
        self.journal = Journal(self.home, config.journal)
        self.memories = UserMemories(self.journal, store)
        self.limits = limits.RateLimiter(config.limits)
        self.teacher = teacher.FallbackTeacher(config.teacher) if config.teacher.url else None
        rank = highest_rank(store, model) if config.max_rank is None else config.max_rank
        room = runners.Config(
            max(1, config.slots), rank, config.bank_bytes, config.engine.packed_bytes, config.engine.deterministic
        )
        self.runner = open_runner(model, room)
        self._told: queue.SimpleQueue[Fact | None] = queue.SimpleQueue()
        self.library = Library(store, self.runner, config.warm_bytes, self.tell)
        self.engine = Engine(self.runner, config.engine)
        self.metrics = Metrics(model.ref, self._measured)
        self.closing = False
        self._paths: dict[str, str] = {}
        self._open: Open = _open_sessions(self.journal)
        self._writer = threading.Thread(target=self._write_events, name="events", daemon=True)

    @classmethod
    def open(cls, home: Path, model: str = models.DEFAULT, config: Config = Config()) -> Service:
        """The service of a home and a model reference. `ModelError`, `StoreError`."""
        store = Store(home)
        return cls(store, models.load(model, cache=store.home / "fingerprints.json"), config)

    def start(self) -> Service:
        """Begin to answer."""
        self.engine.start()
        self._writer.start()
        return self

    def close(self) -> None:
        """Stop answering; everything acknowledged is on disk."""
        self.closing = True
        self.engine.close()
        self.journal.close()
        self._told.put(None)
        if self._writer.is_alive():
            self._writer.join()
        self.runner.close()

    def tell(self, fact: Fact) -> None:
        """Log what happened, soon."""
        self._told.put(fact)

    # ---- a question

    async def prepare(self, asked: GenerationRequest) -> PreparedRequest:
        """Whose adapter, which passages, which path. `InputError`, `ModelError`, `NotFound`."""
        return await asyncio.to_thread(self._prepare, asked)

    def _prepare(self, asked: GenerationRequest) -> PreparedRequest:
        adapter, refused = self._adapter(asked)
        passages: list[str] = []
        if asked.messages and asked.user is not None and asked.choice == "user":
            passages = self._passages(asked, adapter is not None)
        known = Knowledge(adapter is not None, bool(passages), bool(passages), asked.choice != "base")
        path = route(known)
        messages = with_passages(asked.messages, passages if path in ("retrieval", "both") else [])
        ids = self._ids(asked, messages)
        session = asked.session or _named(asked)
        self._note_route(asked.user, path, adapter, refused)
        request = Request(ids, self._sampling(asked, len(ids)), asked.user, adapter, session)
        return PreparedRequest(
            request, path, adapter.key if adapter else None, session, len(passages), refused, tuple(messages)
        )

    def _adapter(self, asked: GenerationRequest) -> tuple[Adapter | None, tuple[str, ...]]:
        if asked.version is not None:
            return self.library.load(asked.version), ()
        if asked.user is None or asked.choice == "base":
            return None, ()
        adapter, refused = self.library.champion(asked.user)
        return adapter, tuple(map(str, refused))

    def _passages(self, asked: GenerationRequest, adapted: bool) -> list[str]:
        assert asked.user is not None, "only a user has passages"
        said = "\n".join(m["content"] for m in asked.messages)
        query = next((m["content"] for m in reversed(asked.messages) if m["role"] == "user"), said)
        budget = min(self.config.passage_tokens, self.model.context // 4)
        return self.memories.passages(asked.user, query, said, budget, self._count, fresh=adapted)

    def _count(self, text: str) -> int:
        return len(self.model.text_ids(text))

    def _ids(self, asked: GenerationRequest, messages: Sequence[Message]) -> tuple[int, ...]:
        if messages:
            return tuple(self.model.chat_ids(messages))
        return tuple(self.model.text_ids(asked.prompt)) if isinstance(asked.prompt, str) else asked.prompt

    def _sampling(self, asked: GenerationRequest, prompt: int) -> Sampling:
        room = self.engine.room - prompt
        if room < 1:
            raise InputError(
                f"this request has {prompt} tokens, and the model's context is {self.engine.room}: "
                "at least one has to be left for the answer; send less"
            )
        asked_for = asked.max_tokens or min(self.config.default_tokens, room)
        return replace(asked.sampling, max_new_tokens=asked_for)

    def _note_route(self, user: str | None, path: str, adapter: Adapter | None, refused: Sequence[str]) -> None:
        self.metrics.routed(path)
        if user is None or self._paths.get(user) == path:
            return
        before = self._paths.pop(user, "")
        self._paths[user] = path
        number = adapter.key.number if adapter else None
        self.tell(Routed(user, path, before, number, refused[0] if refused else ""))

    async def stream(self, *requests: Request) -> AsyncGenerator[tuple[int, Event], None]:
        """`Engine.stream`, measured."""
        last: dict[int, float] = {}
        async for place, event in self.engine.stream(*requests):
            if isinstance(event, Piece) and place in last:
                self.metrics.next_token(event.at - last[place])
            if isinstance(event, Done):
                if place in last:
                    self.metrics.first_token(event.first - event.arrived)
                self.metrics.ended(event.reason, event.admitted - event.arrived, event.at - event.arrived)
            if not isinstance(event, Failed):
                last[place] = event.at
            yield place, event

    # ---- what was said

    async def record(self, exchange: Exchange, messages: Sequence[Message]) -> bool:
        """Journal an exchange before its answer is acknowledged; False where the disk refuses."""
        key = (exchange.user, exchange.session)
        turns = tuple(Turn(m["role"], m["content"]) for m in messages)
        exchange = replace(exchange, turns=sessions.new_turns(turns, first=key not in self._open))
        self._open[key] = time.monotonic()
        try:
            await asyncio.wrap_future(self.journal.submit(exchange))
        except (StoreError, OSError):
            return False
        if exchange.user and any(sessions.stated(t.content) for t in exchange.turns if t.role == "user"):
            self.memories.changed(exchange.user)
            await asyncio.to_thread(self.consider, exchange.user)
        return True

    async def remember(self, memory: Memory, now: bool) -> Job | None:
        """Keep a text of the user's; `now`: consolidate whatever the policy says. `StoreError`: the disk is full."""
        await asyncio.wrap_future(self.journal.submit(memory))
        self.memories.changed(memory.user)
        if now:
            return await asyncio.to_thread(self.consolidate, memory.user, (), "asked for")
        return (await asyncio.to_thread(self.consider, memory.user))[0]

    async def end_session(self, user: str, session: str, why: str) -> tuple[Job | None, policy.Decision]:
        """A session is over. Waits for its consolidation where the policy says so."""
        await asyncio.wrap_future(
            self.journal.submit(SessionEnd(journal_records.new_id("end"), user, session, journal_records.now(), why))
        )
        self._open.pop((user, session), None)
        self.memories.changed(user)
        job, decision = await asyncio.to_thread(self.consider, user)
        self.tell(SessionEnded(user, session, why, decision.why))
        while job is not None and decision.wait and (job := self.jobs.get(job.id)).state in ("queued", "running"):
            await asyncio.sleep(0.2)
        return job, decision

    async def end_idle_sessions(self) -> None:
        """End every session that was silent for long."""
        oldest = time.monotonic() - self.config.session_idle
        for user, session in [key for key, last in self._open.items() if last < oldest]:
            if not user:
                self._open.pop((user, session), None)
                continue
            with contextlib.suppress(StillhouseError, OSError):  # tried again at the next round
                await self.end_session(user, session, "idle")

    def retain(self) -> int:
        """Drop what is older than the journal keeps, from disk and from what is at hand; returns how many records."""
        dropped = self.journal.retain()
        if dropped:
            self.memories.clear()
        return dropped

    def consider(self, user: str) -> tuple[Job | None, policy.Decision]:
        """Ask the policy about a user, and queue a consolidation where it says so."""
        standing = self.memories.standing(user)
        queued = any(job.user == user for job in self.jobs.all(user, ended=0))
        tokens = sum(map(self._count, standing.fresh))
        held = self.engine.session_bytes(user)
        decision = policy.decide(self.config.policy, standing.state(tokens, held, queued))
        return (self._enqueue(user, (), decision.why) if decision.consolidate else None), decision

    def consolidate(self, user: str, settings: Sequence[str], why: str) -> Job:
        """Queue a consolidation of all that a user said. `InputError` where that is nothing."""
        if not self.memories.standing(user).memory:
            raise InputError(f"user {user!r} has said nothing yet: there is no memory to consolidate")
        return self._enqueue(user, settings, why)

    def _enqueue(self, user: str, settings: Sequence[str], why: str) -> Job:
        return self.jobs.enqueue(user, self.model.ref, settings, self.config.policy, why)

    # ---- a user

    def rollback(self, user: str, to: int | None) -> AliasMoved:
        """Serve the champion before, or version `to`. `NotFound`; `Rejected` by its gates."""
        before = self.store.champion(user)
        if before is None and to is None:
            raise NotFound(f"user {user!r} has no version that is served, so nothing to roll back")
        after = self.store.rollback(user, to)
        moved = AliasMoved(user, after.number, before.number if before else None, "rollback")
        self.tell(moved)
        return moved

    def forget(self, user: str) -> dict[str, int]:
        """Remove everything of a user, here and on disk."""
        self.engine.forget(user)
        for key in [k for k in self._open if k[0] == user]:
            self._open.pop(key, None)
        self._paths.pop(user, None)
        counts = forget(self.home, user, self.journal)
        self.library.forget(user)
        self.memories.forget(user)
        return counts

    def open_sessions(self, user: str) -> set[str]:
        """Sessions that go on."""
        return {session for owner, session in self._open if owner == user}

    def known_users(self) -> set[str]:
        """Users with a session that goes on."""
        return {user for user, _ in self._open if user}

    # ---- what is going on

    def _measured(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        now, library = self.engine.stats(), self.library
        gauges = {
            "vllm:num_requests_running": now.running, "vllm:num_requests_waiting": now.waiting,
            "vllm:kv_cache_usage_perc": now.kv_share, "stillhouse:kv_bytes": now.kv_bytes,
            "stillhouse:session_bytes": now.session_bytes, "stillhouse:sessions": now.sessions,
            "stillhouse:adapters_hot": now.hot, "stillhouse:adapter_warm_bytes": library.bytes,
        }  # fmt: skip
        counters = {
            "vllm:prompt_tokens": now.prompt_tokens, "vllm:generation_tokens": now.generated_tokens,
            "vllm:prefix_cache_queries": now.prefix_queries, "vllm:prefix_cache_hits": now.prefix_hits,
            "stillhouse:adapter_hits_hot": now.slot_hits, "stillhouse:adapter_loads_hot": now.slot_loads,
            "stillhouse:adapter_evictions_hot": now.slot_evictions, "stillhouse:adapter_hits_warm": library.hits,
            "stillhouse:adapter_loads_warm": library.loads, "stillhouse:adapter_evictions_warm": library.evictions,
            "stillhouse:session_evictions": now.session_evictions, "stillhouse:adapters_refused": len(library.refused),
        }  # fmt: skip
        return gauges, counters

    def stats(self) -> dict[str, Any]:
        """The same for people, with the answers per path."""
        gauges, counters = self._measured()
        return {**gauges, **counters, "paths": self.metrics.paths()}

    def _write_events(self) -> None:
        while (fact := self._told.get()) is not None:
            facts = [fact]
            while not self._told.empty() and (more := self._told.get()) is not None:
                facts.append(more)
            with contextlib.suppress(StillhouseError, OSError):  # a full disk stops no answer
                self.events.append(*facts, sync=False)


def with_passages(messages: Sequence[Message], passages: Sequence[str]) -> list[Message]:
    """The conversation with the user's own passages before it, as the teacher had its memory."""
    if not passages:
        return list(messages)
    memory = MEMORY_SYSTEM.format(memory="\n".join(passages))
    if messages[0]["role"] == "system":
        memory = f"{messages[0]['content']}\n\n{memory}"
        messages = messages[1:]
    return [{"role": "system", "content": memory}, *messages]


def _named(asked: GenerationRequest) -> str:
    """A session that was given no name is named by how it began, so that a conversation sent again is the same one."""
    first = next((i for i, m in enumerate(asked.messages) if m["role"] == "user"), 0)
    begun = [asked.user, [dict(m) for m in asked.messages[: first + 1]]]
    return f"auto-{digest(begun)[:16]}" if asked.messages else journal_records.new_id("session")


def _open_sessions(journal: Journal) -> Open:
    """Sessions that no end was written for, as silent from now on."""
    found: dict[tuple[str, str], float] = {}
    records: Iterable[journal_records.Record] = journal.records(Exchange.kind, SessionEnd.kind)
    for record in records:
        if isinstance(record, Exchange) and record.user:
            found[record.user, record.session] = time.monotonic()
        elif isinstance(record, SessionEnd):
            found.pop((record.user, record.session), None)
    return found


__all__ = ["AdapterMoved", "Busy", "Config", "GenerationRequest", "PreparedRequest", "Service", "with_passages"]
