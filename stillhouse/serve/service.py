"""One server without its HTTP: the model and everything around it, and how one question becomes an answer.

In: a home, a model, settings. Out: `Service`, which prepares a question (whose adapter, which passages, which path),
has the engine answer it, journals the exchange, and asks the policy whether the user's statements are to become
weights. Blocking work is done in threads. It does not know the wire format of requests or who may send them.
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
from typing import Any, Literal

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
from .log.events import EventLog
from .log.journal import Journal
from .log.journal_records import Exchange, Memory, SessionEnd, Turn
from .memories import UserMemories
from .metrics import Metrics
from .router import Knowledge, Route, route

OpenSessions = dict[tuple[str, str], float]
"""(user, session) -> when it was last used, in seconds of the monotonic clock."""
WeightsChoice = Literal["user", "base", "version"]
OpenRunner = Callable[[TextModel, runners.Config], runners.Runner]


@dataclass(frozen=True)
class Config:
    """Settings of a server."""

    engine: engine.Config = field(default_factory=engine.Config)
    """Batching and memory of the engine."""
    policy: policy.Policy = field(default_factory=policy.Policy)
    """When a user's memory is consolidated."""
    limits: limits.Config = field(default_factory=limits.Config)
    """What one API key may send."""
    journal: journal.Config = field(default_factory=journal.Config)
    """How the journal is cut into files, and how long it is kept."""
    teacher: teacher.Config = field(default_factory=teacher.Config)
    """The endpoint that answers where the student is not sure; by default there is none."""
    slots: int = 32
    """Adapters in the bank, and so in one batch; fewer where they would take more than `bank_bytes`."""
    bank_bytes: int = 4 * 2**30
    """Bytes of the device that the bank may take at most."""
    max_rank: int | None = None
    """Highest rank the bank can hold; None: that of the champions in the store, so that no memory is wasted."""
    warm_bytes: int = 4 * 2**30
    """Bytes of host memory for adapters that are not in the bank; loading one from there takes no disk."""
    default_tokens: int = 1024
    """Most tokens of an answer where the request names no number."""
    passage_tokens: int = 512
    """Most tokens of retrieved passages in a prompt; never more than a quarter of the model's context."""
    session_idle: float = 1800.0
    """Seconds without a request after which a session ends, so that its statements count as complete."""


@dataclass(frozen=True)
class GenerationRequest:
    """What a client wants answered: a conversation, or a raw prompt."""

    sampling: Sampling
    user: str | None = None
    """The user as the store names them; None: nobody in particular."""
    session: str | None = None
    """Name of the session; None: it is named by how the conversation begins."""
    messages: tuple[Message, ...] = ()
    """The conversation; empty: `prompt` is continued."""
    prompt: str | tuple[int, ...] = ""
    """Text or token ids of a raw prompt."""
    choice: WeightsChoice = "user"
    """Whose weights answer: the user's champion, the base alone, or `version`."""
    version: Key | None = None
    max_tokens: int | None = None
    """Most tokens of the answer; None: `Config.default_tokens`."""


@dataclass(frozen=True)
class PreparedRequest:
    """A request ready for the engine, with the route of its answer."""

    request: Request
    path: Route
    version: Key | None
    """The version that answers; None: the base."""
    session: str
    passages: int = 0
    """Number of retrieved passages in the prompt."""
    refused: tuple[str, ...] = ()
    """Why the user's champion cannot be used."""
    messages: tuple[Message, ...] = ()
    """The conversation as the model sees it."""


