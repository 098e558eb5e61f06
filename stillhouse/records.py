"""The nouns: frozen records that stages hand to each other. A record's identity is the digest of its content.

In: plain values. Out: canonical JSON and SHA-256 digests; the digests of a record's `parents` are part of its content,
so lineage is a field and equal work has an equal name. Records hold no tensors: bytes live in `storage/blobs.py`, and a
record names them by digest.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .errors import StoreError

R = TypeVar("R")

Use = Literal["train", "held_out"]
Direction = Literal["forward", "reverse", "cloze", "request", "unknown"]


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, no NaN. Dataclasses, wherever they stand, become objects.

    A field that came later (`metadata={"later": True}`) is left out at its default: older records keep their digests.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_fields_of
    )
    return text.encode()


def _fields_of(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: x for f, x in given if not f.metadata.get("later") or x != f.default}
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def digest(value: Any) -> str:
    """SHA-256 (hex) of bytes, or of a value's canonical JSON."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()


def from_mapping(kind: type[R], values: Mapping[str, Any]) -> R:
    """Read a record back, records inside it included.

    Unknown or missing fields mean that another version wrote it, and anything but an object is damage: `StoreError`
    says which. Scalars are taken as they are: whoever reads a file compares its digest first.
    """
    if not isinstance(values, Mapping):
        raise StoreError(f"{kind.__name__}: expected an object, found {values!r:.60}: the store is damaged")
    hints, required = _layout(kind)  # type: ignore[arg-type]
    extra, missing = sorted(set(values) - set(hints)), sorted(required - set(values))
    if extra or missing:
        raise StoreError(
            f"{kind.__name__}: unknown fields {extra}, missing fields {missing}: written by another version"
        )
    return kind(**{name: _revive(hints[name], value, f"{kind.__name__}: {name}") for name, value in values.items()})


