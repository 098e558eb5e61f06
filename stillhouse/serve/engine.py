"""Continuous batching: requests go in from any thread, tokens come out, and one thread owns the model.

In: a `Model`, an AdapterBank, `Request`s. Out: events per request (`Piece`, `Done`, `Failed`), to a sink or as an
asynchronous iterator. Between two steps rows join and leave; a long prompt is read in chunks, so that those who are
being answered do not wait for it, and neither do they for an adapter that is brought into the bank. A broken step fails
its own rows and no others.

With `deterministic`, every row is a forward of its own, whose shapes depend on nothing but its request: the same tokens
alone and in any company, at the cost of batching. Without it, a batch of another size may round differently.

It does not know users' rights, texts of memories, or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError, ModelError, StillhouseError
from ..lora import AdapterBank
from ..models import Model
from . import scheduler
from ._cache import Columns, Kept, Sessions, layers_of, token_bytes
from ._execution import Batch
from ._rows import Config, Done, Event, Failed, Piece, Reason, Request, Row, Sampling, Sink, Stats
from ._sampling import choose
from ._text import TextStream
from .adapters import Key, Slots
from .refusals import Overloaded, Unavailable

DEFAULTS = Config()
_LOOK = 0.005  # seconds between two looks at those who wait for a seat

__all__ = [
    "Config", "Done", "Engine", "Event", "Failed", "Overloaded", "Piece", "Request", "Sampling", "Stats", "Unavailable",
]  # fmt: skip


class Engine:
    """One model, one bank, one thread. `start`, `submit` or `stream`, `close`. `bank` None: the base alone."""

    def __init__(self, model: Model, bank: AdapterBank | None = None, config: Config = DEFAULTS) -> None:
        self.model, self.bank, self.config = model, bank, config
        self.slots = Slots(bank, self._carried) if bank is not None else None
        self.sessions = Sessions(config.session_bytes)
        self._layers, self._token_bytes = layers_of(model.network), token_bytes(model.network)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._queued: Counter[str | None] = Counter()  # rows that wait, by user
        self._waiting: dict[int, Row] = {}
        self._boarding: dict[Key, list[Row]] = {}  # admitted, and their adapter is on its way
        self._filling: deque[Batch] = deque()
        self._answering: list[Batch] = []
        self._held = bank.held() if bank is not None and not config.deterministic else None
        self._known: dict[int, Row] = {}
        self._forgetting: list[tuple[str, threading.Event]] = []
        self._tallies: Counter[str] = Counter()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def room(self) -> int:
        """Tokens, prompt and answer together, that one request may have."""
        return min(self.model.context, self.config.kv_bytes // self._token_bytes)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> Engine:
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop; whoever is still being answered is told so."""
        self._closed = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self.slots is not None:
            self.slots.close()

    def submit(self, request: Request, sink: Sink) -> int:
        """Ask for an answer; events go to `sink` from the engine's thread, which must not be kept waiting.

        Returns a number to `cancel` by. `InputError`: an empty prompt, or one that leaves no room for an answer;
        `Overloaded`: the queue is full; `Unavailable`: closed.
        """
        self._check(request)
        stream = TextStream(self.model.tokenizer, request.sampling.stop)
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping; ask again when it is back")
            self._refuse_if_full(request.user)
            self._queued[request.user] += 1
            row = Row(next(self._numbers), request, sink, stream, time.monotonic())
        self._inbox.put(lambda: self._enter(row))
        return row.number

    def cancel(self, number: int) -> None:
        """Stop answering; nothing happens if the answer is already there."""
        self._inbox.put(lambda: self._cancel(number))

    def forget(self, user: str) -> None:
        """Stop answering a user, and let go of the user's keys, values and adapters. Returns when it is done."""
        done = threading.Event()
        self._inbox.put(lambda: self._begin_forgetting(user, done))
        if self._thread.is_alive():
            done.wait()

    async def stream(self, *requests: Request) -> AsyncGenerator[tuple[int, Event], None]:
        """(which request, event) as they come; `Done` or `Failed` is the last of each.

        Leaving the iterator cancels what is not done. Raises what `submit` raises, at the first step.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()
        numbers: list[int] = []
        try:
            for place, request in enumerate(requests):
                numbers.append(self.submit(request, partial(_pass_on, loop, events, place)))
            left = len(requests)
            while left:
                place, event = await events.get()
                left -= not isinstance(event, Piece)
                yield place, event
        finally:
            for number in numbers:
                self.cancel(number)

    def session_bytes(self, user: str) -> int:
        """Bytes of a user's idle sessions; any thread."""
        return self.sessions.bytes_of(partial(_of_user, user))

    def stats(self) -> Stats:
        """A snapshot; any thread."""
        kv = sum(batch.cache.bytes for batch in [*self._answering, *self._filling])
        slots, count = self.slots, self._tallies
        return Stats(
            running=len(self._known) - len(self._waiting), waiting=self._queued.total(), kv_bytes=kv,
            kv_share=kv / self.config.kv_bytes, sessions=len(self.sessions), session_bytes=self.sessions.bytes,
            session_evictions=self.sessions.evicted, prefix_queries=count["prefix_queries"],
            prefix_hits=count["prefix_hits"], prompt_tokens=count["prompt"], generated_tokens=count["generated"],
            hot=len(slots) if slots else 0, slot_hits=slots.hits if slots else 0,
            slot_loads=slots.loads if slots else 0, slot_evictions=slots.evictions if slots else 0,
        )  # fmt: skip

    # ---- before the queue: any thread

    def _check(self, request: Request) -> None:
        prompt, asked = len(request.prompt), request.sampling.max_tokens
        if not prompt:
            raise InputError("the prompt is empty")
        if prompt + asked > self.room:
            raise InputError(
                f"prompt of {prompt} tokens and an answer of {asked} do not fit: "
                f"{self.room} tokens are allowed together (the model's context is {self.model.context})"
            )
        if request.adapter is not None and self.bank is None:
            raise ModelError("this engine serves the base alone: it was started without adapters")

    def _refuse_if_full(self, user: str | None) -> None:
        if self._queued.total() >= self.config.queue:
            raise Overloaded(f"{self.config.queue} answers are waiting already; try again in a moment", 2)
        if user is not None and self._queued[user] >= self.config.queue_per_user:
            raise Overloaded(f"{self.config.queue_per_user} answers of yours are waiting already; try again later", 2)

    # ---- the engine's thread

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._closed:
            try:
                self._receive()
                self._forget()
                self._admit()
                self._fill()
                self._answer()
            except Exception as error:  # noqa: BLE001 - out of memory between two forwards: who comes next is served
                self._collapse(error)
        self._receive()
        for row in list(self._known.values()):
            self._fail(row, Unavailable("the server is stopping; ask again when it is back"))
        self._forget()

    def _receive(self) -> None:
        """Do what came in; with nothing else to do, wait for it."""
        wait: float | None = 0.0
        if not (self._filling or self._answering or self._forgetting or self._closed):
            wait = _LOOK if self._waiting else None  # only adapters on their way hold up who waits now
        while True:
            try:
                message = self._inbox.get(block=wait != 0, timeout=wait)
            except queue.Empty:
                return
            if message is not None:
                message()
            wait = 0.0

    def _enter(self, row: Row) -> None:
        self._known[row.number] = self._waiting[row.number] = row

    def _cancel(self, number: int) -> None:
        row = self._known.get(number)
        if row is not None:
            row.cancelled = True
            if number in self._waiting:
                self._end(row, "cancelled")

    def _forget(self) -> None:
        """Users whose last row has ended are forgotten."""
        here = {row.request.user for row in self._known.values()}
        for user, done in [f for f in self._forgetting if f[0] not in here]:
            self._forgetting.remove((user, done))
            self.sessions.drop_where(partial(_of_user, user))
            if self.slots is not None:
                self.slots.forget(user)
            done.set()

    def _begin_forgetting(self, user: str, done: threading.Event) -> None:
        for row in [r for r in self._known.values() if r.request.user == user]:
            self._cancel(row.number)
        self._forgetting.append((user, done))

    def _admit(self) -> None:
        if not self._waiting or len(self._known) - len(self._waiting) >= self.config.rows:
            return
        now, running = time.monotonic(), [r for r in self._known.values() if r.number not in self._waiting]
        waits = [
            scheduler.Waiting(r.number, r.request.user, r.longest, _key(r), now - r.arrived)
            for r in self._waiting.values()
        ]
        runs = [scheduler.Running(r.request.user, r.longest, _key(r)) for r in running]
        rows = [self._waiting[number] for number in scheduler.plan(waits, runs, self._limits())]
        self._begin([row for row in rows if self._seated(row, now)])

    def _limits(self) -> scheduler.Limits:
        config, adapters = self.config, self.bank.slots if self.bank else 0
        tokens = config.kv_bytes // self._token_bytes
        return scheduler.Limits(config.rows, tokens, adapters, config.patience)

    def _seated(self, row: Row, now: float) -> bool:
        """Whether the row begins now: its adapter is in the bank. While that is on its way, it has a seat and waits."""
        ready = True
        if row.request.adapter is not None and self.slots is not None:
            busy = {key for r in self._known.values() if r.slot >= 0 and (key := _key(r)) is not None}
            seat = self.slots.place(row.request.adapter, busy)
            if seat is None:
                return False
            row.slot, ready = seat.slot, seat.ready
            if not ready:
                self._boarding.setdefault(row.request.adapter.key, []).append(row)
        row.admitted = now
        self._unqueue(row)
        return ready

    def _carried(self, key: Key, error: StillhouseError | None) -> None:
        """Told by the thread that fills slots."""
        self._inbox.put(lambda: self._arrived(key, error))

    def _arrived(self, key: Key, error: StillhouseError | None) -> None:
        """An adapter is in its slot, or cannot be: its rows begin, or fail."""
        assert self.slots is not None, "adapters come to a bank only"
        self.slots.arrived(key, error)
        rows = self._boarding.pop(key, [])
        for row in rows:
            if error is not None:
                self._fail(row, error)
            elif row.cancelled:
                self._end(row, "cancelled")
        if error is None:
            self._begin([row for row in rows if not row.cancelled])

    def _begin(self, rows: Sequence[Row]) -> None:
        """Prompts are read together as far as the tokens of one step allow; a long one is read alone, in chunks."""
        kept = {row: self._kept(row) for row in rows}
        left = sorted(rows, key=lambda row: _length(row) - row.cached)
        most = 1 if self.config.deterministic else len(left)
        while left:
            widths = [_length(row) - row.cached for row in left[:most]]
            count = scheduler.together(widths, self.config.prefill_tokens)
            group, left = left[:count], left[count:]
            more = min(_length(group[-1]) - group[-1].cached, self.config.prefill_tokens)
            for row in group:
                row.fed = row.cached = min(row.cached, max(_length(row) - more, 0))
                self._tallies["prefix_hits"] += row.cached
            held = [(kept[row], row.cached) for row in group]
            cache = Columns(self._layers, [_length(row) for row in group], held, more)
            self._filling.append(Batch(self.model, self.bank, group, cache))

    def _kept(self, row: Row) -> Kept | None:
        """What an earlier turn of the same session left; `row.cached` tokens of the prompt are in it."""
        if row.request.session is None or self.config.deterministic:
            return None
        self._tallies["prefix_queries"] += _length(row)
        kept, row.cached = self.sessions.take(_session(row), row.request.prompt) or (None, 0)
        return kept

    def _fill(self) -> None:
        """Read prompts, at least one chunk, until this step's tokens are used up; first tokens come of the last."""
        left = self.config.prefill_tokens
        while self._filling and left > 0:
            batch = self._filling[0]
            if all(row.cancelled for row in batch.rows):
                self._drop(self._filling.popleft())
                continue
            ids = [row.request.prompt[row.fed : row.fed + self.config.prefill_tokens] for row in batch.rows]
            left -= len(ids) * max(map(len, ids))
            last = all(row.fed + len(part) == _length(row) for row, part in zip(batch.rows, ids, strict=True))
            logits_BV = self._fed(batch, ids, last)
            if not batch.rows:
                self._filling.popleft()
            elif logits_BV is not None:
                self._filling.popleft()
                self._tallies["prompt"] += sum(_length(row) - row.cached for row in batch.rows)
                self._chosen(batch, logits_BV)
                self._join(batch)

    def _join(self, batch: Batch) -> None:
        if not batch.rows:
            return
        if self.config.deterministic or not self._answering:
            batch.held = self._held
            self._answering.append(batch)
        else:
            self._answering[0].absorb(batch)

    def _answer(self) -> None:
        """One more token for every row that is being answered."""
        for batch in list(self._answering):
            for row in [r for r in batch.rows if r.cancelled]:
                self._leave(batch, row, "cancelled")
            if batch.rows:
                logits_BV = self._fed(batch, [row.out[-1:] for row in batch.rows], True)
                if logits_BV is not None:
                    self._chosen(batch, logits_BV)
        self._sweep()

    def _fed(self, batch: Batch, ids: Sequence[Sequence[int]], wanted: bool) -> Tensor | None:
        """A forward; when it breaks, its rows fail and the batch is empty."""
        try:
            return batch.feed(ids, wanted)
        except Exception as error:  # noqa: BLE001 - out of memory, a kernel, an adapter: the others go on
            self._break(batch, error)
            return None

    def _chosen(self, batch: Batch, logits_BV: Tensor) -> None:
        try:
            choices = choose(logits_BV, [row.draw for row in batch.rows])
        except Exception as error:  # noqa: BLE001 - as above
            return self._break(batch, error)
        now = time.monotonic()
        self._tallies["generated"] += len(choices)
        for row, choice in zip(list(batch.rows), choices, strict=True):
            try:
                reason = row.take(choice, self.model.stop_ids, now)
            except RuntimeError:  # the event loop that listened is gone
                reason = "cancelled"
            if reason is not None:
                self._leave(batch, row, reason)
        return None

    def _leave(self, batch: Batch, row: Row, reason: Reason) -> None:
        wanted = row.request.session is not None and reason != "cancelled" and not self.config.deterministic
        kept = batch.leave(row, row.ids[: row.fed] if wanted else None)
        if kept is not None:
            self.sessions.put(_session(row), kept)
        self._end(row, reason)

    def _drop(self, batch: Batch) -> None:
        """A batch whose rows were all cancelled before their prompts were read."""
        for row in batch.rows:
            self._end(row, "cancelled")

    def _break(self, batch: Batch, error: Exception) -> None:
        cause = error if isinstance(error, StillhouseError) else None
        for row in list(batch.rows):
            self._fail(row, cause or ModelError(f"the model failed: {type(error).__name__}: {error}".splitlines()[0]))
        batch.rows.clear()

    def _sweep(self) -> None:
        self._answering = [b for b in self._answering if b.rows]
        self._filling = deque(b for b in self._filling if b.rows)

    def _collapse(self, error: Exception) -> None:
        """What breaks outside of a forward may have touched everyone's keys and values: all that run fail."""
        boarding = {row.number for rows in self._boarding.values() for row in rows}
        running = [r for r in self._known.values() if r.number not in self._waiting and r.number not in boarding]
        self._filling.clear()
        self._answering.clear()
        for row in running:
            self._fail(row, ModelError(f"the engine failed: {type(error).__name__}: {error}".splitlines()[0]))

    def _end(self, row: Row, reason: Reason) -> None:
        self._tell(row, row.done(reason, time.monotonic()))

    def _fail(self, row: Row, error: StillhouseError) -> None:
        self._tell(row, Failed(error))

    def _tell(self, row: Row, event: Done | Failed) -> None:
        """The last event of a row, which is nobody's concern from here on."""
        self._unqueue(row)
        self._known.pop(row.number, None)
        with contextlib.suppress(RuntimeError):  # the event loop that listened is gone
            row.sink(event)

    def _unqueue(self, row: Row) -> None:
        if self._waiting.pop(row.number, None) is not None:
            with self._lock:
                self._queued[row.request.user] -= 1
                if not self._queued[row.request.user]:
                    del self._queued[row.request.user]


def _of_user(user: str, key: tuple[str | None, str | None, Key | None]) -> bool:
    return key[0] == user


def _pass_on(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[tuple[int, Event]], place: int, event: Event
) -> None:
    loop.call_soon_threadsafe(events.put_nowait, (place, event))


def _length(row: Row) -> int:
    return len(row.request.prompt)


def _key(row: Row) -> Key | None:
    return row.request.adapter.key if row.request.adapter is not None else None


def _session(row: Row) -> tuple[str | None, str | None, Key | None]:
    return row.request.user, row.request.session, _key(row)
