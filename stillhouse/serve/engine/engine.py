"""Continuous batching: requests go in from any thread, tokens come out, and one thread owns the model.

In: a `Runner`, `Request`s. Out: events per request (`Piece`, `Done`, `Failed`), to a sink or as an
asynchronous iterator. Between two steps rows join and leave; a long prompt is read in chunks, so that those who are
being answered do not wait for it: such a chunk goes through the network together with their next tokens. Neither do
they wait for an adapter that is brought into the bank. A broken step fails its own rows and no others.

With `deterministic`, every row is a forward of its own, whose shapes depend on nothing but its request: the same tokens
alone and in any company, at the cost of batching. Without it, a batch of another size may round differently.

It does not know users' rights, texts of memories, or HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from torch import Tensor

from ...errors import ModelError, StillhouseError
from ...generate import choose
from ...runners import Runner, SavedRow
from ..errors import Overloaded, Unavailable
from . import scheduler
from .adapters import AdapterSlots, Key
from .admission import Door
from .batch import Batch
from .detokenize import TextStream
from .prefill_budget import Pace
from .sequence import Config, Done, Event, Failed, Piece, Reason, Request, Row, Session, Sink, Stats
from .session_cache import SessionCache
from .stream import events_of

DEFAULTS = Config()
T = TypeVar("T")
_LOOK = 0.005  # seconds between two looks at those who wait for a seat

__all__ = [
    "Config", "Done", "Engine", "Event", "Failed", "Overloaded", "Piece", "Request", "Stats", "Unavailable",
]  # fmt: skip


class Engine:
    """One runner, which stays whoever opened it's, and one thread. `start`, `submit` or `stream`, `close`."""

    def __init__(self, runner: Runner, config: Config = DEFAULTS) -> None:
        self.runner, self.model, self.config = runner, runner.model, config
        self.slots = AdapterSlots(runner, self._carried) if runner.slots else None
        self.sessions = SessionCache(config.session_bytes)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._door = Door(config, self.room, runner.model.context, runner.slots > 0)
        self._numbers = itertools.count()
        self._waiting: dict[int, Row] = {}
        self._boarding: dict[Key, list[Row]] = {}  # admitted, and their adapter is on its way
        self._filling: deque[Batch] = deque()
        self._answering: list[Batch] = []
        self._mixes = not config.deterministic and runner.mixes
        self._pace, self._begun = Pace(config.stretch), threading.Event()
        self._known: dict[int, Row] = {}
        self._forgetting: list[tuple[str, threading.Event]] = []
        self._tallies: Counter[str] = Counter()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def room(self) -> int:
        """Tokens, prompt and answer together, that one request may have."""
        return min(self.model.context, self.config.kv_bytes // self.runner.token_bytes)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> Engine:
        """Begin to answer. Whoever calls this had better not compute beside it."""
        self.runner.hand_over()
        self._thread.start()
        self._begun.wait()
        return self

    def close(self) -> None:
        """Stop; whoever is still being answered is told so."""
        self._closed = True
        self._door.close()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self.slots is not None:
            self.slots.close()

    def submit(self, request: Request, sink: Sink) -> int:
        """Ask for an answer; events go to `sink` from the engine's thread, which must not be kept waiting.

        Returns a number to `cancel` by. Raises what `Door.enter` does.
        """
        stream = TextStream(self.model, request.sampling.stop)
        self._door.enter(request)
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

    def stream(self, *requests: Request) -> AsyncGenerator[tuple[int, Event], None]:
        """(which request, event) as they come; `Done` or `Failed` is the last of each.

        Leaving the iterator cancels what is not done. Raises what `submit` raises, at the first step.
        """
        return events_of(requests, self.submit, self.cancel)

    def between(self, work: Callable[[], T]) -> Future[T]:
        """Do `work`, which may use the runner, in the engine's thread between two steps. `Unavailable`: closed."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 - whoever asked for it is told
                done.set_exception(error)

        if self._closed:
            raise Unavailable("the server is stopping; ask again when it is back")
        self._inbox.put(run)
        return done

    def session_bytes(self, user: str) -> int:
        """Bytes of a user's idle sessions; any thread."""
        return self.sessions.bytes_of(partial(_of_user, user))

    def stats(self) -> Stats:
        """A snapshot; any thread."""
        kv = sum(batch.cache.bytes for batch in [*self._answering, *self._filling])
        slots, count = self.slots, self._tallies
        return Stats(
            running=len(self._known) - len(self._waiting), waiting=self._door.waiting, kv_bytes=kv,
            kv_share=kv / self.config.kv_bytes, sessions=len(self.sessions), session_bytes=self.sessions.bytes,
            session_evictions=self.sessions.evicted, prefix_queries=count["prefix_queries"],
            prefix_hits=count["prefix_hits"], prompt_tokens=count["prompt"], generated_tokens=count["generated"],
            hot=len(slots) if slots else 0, slot_hits=slots.hits if slots else 0,
            slot_loads=slots.loads if slots else 0, slot_evictions=slots.evictions if slots else 0,
        )  # fmt: skip

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            self.runner.take_over(1 if self.config.deterministic else self.config.rows)
        finally:
            self._begun.set()
        while not self._closed:
            try:
                self._receive()
                self._forget()
                self._admit()
                self._step()
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
            scheduler.Waiting(r.number, r.request.user, r.longest, r.key, now - r.arrived)
            for r in self._waiting.values()
        ]
        runs = [scheduler.Running(r.request.user, r.longest, r.key) for r in running]
        config, tokens = self.config, self.config.kv_bytes // self.runner.token_bytes
        limits = scheduler.Limits(config.rows, tokens, self.runner.slots, config.patience)
        rows = [self._waiting[number] for number in scheduler.plan(waits, runs, limits)]
        self._begin([row for row in rows if self._seated(row, now)])

    def _seated(self, row: Row, now: float) -> bool:
        """Whether the row begins now: its adapter is in the bank. While that is on its way, it has a seat and waits."""
        ready = True
        if row.request.adapter is not None and self.slots is not None:
            busy = {key for r in self._known.values() if r.slot >= 0 and (key := r.key) is not None}
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
        saved = {row: self._saved(row) for row in rows}
        left = sorted(rows, key=lambda row: row.length - row.cached)
        most = 1 if self.config.deterministic else len(left)
        while left:
            widths = [row.length - row.cached for row in left[:most]]
            count = scheduler.together(widths, self.config.prefill_tokens)
            group, left = left[:count], left[count:]
            more = min(group[-1].length - group[-1].cached, self.config.prefill_tokens)
            for row in group:
                row.fed = row.cached = min(row.cached, max(row.length - more, 0))
                self._tallies["prefix_hits"] += row.cached
            self._filling.append(Batch(self.runner, group, [(saved[row], row.cached) for row in group], more))

    def _saved(self, row: Row) -> SavedRow | None:
        """What an earlier turn of the same session left; `row.cached` tokens of the prompt are in it."""
        if row.request.session is None or self.config.deterministic:
            return None
        self._tallies["prefix_queries"] += row.length
        saved, row.cached = self.sessions.take(row.session, row.request.prompt)
        return saved

    def _step(self) -> None:
        """Prompts further, and one more token for every row that is being answered; in one forward if possible."""
        self._clear()
        start = time.monotonic()
        tokens = self._read_along()
        if tokens is None:
            tokens = None if self._fill() or not self._answering else 0
            self._answer()
        if tokens is not None:
            self._pace.step(time.monotonic() - start, tokens)
        self._sweep()

    def _clear(self) -> None:
        """Rows that were cancelled leave; of those whose prompts are being read, when all of their batch were."""
        for batch in self._answering:
            for row in [r for r in batch.rows if r.cancelled]:
                self._leave(batch, row, "cancelled")
        for batch in [b for b in self._filling if all(row.cancelled for row in b.rows)]:
            self._drop(batch)
        self._sweep()

    def _read_along(self) -> int | None:
        """Answer, and read a piece of a prompt in the same forward; how many tokens of it. None: nothing was done.

        Not where more rows wait for their first token than for their next one.
        """
        waiting, answered = (sum(map(len, batches)) for batches in (self._filling, self._answering))
        if not self._mixes or not 0 < waiting <= answered:
            return None
        read, batch = self._filling[0], self._answering[0]
        least = -(-max(row.length for row in read.rows) // self.config.prompt_steps)
        tokens = max(self._pace.tokens // len(read), least)
        columns = min(read.left, tokens, max(1, self.config.prefill_tokens // len(read)))
        try:
            logits_BV, first_BV = batch.decode_with(read, columns)
        except Exception:  # noqa: BLE001 - each by itself: then it is seen whose fault it is
            return None
        self._chosen(batch, logits_BV)
        self._further(read, first_BV)
        return columns * len(read)

    def _fill(self) -> int:
        """Read prompts, at least one piece, until this step's tokens are used up; how many that were."""
        tokens = 0
        while self._filling and tokens < self.config.prefill_tokens:
            batch = self._filling[0]
            columns = min(batch.left, max(1, self.config.prefill_tokens // len(batch)))
            tokens += columns * len(batch)
            self._further(batch, self._computed(batch, partial(batch.prefill, columns)))
        return tokens

    def _further(self, batch: Batch, logits_BV: Tensor | None) -> None:
        """The first of the prompts were read a piece further; with logits to their end: first tokens."""
        if logits_BV is not None or not batch.rows:
            self._filling.popleft()
        if logits_BV is not None:
            self._tallies["prompt"] += sum(row.length - row.cached for row in batch.rows)
            self._chosen(batch, logits_BV)
            self._join(batch)

    def _join(self, batch: Batch) -> None:
        if not batch.rows:
            return
        if self.config.deterministic or not self._answering:
            self._answering.append(batch)
        else:
            self._answering[0].absorb(batch)

    def _answer(self) -> None:
        """One more token for every row that is being answered."""
        for batch in [b for b in self._answering if b.rows]:
            logits_BV = self._computed(batch, batch.decode)
            if logits_BV is not None:
                self._chosen(batch, logits_BV)

    def _computed(self, batch: Batch, forward: Callable[[], Tensor | None]) -> Tensor | None:
        """A forward; when it breaks, its rows fail and the batch is empty."""
        try:
            return forward()
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
        saved = batch.leave(row, save=wanted)
        if saved is not None:
            self.sessions.put(row.session, row.ids[: row.fed], saved)
        self._end(row, reason)

    def _drop(self, batch: Batch) -> None:
        """A batch whose rows were all cancelled before their prompts were read."""
        for row in batch.rows:
            self._end(row, "cancelled")
        batch.rows.clear()

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
            self._door.leave(row.request.user)


def _of_user(user: str, key: Session) -> bool:
    return key[0] == user
