"""The engine's records: settings, requests, the row of a request while it runs, and events.

In: plain values. Out: frozen `Request` and events; `Row`, which the engine alone changes. This module does not know
tensors, HTTP or the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ...errors import InputError, StillhouseError
from ...generate import GREEDY, Choice, Draw, Sampling
from .adapters import Adapter, Key
from .detokenize import TextStream

Reason = Literal["stop", "length", "cancelled"]
Session = tuple[str | None, str | None, Key | None]  # user, session name, adapter


@dataclass(frozen=True)
class Request:
    """A request for one answer."""

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling = GREEDY
    """How tokens are chosen, and how many at most."""
    user: str | None = None
    """Who asks. Rows are admitted fairly between users, and None counts as one user."""
    adapter: Adapter | None = None
    """The adapter that answers; None: the base alone."""
    session: str | None = None
    """The user's name for a conversation. Its keys and values are reused, and kept for the next turn; None: neither."""


@dataclass(frozen=True)
class Piece:
    """One token of an answer."""

    text: str
    """The text that is certain since this token; it may be empty."""
    choice: Choice
    """The token, with the log-probabilities that were asked for."""
    at: float
    """When it was chosen, by `time.monotonic()`."""


@dataclass(frozen=True)
class Done:
    """The end of an answer. All times are by `time.monotonic()`."""

    text: str
    """The last text, which was withheld until now."""
    reason: Reason
    """Why the answer ended: a stop token or string, its length, or a cancellation."""
    prompt_tokens: int
    """Tokens of the prompt."""
    cached_tokens: int
    """Tokens of the prompt whose keys and values the session had."""
    completion_tokens: int
    """Tokens of the answer, without the stop token."""
    arrived: float
    """When the request was submitted."""
    admitted: float
    """When the row left the queue, or the end when it never did."""
    first: float
    """When the first token was chosen, or the end when there is none."""
    at: float
    """When the answer ended."""


@dataclass(frozen=True)
class Failed:
    """The answer failed, possibly after some tokens."""

    error: StillhouseError
    """Why it failed."""


@dataclass(frozen=True)
class Config:
    """The engine's settings."""

    rows: int = 32
    """Answers that are generated at once, at least 1. They share each reading of the weights. Other requests wait."""
    prefill_tokens: int = 512
    """Tokens of prompts that a step reads while no row is decoded, at least 1. It bounds the memory of one forward."""
    stretch: float = 1.4
    """While rows are decoded, prompts are read in pieces so small that a step takes about this many times as long as
    without. More than 1: larger values give earlier first tokens, and slower next ones."""
    prompt_steps: int = 32
    """A prompt is read in at most this many pieces, even when a step then takes longer than `stretch` allows; at least
    1. It keeps a long prompt from waiting for its first token without end."""
    kv_bytes: int = 2 * 2**30
    """Bytes for keys and values of running rows. It also bounds the tokens of one request."""
    session_bytes: int = 512 * 2**20
    """Bytes for keys and values of idle sessions. The least recently used are dropped first."""
    packed_bytes: int = 4 * 2**30
    """Bytes for copies of float32 weights in an order that a CPU multiplies faster; 0: no copies. An accelerator needs
    none."""
    queue: int = 256
    """Rows that may wait. A further request is refused as overloaded."""
    queue_per_user: int = 64
    """Rows of one user that may wait: a quarter of the queue, so that one user cannot fill it."""
    patience: float = 2.0
    """Seconds that smaller rows may overtake a waiting row that does not fit. Later arrivals wait after that."""
    deterministic: bool = False
    """True: each row is a forward of its own, so its tokens do not depend on other rows. This is slower, so it is off
    by default."""

    def __post_init__(self) -> None:
        if self.stretch <= 1:
            raise InputError(f"engine.stretch: {self.stretch} is not allowed; more than 1, the time of a step alone")
        for name in ("rows", "prefill_tokens", "prompt_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"engine.{name}: {getattr(self, name)} is not allowed; at least 1")


@dataclass(frozen=True)
class Stats:
    """What the engine is doing now, and counts since it started."""

    running: int
    """Rows that were admitted and have not ended."""
    waiting: int
    """Rows in the queue."""
    kv_bytes: int
    """Bytes that are allocated for keys and values of running rows."""
    kv_share: float
    """`kv_bytes` as a part of `Config.kv_bytes`."""
    sessions: int
    """Idle sessions whose keys and values are kept."""
    session_bytes: int
    """Their bytes."""
    session_evictions: int
    """Sessions that were dropped for lack of room, since the start."""
    prefix_queries: int
    """Prompt tokens of requests in sessions, since the start."""
    prefix_hits: int
    """Those of them whose keys and values the session had."""
    prompt_tokens: int
    """Prompt tokens that were read, since the start."""
    generated_tokens: int
    """Tokens that were chosen, since the start."""
    hot: int
    """Adapters in slots now."""
    slot_hits: int
    """Rows whose adapter was in a slot or being loaded, since the start."""
    slot_loads: int
    """Adapters that were loaded into a slot, since the start."""
    slot_evictions: int
    """Adapters that lost their slot to another, since the start."""


Event = Piece | Done | Failed
Sink = Callable[[Event], None]


@dataclass(eq=False)
class Row:
    """The state of a request until it ends. All times are by `time.monotonic()`; 0 means not yet."""

    number: int
    """What `Engine.cancel` takes."""
    request: Request
    sink: Sink
    """Where its events go."""
    stream: TextStream
    """Turns its tokens into text."""
    arrived: float
    """When it was submitted."""
    admitted: float = 0.0
    """When it left the queue."""
    first: float = 0.0
    """When its first token was chosen."""
    slot: int = -1
    """The adapter's slot in the runner; -1: the base, or none yet."""
    computed: int = 0
    """How many of its tokens have keys and values in the cache."""
    cached: int = 0
    """How many of its prompt's tokens the session had."""
    output: list[int] = field(default_factory=list)
    """Tokens of the answer so far."""
    cancelled: bool = False
    """Whether it is to end as soon as possible."""

    @property
    def ids(self) -> list[int]:
        """Prompt and answer so far."""
        return [*self.request.prompt, *self.output]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer at most."""
        return self.length + self.request.sampling.max_new_tokens

    @property
    def key(self) -> Key | None:
        """The key of its adapter; None: the base alone."""
        return self.request.adapter.key if self.request.adapter is not None else None

    @property
    def session(self) -> Session:
        """The key of its session in the session cache."""
        return self.request.user, self.request.session, self.key

    @property
    def draw(self) -> Draw:
        """What its next token depends on in addition to the logits."""
        sampling = self.request.sampling
        return Draw(sampling, len(self.output), self.ids if sampling.repetition_penalty != 1 else ())

    def take(self, choice: Choice, stop_ids: frozenset[int], now: float) -> Reason | None:
        """Add one more token and tell the sink. Returns why the answer ends here, or None when it goes on."""
        if choice.token in stop_ids:
            return "stop"
        self.output.append(choice.token)
        self.first = self.first or now
        self.sink(Piece(self.stream.push(choice.token), choice, now))
        if self.stream.stopped:
            return "stop"
        return "length" if len(self.output) >= self.request.sampling.max_new_tokens else None

    def done(self, reason: Reason, now: float) -> Done:
        """The last event, for an answer that ends now."""
        prompt = len(self.request.prompt)
        text = self.stream.finish()
        admitted, first = self.admitted or now, self.first or now
        return Done(text, reason, prompt, self.cached, len(self.output), self.arrived, admitted, first, now)
