"""State: settings, a request, the row it is while it runs, and what is told of it.

In: nothing but values. Out: frozen `Request` and events; `Row`, which the engine alone changes. It does not know
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
Session = tuple[str | None, str | None, Key | None]  # of a user, with one adapter


@dataclass(frozen=True)
class Request:
    """One answer wanted. `session`: whose earlier keys and values may be used again, and which this one leaves."""

    prompt: tuple[int, ...]
    sampling: Sampling = GREEDY
    user: str | None = None
    adapter: Adapter | None = None
    session: str | None = None


@dataclass(frozen=True)
class Piece:
    """One token, and the text it let be said, which may be empty."""

    text: str
    choice: Choice
    at: float  # time.monotonic()


@dataclass(frozen=True)
class Done:
    """The end of an answer; `text` is what was still held back."""

    text: str
    reason: Reason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    arrived: float  # these four: time.monotonic()
    admitted: float
    first: float  # the first token, or the end where there is none
    at: float


@dataclass(frozen=True)
class Failed:
    """The answer could not be made, or not to its end."""

    error: StillhouseError


@dataclass(frozen=True)
class Config:
    """`rows`: answered at once; `prefill_tokens`: of prompts, read in one step that nobody waits for; beside rows that
    are being answered a prompt is read in pieces, so small that a step takes at most `stretch` times as long, and so
    large that `prompt_steps` steps read it whole. `kv_bytes`: for running rows, and `session_bytes`: for idle sessions;
    `packed_bytes`: for weights packed for a CPU. `queue`: rows that may wait, `queue_per_user` of one user."""

    rows: int = 32
    prefill_tokens: int = 512
    stretch: float = 1.4
    prompt_steps: int = 32
    kv_bytes: int = 2 * 2**30
    session_bytes: int = 512 * 2**20
    packed_bytes: int = 4 * 2**30
    queue: int = 256
    queue_per_user: int = 64
    patience: float = 2.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.stretch <= 1:
            raise InputError(f"engine.stretch: {self.stretch} is not allowed; more than 1, the time of a step alone")
        for name in ("rows", "prefill_tokens", "prompt_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"engine.{name}: {getattr(self, name)} is not allowed; at least 1")


@dataclass(frozen=True)
class Stats:
    """What the engine is doing, and counts since it started."""

    running: int
    waiting: int
    kv_bytes: int
    kv_share: float
    sessions: int
    session_bytes: int
    session_evictions: int
    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generated_tokens: int
    hot: int
    slot_hits: int
    slot_loads: int
    slot_evictions: int


Event = Piece | Done | Failed
Sink = Callable[[Event], None]


@dataclass(eq=False)
class Row:
    """A request on its way. `fed`: how many of its tokens have keys and values."""

    number: int
    request: Request
    sink: Sink
    stream: TextStream
    arrived: float
    admitted: float = 0.0
    first: float = 0.0
    slot: int = -1
    fed: int = 0
    cached: int = 0
    out: list[int] = field(default_factory=list)
    cancelled: bool = False

    @property
    def ids(self) -> list[int]:
        """Prompt and answer so far."""
        return [*self.request.prompt, *self.out]

    @property
    def length(self) -> int:
        """Tokens of its prompt."""
        return len(self.request.prompt)

    @property
    def longest(self) -> int:
        """Tokens it may become."""
        return self.length + self.request.sampling.max_new_tokens

    @property
    def key(self) -> Key | None:
        """Which adapter it is answered with."""
        return self.request.adapter.key if self.request.adapter is not None else None

    @property
    def session(self) -> Session:
        """What its keys and values are kept under."""
        return self.request.user, self.request.session, self.key

    @property
    def draw(self) -> Draw:
        """What its next token depends on."""
        sampling = self.request.sampling
        return Draw(sampling, len(self.out), self.ids if sampling.repetition_penalty != 1 else ())

    def take(self, choice: Choice, stop_ids: frozenset[int], now: float) -> Reason | None:
        """One more token: say it, and why the answer ends here if it does."""
        if choice.token in stop_ids:
            return "stop"
        self.out.append(choice.token)
        self.first = self.first or now
        self.sink(Piece(self.stream.push(choice.token), choice, now))
        if self.stream.stopped:
            return "stop"
        return "length" if len(self.out) >= self.request.sampling.max_new_tokens else None

    def done(self, reason: Reason, now: float) -> Done:
        """What is said at the end."""
        prompt = len(self.request.prompt)
        text = self.stream.finish()
        admitted, first = self.admitted or now, self.first or now
        return Done(text, reason, prompt, self.cached, len(self.out), self.arrived, admitted, first, now)