class Service:
    """The parts of one server. `open` it, `start` its threads, `close` it."""

    def __init__(
        self, store: Store, model: TextModel, config: Config = Config(), open_runner: OpenRunner = runners.open_runner
    ) -> None:
        """`open_runner` makes what computes the model."""
        self.store, self.model, self.config, self.home = store, model, config, store.home
        self.events, self.jobs, self.keyring = EventLog(self.home), JobQueue(self.home), Keyring(self.home)
        self.journal = Journal(self.home, config.journal)
        self.memories = UserMemories(self.journal, store)
        self.limits = limits.RateLimiter(config.limits)
        self.teacher = teacher.FallbackTeacher(config.teacher) if config.teacher.url else None
        rank = highest_rank(store, model) if config.max_rank is None else config.max_rank
        room = runners.Config(
            max(1, config.slots), rank, config.bank_bytes, config.engine.packed_bytes, config.engine.deterministic
        )
        self.runner = open_runner(model, room)
        self._facts: queue.SimpleQueue[Fact | None] = queue.SimpleQueue()
        self.library = Library(store, self.runner, config.warm_bytes, self.log)
        self.engine = Engine(self.runner, config.engine)
        self.metrics = Metrics(model.ref, self._figures)
        self.closing = False
        self._routes: dict[str, str] = {}  # the last one of each user
        self._open: OpenSessions = _open_sessions(self.journal)
        self._writer = threading.Thread(target=self._write_events, name="events", daemon=True)

    @classmethod
    def open(cls, home: Path, model: str = models.DEFAULT, config: Config = Config()) -> Service:
        """The service of a home and a model reference. `ModelError`, `StoreError`."""
        store = Store(home)
        return cls(store, models.load(model, home=store.home), config)

    def start(self) -> Service:
        """Start the threads; requests are answered from now on."""
        self.engine.start()
        self._writer.start()
        return self

    def close(self) -> None:
        """Stop answering; everything acknowledged is on disk."""
        self.closing = True
        self.engine.close()
        self.journal.close()
        self._facts.put(None)
        if self._writer.is_alive():
            self._writer.join()
        self.runner.close()

    def log(self, fact: Fact) -> None:
        """Hand a fact to the thread that writes the event log."""
        self._facts.put(fact)

    # ---- a request

    async def prepare(self, generation: GenerationRequest) -> PreparedRequest:
        """Choose adapter, passages and route. `InputError`, `ModelError`, `NotFound`."""
        return await asyncio.to_thread(self._prepare, generation)

    def _prepare(self, generation: GenerationRequest) -> PreparedRequest:
        adapter, refused = self._choose_adapter(generation)
        passages: list[str] = []
        if generation.messages and generation.user is not None and generation.choice == "user":
            passages = self._passages(generation, adapter is not None)
        known = Knowledge(adapter is not None, bool(passages), bool(passages), generation.choice == "base")
        path = route(known)
        messages = with_passages(generation.messages, passages if path in ("retrieval", "both") else [])
        ids = self._ids(generation, messages)
        session = generation.session or _session_name(generation)
        self._note_route(generation.user, path, adapter, refused)
        request = Request(ids, self._sampling(generation, len(ids)), generation.user, adapter, session)
        return PreparedRequest(
            request, path, adapter.key if adapter else None, session, len(passages), refused, tuple(messages)
        )

    def _choose_adapter(self, generation: GenerationRequest) -> tuple[Adapter | None, tuple[str, ...]]:
        if generation.version is not None:
            return self.library.load(generation.version), ()
        if generation.user is None or generation.choice == "base":
            return None, ()
        adapter, refused = self.library.champion(generation.user)
        return adapter, tuple(map(str, refused))

    def _passages(self, generation: GenerationRequest, adapted: bool) -> list[str]:
        assert generation.user is not None, "only a user has passages"
        text = "\n".join(m["content"] for m in generation.messages)
        query = next((m["content"] for m in reversed(generation.messages) if m["role"] == "user"), text)
        budget = min(self.config.passage_tokens, self.model.context // 4)
        return self.memories.passages(generation.user, query, text, budget, self._count, fresh=adapted)

    def _count(self, text: str) -> int:
        return len(self.model.text_ids(text))

    def _ids(self, generation: GenerationRequest, messages: Sequence[Message]) -> tuple[int, ...]:
        if messages:
            return tuple(self.model.chat_ids(messages))
        return (
            tuple(self.model.opened_ids(generation.prompt)) if isinstance(generation.prompt, str) else generation.prompt
        )

    def _sampling(self, generation: GenerationRequest, prompt: int) -> Sampling:
        room = self.engine.room - prompt
        if room < 1:
            raise InputError(
                f"this request has {prompt} tokens, and the model's context is {self.engine.room}: "
                "at least one has to be left for the answer; send less"
            )
        most = generation.max_tokens or min(self.config.default_tokens, room)
        return replace(generation.sampling, max_new_tokens=most)

    def _note_route(self, user: str | None, path: str, adapter: Adapter | None, refused: Sequence[str]) -> None:
        self.metrics.count_route(path)
        if user is None or self._routes.get(user) == path:
            return
        before = self._routes.pop(user, "")
        self._routes[user] = path
        number = adapter.key.number if adapter else None
        self.log(Routed(user, path, before, number, refused[0] if refused else ""))

    async def stream(self, *requests: Request) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of `Engine.stream`, each with the place of its request; latencies go to the metrics."""
        last: dict[int, float] = {}
        async for place, event in self.engine.stream(*requests):
            if isinstance(event, Piece) and place in last:
                self.metrics.observe_next_token(event.at - last[place])
            if isinstance(event, Done):
                if place in last:
                    self.metrics.observe_first_token(event.first - event.arrived)
                self.metrics.observe_end(event.reason, event.admitted - event.arrived, event.at - event.arrived)
            if not isinstance(event, Failed):
                last[place] = event.at
            yield place, event

    # ---- what users state

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
            self.memories.mark_changed(exchange.user)
            await asyncio.to_thread(self.consolidate_if_due, exchange.user)
        return True

    async def remember(self, memory: Memory, now: bool) -> Job | None:
        """Keep a text of the user's; `now`: consolidate whatever the policy decides. `StoreError`: the disk is full."""
        await asyncio.wrap_future(self.journal.submit(memory))
        self.memories.mark_changed(memory.user)
        if now:
            return await asyncio.to_thread(self.consolidate, memory.user, (), "asked for")
        return (await asyncio.to_thread(self.consolidate_if_due, memory.user))[0]

    async def end_session(self, user: str, session: str, why: str) -> tuple[Job | None, policy.Decision]:
        """End a session. Waits for the consolidation that follows where the policy is not `run_async`."""
        await asyncio.wrap_future(
            self.journal.submit(SessionEnd(journal_records.new_id("end"), user, session, journal_records.now(), why))
        )
        self._open.pop((user, session), None)
        self.memories.mark_changed(user)
        job, decision = await asyncio.to_thread(self.consolidate_if_due, user)
        self.log(SessionEnded(user, session, why, decision.why))
        while job is not None and decision.wait and (job := self.jobs.get(job.id)).state in ("queued", "running"):
            await asyncio.sleep(0.2)
        return job, decision

    async def end_idle_sessions(self) -> None:
        """End every session without a request for `Config.session_idle` seconds."""
        oldest = time.monotonic() - self.config.session_idle
        for user, session in [key for key, last in self._open.items() if last < oldest]:
            if not user:
                self._open.pop((user, session), None)
                continue
            with contextlib.suppress(StillhouseError, OSError):  # tried again at the next round
                await self.end_session(user, session, "idle")

    def drop_old(self) -> int:
        """Drop records that are older than the journal keeps, from disk and caches; returns how many."""
        dropped = self.journal.drop_old()
        if dropped:
            self.memories.clear()
        return dropped

    def consolidate_if_due(self, user: str) -> tuple[Job | None, policy.Decision]:
        """Queue a consolidation of a user's memory if the policy decides that one is due."""
        status = self.memories.status(user)
        queued = any(job.user == user for job in self.jobs.all(user, ended=0))
        tokens = sum(map(self._count, status.fresh))
        kv_bytes = self.engine.session_bytes(user)
        decision = policy.decide(self.config.policy, status.policy_state(tokens, kv_bytes, queued))
        return (self._enqueue(user, (), decision.why) if decision.consolidate else None), decision

    def consolidate(self, user: str, settings: Sequence[str], why: str) -> Job:
        """Queue a consolidation of all that a user stated. `InputError`: that is nothing."""
        if not self.memories.status(user).memory:
            raise InputError(f"user {user!r} has said nothing yet: there is no memory to consolidate")
        return self._enqueue(user, settings, why)

    def _enqueue(self, user: str, settings: Sequence[str], why: str) -> Job:
        return self.jobs.enqueue(user, self.model.ref, settings, self.config.policy, why)

    # ---- a user

    def rollback(self, user: str, to: int | None) -> AliasMoved:
        """Serve the previous champion, or version `to`. `NotFound`: there is none; `Rejected`: its gates refused it."""
        before = self.store.champion(user)
        if before is None and to is None:
            raise NotFound(f"user {user!r} has no version that is served, so nothing to roll back")
        after = self.store.rollback(user, to)
        moved = AliasMoved(user, after.number, before.number if before else None, "rollback")
        self.log(moved)
        return moved

    def forget(self, user: str) -> dict[str, int]:
        """Remove everything of a user, here and on disk."""
        self.engine.forget(user)
        for key in [k for k in self._open if k[0] == user]:
            self._open.pop(key, None)
        self._routes.pop(user, None)
        counts = forget(self.home, user, self.journal)
        self.library.forget(user)
        self.memories.forget(user)
        return counts

    def open_sessions(self, user: str) -> set[str]:
        """A user's sessions that have not ended."""
        return {session for owner, session in self._open if owner == user}

    def users_with_sessions(self) -> set[str]:
        """Users with a session that has not ended."""
        return {user for user, _ in self._open if user}

    # ---- figures

    def _figures(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
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
        """Gauges and counters by name, with the number of answers by route."""
        gauges, counters = self._figures()
        return {**gauges, **counters, "paths": self.metrics.paths()}

    def _write_events(self) -> None:
        while (fact := self._facts.get()) is not None:
            facts = [fact]
            while not self._facts.empty() and (more := self._facts.get()) is not None:
                facts.append(more)
            with contextlib.suppress(StillhouseError, OSError):  # a full disk stops no answer
                self.events.append(*facts, sync=False)


def with_passages(messages: Sequence[Message], passages: Sequence[str]) -> list[Message]:
    """The conversation with the user's own passages in its system message, as the teacher had its memory."""
    if not passages:
        return list(messages)
    memory = MEMORY_SYSTEM.format(memory="\n".join(passages))
    if messages[0]["role"] == "system":
        memory = f"{messages[0]['content']}\n\n{memory}"
        messages = messages[1:]
    return [{"role": "system", "content": memory}, *messages]


def _session_name(generation: GenerationRequest) -> str:
    """A name for a session without one, made of its first messages, so that a conversation keeps its name."""
    first = next((i for i, m in enumerate(generation.messages) if m["role"] == "user"), 0)
    beginning = [generation.user, [dict(m) for m in generation.messages[: first + 1]]]
    return f"auto-{digest(beginning)[:16]}" if generation.messages else journal_records.new_id("session")


def _open_sessions(journal: Journal) -> OpenSessions:
    """Sessions in the journal without an end, as if they were last used now."""
    open_sessions: OpenSessions = {}
    records: Iterable[journal_records.Record] = journal.records(Exchange.kind, SessionEnd.kind)
    for record in records:
        if isinstance(record, Exchange) and record.user:
            open_sessions[record.user, record.session] = time.monotonic()
        elif isinstance(record, SessionEnd):
            open_sessions.pop((record.user, record.session), None)
    return open_sessions


__all__ = ["AdapterMoved", "Busy", "Config", "GenerationRequest", "PreparedRequest", "Service", "with_passages"]