@functools.cache
def _layout(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of a record's fields, and the names of those without a default."""
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    none = dataclasses.MISSING
    required = frozenset(f.name for f in fields if f.default is none and f.default_factory is none)
    return {f.name: hints[f.name] for f in fields}, required


def _revive(hint: Any, value: Any, where: str) -> Any:
    """JSON's value as the field's type: objects become records, lists become tuples."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value)
    if typing.get_origin(hint) is not tuple:
        return value
    if not isinstance(value, list | tuple):
        raise StoreError(f"{where}: expected a list, found {value!r:.60}: the store is damaged")
    element = typing.get_args(hint)[0]
    return tuple(_revive(element, v, where) for v in value)


@dataclass(frozen=True)
class Context:
    """Where a statement stands. Every part may be empty."""

    headings: tuple[str, ...] = ()  # outermost first: headings, parents in a nested list, the label of a table's row
    speaker: str = ""
    date: str = ""  # as it is written, or ISO 8601 where that is certain


@dataclass(frozen=True)
class Statement:
    """One statement of a memory: a byte span `[start, end)` of its UTF-8 text."""

    index: int
    start: int
    end: int
    text: str
    instruction: bool = False  # reads like an order to the model: kept as data, never the target of a question
    context: Context = field(default=Context(), metadata={"later": True})

    def told(self) -> str:
        """The statement with what a reader needs to understand it alone: "Kitchen > Boiler: red valve by the sink"."""
        speaker, date = self.context.speaker, self.context.date
        who = f"{speaker} ({date})" if speaker and date else speaker or date
        return ": ".join(part for part in (" > ".join(self.context.headings), who, self.text) if part)


@dataclass(frozen=True)
class LeftOut:
    """A byte span `[start, end)` of a memory that is in no statement, and why: "a heading", "a question", "code"."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True)
class Update:
    """Two statements that cannot both hold, by their indices: the later one holds."""

    earlier: int
    later: int


@dataclass(frozen=True)
class Reading:
    """A memory read whole: every byte that is no space is in a statement or left out with a reason."""

    statements: tuple[Statement, ...]
    left_out: tuple[LeftOut, ...] = ()
    updates: tuple[Update, ...] = ()

    def holding(self) -> tuple[Statement, ...]:
        """The statements that state something and that no later one replaces: orders to a model are not among them."""
        replaced = {update.earlier for update in self.updates}
        return tuple(s for s in self.statements if not s.instruction and s.index not in replaced)


@dataclass(frozen=True)
class Question:
    """One question with the answer expected of whoever knows the memory."""

    text: str
    answer: str
    statement: int | None  # the statement it targets; None for questions the memory does not answer
    direction: Direction = "forward"
    use: Use = "train"
    teacher: str = ""  # what the teacher answered with the memory in its context


@dataclass(frozen=True)
class Study:
    """What self-study made of one memory: its statements, and questions tied to them."""

    statements: tuple[Statement, ...]
    questions: tuple[Question, ...]
    left_out: tuple[LeftOut, ...] = field(default=(), metadata={"later": True})  # what has words in it
    updates: tuple[Update, ...] = field(default=(), metadata={"later": True})

    @property
    def targets(self) -> tuple[Statement, ...]:
        """The statements that questions are asked about."""
        return Reading(self.statements, self.left_out, self.updates).holding()

    def covered(self, statement: int, wordings: int = 3) -> bool:
        """Whether a student can train on `wordings` differently worded forward questions and a reverse one."""
        trained = [q for q in self.questions if q.statement == statement and q.use == "train"]
        forward = {q.text for q in trained if q.direction == "forward"}
        return len(forward) >= wordings and any(q.direction == "reverse" for q in trained)


@dataclass(frozen=True)
class Signals:
    """A teacher's signals for one memory: an immutable Parquet shard and the study it came from."""

    user: str
    memory: str  # digest of the memory's bytes
    base: str  # fingerprint of the teacher, which is also the student's base
    shard: str  # blob: Parquet of DistillArtifact rows
    study: str  # blob: canonical JSON of Study
    config: dict[str, Any]
    examples: int
    positions: int
    memory_tokens: int
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class BestStep:
    """What validation came to: weights are those of this step, the best one on examples held out from training."""

    step: int  # steps after which it was measured
    loss: float  # on the held-out examples, in the unit of the training's loss
    stopped_early: bool  # whether training ended because later ones were no better

    def line(self, steps: int) -> str:
        """For people, of a training of so many steps."""
        early = ", stopped early" if self.stopped_early else ""
        return f"best after step {self.step} of {steps}, held-out loss {self.loss:.4f}{early}"


@dataclass(frozen=True)
class Candidate:
    """A trained adapter that no gate has judged yet."""

    kind: str
    user: str
    base: str
    adapter: str  # blob: adapter_model.safetensors
    adapter_config: dict[str, Any]  # PEFT's adapter_config.json
    config: dict[str, Any]
    steps: int
    losses: tuple[float, ...]
    parents: tuple[str, ...] = ()  # digest of the Signals
    best: BestStep | None = field(default=None, metadata={"later": True})  # None: the last step, nothing was validated


@dataclass(frozen=True)
class GateResult:
    """One measure of a candidate against its threshold."""

    gate: str
    value: float | None  # None: nothing could be measured, which never passes
    threshold: float
    at_least: bool  # True: value must be >= threshold; False: <=
    passed: bool
    n: int
    interval: tuple[float, float] | None = None  # 95 %, same unit as value
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All gates of one candidate. `passed` is the conjunction."""

    candidate: str
    passed: bool
    results: tuple[GateResult, ...]
    config: dict[str, Any]
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """A candidate with its verdict, saved under a number that is never used again."""

    user: str
    number: int
    candidate: str
    verdict: str
    base: str
    base_ref: str
    approved: bool
    created: str  # ISO 8601, UTC
    parents: tuple[str, ...] = ()  # candidate, verdict, signals, memory
