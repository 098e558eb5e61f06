"""Continuous batching: any thread submits requests, and one thread owns the runner and computes their tokens.

In: a `Runner`, `Request`s. Out: events of each request (`Piece`, `Done`, `Failed`), to a sink or as an asynchronous
iterator. Between two steps rows join and leave. A long prompt is read in pieces, each in one forward with the next
tokens of the rows that are decoded, so that these rows do not wait for it. They do not wait for an adapter that is
being loaded either. When a step fails, only its own rows fail.

With `deterministic`, every row is a forward of its own, whose shapes depend on its request alone. The row then gets the
same tokens alone and beside any others, and batching saves nothing. Otherwise a batch of another size may round
differently.

This module does not know users' rights, texts of memories, or HTTP.
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
from .admission import AdmissionControl
from .batch import RowBatch
from .detokenize import TextStream
from .prefill_budget import PrefillBudget
from .sequence import Config, Done, Event, Failed, Piece, Reason, Request, Row, Session, Sink, Stats
from .session_cache import SessionCache
from .stream import events_of

DEFAULTS = Config()
T = TypeVar("T")
_POLL_SECONDS = 0.005  # how long to wait for a message while queued rows have no free slot

__all__ = [
    "Config", "Done", "Engine", "Event", "Failed", "Overloaded", "Piece", "Request", "Stats", "Unavailable",
]  # fmt: skip


class Engine:
    """One runner and one thread: `start`, `submit` or `stream`, `close`. The caller opens and closes the runner."""

    def __init__(self, runner: Runner, config: Config = DEFAULTS) -> None:
        self.runner, self.model, self.config = runner, runner.model, config
        self.slots = AdapterSlots(runner, self._on_load) if runner.slots else None
        self.sessions = SessionCache(config.session_bytes)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._admission = AdmissionControl(config, self.room, runner.model.context, runner.slots > 0)
        self._numbers = itertools.count()
        self._waiting: dict[int, Row] = {}
        self._loading: dict[Key, list[Row]] = {}  # admitted rows, by the adapter that is being loaded for them
        self._prefilling: deque[RowBatch] = deque()
        self._decoding: list[RowBatch] = []
        self._mixes = not config.deterministic and runner.mixes
        self._prefill_budget, self._ready = PrefillBudget(config.stretch), threading.Event()
        self._rows: dict[int, Row] = {}
        self._forget_requests: list[tuple[str, threading.Event]] = []
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def room(self) -> int:
        """Tokens that prompt and answer of one request may have together."""
        return min(self.model.context, self.config.kv_bytes // self.runner.token_bytes)

    @property
    def alive(self) -> bool:
        """Whether the engine answers requests."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> Engine:
        """Start the thread. The calling thread should not compute on the same cores afterwards."""
        self.runner.hand_over()
        self._thread.start()
        self._ready.wait()
        return self

    def close(self) -> None:
        """Stop. Requests that have not ended fail with `Unavailable`."""
        self._closed = True
        self._admission.close()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self.slots is not None:
            self.slots.close()

    def submit(self, request: Request, sink: Sink) -> int:
        """Request an answer. The engine's thread calls `sink` with each event, so `sink` must return at once.

        Returns the number that `cancel` takes. Raises what `AdmissionControl.enter` raises.
        """
        stream = TextStream(self.model, request.sampling.stop)
        self._admission.enter(request)
        row = Row(next(self._numbers), request, sink, stream, time.monotonic())
        self._inbox.put(lambda: self._enqueue(row))
        return row.number

    def cancel(self, number: int) -> None:
        """End an answer. Does nothing when it has ended already."""
        self._inbox.put(lambda: self._cancel(number))

    def forget(self, user: str) -> None:
        """End a user's answers, and drop the user's sessions and adapters. Returns when that is done."""
        done = threading.Event()
        self._inbox.put(lambda: self._forget_user(user, done))
        if self._thread.is_alive():
            done.wait()

    def stream(self, *requests: Request) -> AsyncGenerator[tuple[int, Event], None]:
        """Yields (index of the request, event). The last event of each request is `Done` or `Failed`.

        Leaving the iterator cancels the requests that have not ended. The first step raises what `submit` raises.
        """
        return events_of(requests, self.submit, self.cancel)

    def between(self, work: Callable[[], T]) -> Future[T]:
        """Call `work`, which may use the runner, in the engine's thread between two steps. Raises `Unavailable` after
        `close`."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 - the future raises it
                done.set_exception(error)

        if self._closed:
            raise Unavailable("the server is stopping; ask again when it is back")
        self._inbox.put(run)
        return done

    def session_bytes(self, user: str) -> int:
        """Bytes of a user's idle sessions. Any thread may call."""
        return self.sessions.bytes_of(partial(_is_of_user, user))

    def stats(self) -> Stats:
        """What the engine is doing now. Any thread may call."""
        kv = sum(batch.cache.bytes for batch in [*self._decoding, *self._prefilling])
        slots, count = self.slots, self._counts
        return Stats(
            running=len(self._rows) - len(self._waiting), waiting=self._admission.waiting, kv_bytes=kv,
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
            self._ready.set()
        while not self._closed:
            try:
                self._receive()
                self._forget_users()
                self._admit()
                self._step()
            except Exception as error:  # noqa: BLE001 - out of memory between two forwards: later requests are answered
                self._fail_running(error)
        self._receive()
        for row in list(self._rows.values()):
            self._fail(row, Unavailable("the server is stopping; ask again when it is back"))
        self._forget_users()

    def _receive(self) -> None:
        """Handle all messages. Wait for one when there is nothing else to do."""
        wait: float | None = 0.0
        if not (self._prefilling or self._decoding or self._forget_requests or self._closed):
            wait = _POLL_SECONDS if self._waiting else None  # a slot that is being loaded may be free soon
        while True:
            try:
                message = self._inbox.get(block=wait != 0, timeout=wait)
            except queue.Empty:
                return
            if message is not None:
                message()
            wait = 0.0

    def _enqueue(self, row: Row) -> None:
        self._rows[row.number] = self._waiting[row.number] = row

    def _cancel(self, number: int) -> None:
        row = self._rows.get(number)
        if row is not None:
            row.cancelled = True
            if number in self._waiting:
                self._end(row, "cancelled")

    def _forget_users(self) -> None:
        """Drop sessions and adapters of forgotten users whose last row has ended."""
        here = {row.request.user for row in self._rows.values()}
        for user, done in [f for f in self._forget_requests if f[0] not in here]:
            self._forget_requests.remove((user, done))
            self.sessions.drop_where(partial(_is_of_user, user))
            if self.slots is not None:
                self.slots.forget(user)
            done.set()

    def _forget_user(self, user: str, done: threading.Event) -> None:
        for row in [r for r in self._rows.values() if r.request.user == user]:
            self._cancel(row.number)
        self._forget_requests.append((user, done))

    def _admit(self) -> None:
        if not self._waiting or len(self._rows) - len(self._waiting) >= self.config.rows:
            return
        now, running = time.monotonic(), [r for r in self._rows.values() if r.number not in self._waiting]
        waits = [
            scheduler.Waiting(r.number, r.request.user, r.longest, r.key, now - r.arrived)
            for r in self._waiting.values()
        ]
        runs = [scheduler.Running(r.request.user, r.longest, r.key) for r in running]
        config, tokens = self.config, self.config.kv_bytes // self.runner.token_bytes
        limits = scheduler.Limits(config.rows, tokens, self.runner.slots, config.patience)
        rows = [self._waiting[number] for number in scheduler.plan(waits, runs, limits)]
        self._start_rows([row for row in rows if self._placed(row, now)])

    def _placed(self, row: Row, now: float) -> bool:
        """Whether the row can start now. It is admitted when there is a slot for its adapter, and starts when the
        adapter is loaded."""
        ready = True
        if row.request.adapter is not None and self.slots is not None:
            busy = {key for r in self._rows.values() if r.slot >= 0 and (key := r.key) is not None}
            placement = self.slots.place(row.request.adapter, busy)
            if placement is None:
                return False
            row.slot, ready = placement.slot, placement.ready
            if not ready:
                self._loading.setdefault(row.request.adapter.key, []).append(row)
        row.admitted = now
        self._dequeue(row)
        return ready

    def _on_load(self, key: Key, error: StillhouseError | None) -> None:
        """The thread that loads adapters calls this."""
        self._inbox.put(lambda: self._adapter_loaded(key, error))

    def _adapter_loaded(self, key: Key, error: StillhouseError | None) -> None:
        """Start the rows of an adapter that is in its slot, or fail them when it cannot be loaded."""
        assert self.slots is not None, "only slots load adapters"
        self.slots.loaded(key, error)
        rows = self._loading.pop(key, [])
        for row in rows:
            if error is not None:
                self._fail(row, error)
            elif row.cancelled:
                self._end(row, "cancelled")
        if error is None:
            self._start_rows([row for row in rows if not row.cancelled])

    def _start_rows(self, rows: Sequence[Row]) -> None:
        """Group rows whose prompts are read together, within the tokens of one step. A long prompt is read alone."""
        saved = {row: self._from_session(row) for row in rows}
        left = sorted(rows, key=lambda row: row.length - row.cached)
        group_size = 1 if self.config.deterministic else len(left)
        while left:
            widths = [row.length - row.cached for row in left[:group_size]]
            count = scheduler.prefill_group(widths, self.config.prefill_tokens)
            group, left = left[:count], left[count:]
            more = min(group[-1].length - group[-1].cached, self.config.prefill_tokens)
            for row in group:
                row.computed = row.cached = min(row.cached, max(row.length - more, 0))
                self._counts["prefix_hits"] += row.cached
            self._prefilling.append(RowBatch(self.runner, group, [(saved[row], row.cached) for row in group], more))

    def _from_session(self, row: Row) -> SavedRow | None:
        """The saved row of an earlier turn of the session. Sets `row.cached` to the tokens of the prompt that it
        has."""
        if row.request.session is None or self.config.deterministic:
            return None
        self._counts["prefix_queries"] += row.length
        saved, row.cached = self.sessions.take(row.session, row.request.prompt)
        return saved

    def _step(self) -> None:
        """Read a piece of prompts and decode one token of every other row, in one forward if possible."""
        self._remove_cancelled()
        start = time.monotonic()
        tokens = self._mixed_step()
        if tokens is None:
            tokens = None if self._prefill_step() or not self._decoding else 0
            self._decode_step()
        if tokens is not None:
            self._prefill_budget.record(time.monotonic() - start, tokens)
        self._remove_empty()

    def _remove_cancelled(self) -> None:
        """Cancelled rows leave. Rows whose prompts are being read leave when their whole batch was cancelled."""
        for batch in self._decoding:
            for row in [r for r in batch.rows if r.cancelled]:
                self._leave(batch, row, "cancelled")
        for batch in [b for b in self._prefilling if all(row.cancelled for row in b.rows)]:
            self._end_batch(batch)
        self._remove_empty()

    def _mixed_step(self) -> int | None:
        """Decode, and read a piece of prompts in the same forward. Returns its tokens, or None when nothing was
        computed.

        When more rows wait for their first token than for their next one, prompts are read in forwards of their own.
        """
        waiting, decoding = (sum(map(len, batches)) for batches in (self._prefilling, self._decoding))
        if not self._mixes or not 0 < waiting <= decoding:
            return None
        read, batch = self._prefilling[0], self._decoding[0]
        least = -(-max(row.length for row in read.rows) // self.config.prompt_steps)
        tokens = max(self._prefill_budget.tokens // len(read), least)
        columns = min(read.left, tokens, max(1, self.config.prefill_tokens // len(read)))
        try:
            logits_BV, first_BV = batch.decode_with(read, columns)
        except Exception:  # noqa: BLE001 - separate forwards follow, and show which of the two fails
            return None
        self._choose(batch, logits_BV)
        self._prefilled(read, first_BV)
        return columns * len(read)

    def _prefill_step(self) -> int:
        """Read pieces of prompts until they have `prefill_tokens` tokens. Returns the tokens that were read."""
        tokens = 0
        while self._prefilling and tokens < self.config.prefill_tokens:
            batch = self._prefilling[0]
            columns = min(batch.left, max(1, self.config.prefill_tokens // len(batch)))
            tokens += columns * len(batch)
            self._prefilled(batch, self._compute(batch, partial(batch.prefill, columns)))
        return tokens

    def _prefilled(self, batch: RowBatch, logits_BV: Tensor | None) -> None:
        """A piece of the first batch's prompts was read. When there are logits, choose the first tokens."""
        if logits_BV is not None or not batch.rows:
            self._prefilling.popleft()
        if logits_BV is not None:
            self._counts["prompt"] += sum(row.length - row.cached for row in batch.rows)
            self._choose(batch, logits_BV)
            self._join(batch)

    def _join(self, batch: RowBatch) -> None:
        if not batch.rows:
            return
        if self.config.deterministic or not self._decoding:
            self._decoding.append(batch)
        else:
            self._decoding[0].join(batch)

    def _decode_step(self) -> None:
        """Decode one token of every row."""
        for batch in [b for b in self._decoding if b.rows]:
            logits_BV = self._compute(batch, batch.decode)
            if logits_BV is not None:
                self._choose(batch, logits_BV)

    def _compute(self, batch: RowBatch, forward: Callable[[], Tensor | None]) -> Tensor | None:
        """Compute a forward. When it raises, all rows of the batch fail, and the result is None."""
        try:
            return forward()
        except Exception as error:  # noqa: BLE001 - out of memory, a kernel, an adapter: other batches continue
            self._fail_batch(batch, error)
            return None

    def _choose(self, batch: RowBatch, logits_BV: Tensor) -> None:
        try:
            choices = choose(logits_BV, [row.draw for row in batch.rows])
        except Exception as error:  # noqa: BLE001 - as above
            return self._fail_batch(batch, error)
        now = time.monotonic()
        self._counts["generated"] += len(choices)
        for row, choice in zip(list(batch.rows), choices, strict=True):
            try:
                reason = row.take(choice, self.model.stop_ids, now)
            except RuntimeError:  # the event loop of the sink is closed
                reason = "cancelled"
            if reason is not None:
                self._leave(batch, row, reason)
        return None

    def _leave(self, batch: RowBatch, row: Row, reason: Reason) -> None:
        keep = row.request.session is not None and reason != "cancelled" and not self.config.deterministic
        saved = batch.leave(row, save=keep)
        if saved is not None:
            self.sessions.put(row.session, row.ids[: row.computed], saved)
        self._end(row, reason)

    def _end_batch(self, batch: RowBatch) -> None:
        """End a batch whose rows were all cancelled before their prompts were read."""
        for row in batch.rows:
            self._end(row, "cancelled")
        batch.rows.clear()

    def _fail_batch(self, batch: RowBatch, error: Exception) -> None:
        cause = error if isinstance(error, StillhouseError) else None
        for row in list(batch.rows):
            self._fail(row, cause or ModelError(f"the model failed: {type(error).__name__}: {error}".splitlines()[0]))
        batch.rows.clear()

    def _remove_empty(self) -> None:
        self._decoding = [b for b in self._decoding if b.rows]
        self._prefilling = deque(b for b in self._prefilling if b.rows)

    def _fail_running(self, error: Exception) -> None:
        """Fail all running rows: an error outside of a forward may have damaged all keys and values."""
        loading = {row.number for rows in self._loading.values() for row in rows}
        running = [r for r in self._rows.values() if r.number not in self._waiting and r.number not in loading]
        self._prefilling.clear()
        self._decoding.clear()
        for row in running:
            self._fail(row, ModelError(f"the engine failed: {type(error).__name__}: {error}".splitlines()[0]))

    def _end(self, row: Row, reason: Reason) -> None:
        self._finish(row, row.done(reason, time.monotonic()))

    def _fail(self, row: Row, error: StillhouseError) -> None:
        self._finish(row, Failed(error))

    def _finish(self, row: Row, event: Done | Failed) -> None:
        """Remove a row and send its last event."""
        self._dequeue(row)
        self._rows.pop(row.number, None)
        with contextlib.suppress(RuntimeError):  # the event loop of the sink is closed
            row.sink(event)

    def _dequeue(self, row: Row) -> None:
        if self._waiting.pop(row.number, None) is not None:
            self._admission.leave(row.request.user)


def _is_of_user(user: str, key: Session) -> bool:
    return key[0] == user
