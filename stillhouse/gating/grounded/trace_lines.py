"""One line of a trace, both ways: a record to JSON, and JSON back with every field checked.

In: a `Token`, a `Layer` of one, or a `Response`; or the object of one line. Out: the line; the record, or `InputError`
naming the field and what it must be. Records and lines say the same: what is read back is equal, number for number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from ...errors import InputError
from .citations import Citation
from .evidence import LABELS, Evidence
from .responses import Response


class Line(TypedDict):
    """The fields of every line, in their order; null where a kind of line has no such thing."""

    prompt_id: str
    token_idx: int | None
    layer_idx: int | None
    routing: dict[str, Any] | None
    citations: dict[str, Any] | None
    refusal: dict[str, Any] | None
    coherence_score: float | None
    stop_reason: str | None


FIELDS = tuple(Line.__annotations__)
_CHOSEN = ("base", "student", "same")
_CITED, _CITATION = ("given", "relevant"), ("passage", "span", "valid")
_SIGNALS = ("redundancy", "disagreement", "fragility")
_REFUSED = ("expected", "refused", "label", *_SIGNALS)


@dataclass(frozen=True)
class Token:
    """One token of an answer, counted from 0, and the probability that the student gave it."""

    prompt_id: str
    token_idx: int
    probability: float


@dataclass(frozen=True)
class Layer:
    """The experts that base and student chose for a token in a layer with a router, sorted."""

    prompt_id: str
    token_idx: int
    layer_idx: int
    base: tuple[int, ...]
    student: tuple[int, ...]


def line(record: Token | Layer | Response) -> str:
    """The record as one line with every field of `FIELDS`."""
    row: dict[str, Any] = dict.fromkeys(FIELDS) | {"prompt_id": record.prompt_id}
    if isinstance(record, Token):
        row |= {"token_idx": record.token_idx, "coherence_score": record.probability}
    elif isinstance(record, Layer):
        chosen = {"base": record.base, "student": record.student, "same": record.base == record.student}
        row |= {"token_idx": record.token_idx, "layer_idx": record.layer_idx, "routing": chosen}
    else:
        row |= _response(record)
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _response(record: Response) -> dict[str, Any]:
    told = record.evidence
    signals = {name: getattr(told, name) if told else None for name in _SIGNALS}
    refusal = {"expected": record.expected, "refused": record.refused, "label": record.label, **signals}
    cited = {"given": [asdict(c) for c in record.citations], "relevant": told.support} if told else None
    return {
        "citations": cited, "refusal": refusal, "coherence_score": record.coherence_score,
        "stop_reason": record.stop_reason,
    }  # fmt: skip


def parsed(row: Any, where: str) -> Token | Layer | Response:
    """The record of one line's object."""
    row = _mapping(row, FIELDS, where)
    name = row["prompt_id"]
    _need(isinstance(name, str) and bool(name), where, "prompt_id", name, "a text that is not empty")
    if row["token_idx"] is None:
        _only(row, ("citations", "refusal", "coherence_score", "stop_reason"), where)
        return _read_response(name, row, where)
    _need(_counts(row["token_idx"]), where, "token_idx", row["token_idx"], "a whole number from 0, or null")
    if row["layer_idx"] is None:
        _only(row, ("token_idx", "coherence_score"), where)
        return Token(name, row["token_idx"], _share(row["coherence_score"], f"{where}: coherence_score"))
    _need(_counts(row["layer_idx"]), where, "layer_idx", row["layer_idx"], "a whole number from 0, or null")
    _only(row, ("token_idx", "layer_idx", "routing"), where)
    base, student = _chosen(row["routing"], f"{where}: routing")
    return Layer(name, row["token_idx"], row["layer_idx"], base, student)


def _chosen(value: Any, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both sets of experts; `same` is a convenience for readers and has to agree with them."""
    row = _mapping(value, _CHOSEN, where)
    for side in ("base", "student"):
        good = isinstance(row[side], list) and all(_counts(e) for e in row[side])
        _need(good, where, side, row[side], "a list of numbers of experts")
    base, student = (tuple(sorted(row[side])) for side in ("base", "student"))
    _need(row["same"] is (base == student), where, "same", row["same"], f"{base == student} for these experts")
    return base, student


def _read_response(name: str, row: Mapping[str, Any], where: str) -> Response:
    _need(row["stop_reason"] in ("stop", "length"), where, "stop_reason", row["stop_reason"], "'stop' or 'length'")
    refusal = _mapping(row["refusal"], _REFUSED, f"{where}: refusal")
    for key in ("expected", "refused"):
        _need(isinstance(refusal[key], bool), f"{where}: refusal", key, refusal[key], "true or false")
    score = _share(row["coherence_score"], f"{where}: coherence_score")
    plain = Response(name, refusal["expected"], refusal["refused"], score, row["stop_reason"])
    if row["citations"] is None:
        _only(refusal, ("expected", "refused"), f"{where}: refusal")
        return plain
    label = refusal["label"]
    _need(label in LABELS, f"{where}: refusal", "label", label, f"one of {', '.join(LABELS)}")
    cited = _mapping(row["citations"], _CITED, f"{where}: citations")
    good = isinstance(cited["relevant"], list) and all(isinstance(r, str) for r in cited["relevant"])
    _need(good, f"{where}: citations", "relevant", cited["relevant"], "a list of ids")
    _need(isinstance(cited["given"], list), f"{where}: citations", "given", cited["given"], "a list of citations")
    given = tuple(_citation(c, f"{where}: citations") for c in cited["given"])
    told = Evidence(tuple(cited["relevant"]), *(_number(refusal[s], f"{where}: refusal: {s}") for s in _SIGNALS))
    return Response(name, plain.expected, plain.refused, score, plain.stop_reason, given, told, label)


def _citation(value: Any, where: str) -> Citation:
    row = _mapping(value, _CITATION, where)
    _need(isinstance(row["valid"], bool), where, "valid", row["valid"], "true or false")
    for key in ("passage", "span"):
        _need(isinstance(row[key], str), where, key, row[key], "a text")
    return Citation(row["passage"], row["span"], row["valid"])


def _mapping(value: Any, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(keys):
        found = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"{value!r:.60}"
        raise InputError(f"{where}: found {found}; it must have exactly {', '.join(keys)}")
    return value


def _only(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Everything but these keys, and the prompt's name, is null."""
    for key in (key for key in row if key not in ("prompt_id", *keys)):
        _need(row[key] is None, where, key, row[key], "null in a line of this kind")


def _number(value: Any, where: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good:
        raise InputError(f"{where} is {value!r:.60}; it must be a number")
    return float(value)


def _share(value: Any, where: str) -> float:
    number = _number(value, where)
    if not 0 <= number <= 1:
        raise InputError(f"{where} is {number:g}; it must be from 0 to 1")
    return number


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _need(holds: bool, where: str, key: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"{where}: {key} is {value!r:.60}; it must be {wanted}")
