"""The nouns: frozen records that stages hand to each other. A record's identity is the digest of its content.

In: plain values. Out: canonical JSON and SHA-256 digests; the digests of a record's `parents` are part of its content,
so lineage is a field and equal work has an equal name. Records hold no tensors: bytes live in `blobs.py`, and a record
names them by digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .errors import StoreError

R = TypeVar("R")

Use = Literal["train", "held_out"]
Direction = Literal["forward", "reverse", "cloze", "unknown"]


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, no NaN. Dataclasses become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of bytes, or of a value's canonical JSON."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()


def from_mapping(kind: type[R], values: Mapping[str, Any]) -> R:
    """Read a record back. Unknown or missing fields mean another version wrote it: `StoreError` says which."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    extra = sorted(set(values) - set(fields))
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(values))
    if extra or missing:
        raise StoreError(f"{kind.__name__}: unknown fields {extra}, missing fields {missing}: written by another version")
    return kind(**{name: _revive(fields[name].type, value) for name, value in values.items()})


def _revive(annotation: Any, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    element = next((k for name, k in _ELEMENTS.items() if f"tuple[{name}" in str(annotation)), None)
    return tuple(from_mapping(element, v) if element else v for v in value)


@dataclass(frozen=True)
class Statement:
    """One statement of a memory: a byte span `[start, end)` of its UTF-8 text."""

    index: int
    start: int
    end: int
    text: str
    instruction: bool = False  # reads like an order to the model: kept as data, never the target of a question


@dataclass(frozen=True)
class Question:
    """One question with the answer expected of whoever knows the memory."""

    text: str
    answer: str
    statement: int | None  # the statement it targets; None for questions the memory does not answer
    direction: Direction = "forward"
    use: Use = "train"


@dataclass(frozen=True)
class Study:
    """What self-study made of one memory: its statements, and questions tied to them."""

    statements: tuple[Statement, ...]
    questions: tuple[Question, ...]

    def covered(self, statement: int, wordings: int = 3) -> bool:
        """Whether a statement has `wordings` differently worded forward questions and a reverse one."""
        mine = [q for q in self.questions if q.statement == statement]
        forward = {q.text for q in mine if q.direction == "forward"}
        return len(forward) >= wordings and any(q.direction == "reverse" for q in mine)


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


_ELEMENTS: dict[str, type] = {"Statement": Statement, "Question": Question, "GateResult": GateResult}
