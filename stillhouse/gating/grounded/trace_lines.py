"""One line of a trace, written and read: a record to JSON, and JSON back to a record with every field checked.

In: a `TokenRecord`, a `LayerRecord` or a `ResponseRecord`; or the JSON object of one line. Out: the line; or the
record, or `InputError` naming the field and what it must be. A record that is written and read back is equal, number
for number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from ...errors import InputError
from .citations import Citation
from .evidence import LABELS, CorpusEvidence
from .responses import ResponseRecord


class TraceLine(TypedDict):
    """The fields of every line, in their order. A field is null where this kind of line does not have it."""

    prompt_id: str
    token_idx: int | None
    layer_idx: int | None
    routing: dict[str, Any] | None
    citations: dict[str, Any] | None
    refusal: dict[str, Any] | None
    coherence_score: float | None
    stop_reason: str | None


FIELDS = tuple(TraceLine.__annotations__)
_CHOSEN = ("base", "student", "same")
_CITED, _CITATION = ("given", "relevant"), ("passage", "span", "valid")
_SIGNALS = ("redundancy", "disagreement", "fragility")
_REFUSED = ("expected", "refused", "label", *_SIGNALS)


@dataclass(frozen=True)
class TokenRecord:
    """One token of an answer."""

    prompt_id: str
    token_idx: int  # from 0
    probability: float  # that the student gave it


@dataclass(frozen=True)
class LayerRecord:
    """The experts that base and student chose for one token in one layer with a router."""

    prompt_id: str
    token_idx: int
    layer_idx: int  # from 0, among the layers with a router
    base: tuple[int, ...]  # sorted
    student: tuple[int, ...]  # sorted


TraceRecord = TokenRecord | LayerRecord | ResponseRecord


def trace_line(record: TraceRecord) -> str:
    """The record as one line of JSON with every field of `FIELDS`, its line break included."""
    row: dict[str, Any] = dict.fromkeys(FIELDS) | {"prompt_id": record.prompt_id}
    if isinstance(record, TokenRecord):
        row |= {"token_idx": record.token_idx, "coherence_score": record.probability}
    elif isinstance(record, LayerRecord):
        chosen = {"base": record.base, "student": record.student, "same": record.base == record.student}
        row |= {"token_idx": record.token_idx, "layer_idx": record.layer_idx, "routing": chosen}
    else:
        row |= _response_fields(record)
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _response_fields(record: ResponseRecord) -> dict[str, Any]:
    evidence = record.evidence
    signals = {name: getattr(evidence, name) if evidence else None for name in _SIGNALS}
    refusal = {"expected": record.expected, "refused": record.refused, "label": record.label, **signals}
    given = [asdict(c) for c in record.citations]
    cited = {"given": given, "relevant": evidence.support} if evidence else None
    return {
        "citations": cited, "refusal": refusal, "coherence_score": record.coherence_score,
        "stop_reason": record.stop_reason,
    }  # fmt: skip


def parse_record(row: Any, where: str) -> TraceRecord:
    """The record of one line's JSON object. Raises `InputError`, which begins with `where`."""
    row = _mapping(row, FIELDS, where)
    name = row["prompt_id"]
    _need(isinstance(name, str) and bool(name), where, "prompt_id", name, "a text that is not empty")
    if row["token_idx"] is None:
        _only(row, ("citations", "refusal", "coherence_score", "stop_reason"), where)
        return _read_response(name, row, where)
    _need(_is_count(row["token_idx"]), where, "token_idx", row["token_idx"], "a whole number from 0, or null")
    if row["layer_idx"] is None:
        _only(row, ("token_idx", "coherence_score"), where)
        return TokenRecord(name, row["token_idx"], _probability(row["coherence_score"], f"{where}: coherence_score"))
    _need(_is_count(row["layer_idx"]), where, "layer_idx", row["layer_idx"], "a whole number from 0, or null")
    _only(row, ("token_idx", "layer_idx", "routing"), where)
    base, student = _chosen(row["routing"], f"{where}: routing")
    return LayerRecord(name, row["token_idx"], row["layer_idx"], base, student)


def _chosen(value: Any, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both sets of experts. The field `same` is there for readers, and has to agree with them."""
    row = _mapping(value, _CHOSEN, where)
    for side in ("base", "student"):
        good = isinstance(row[side], list) and all(_is_count(e) for e in row[side])
        _need(good, where, side, row[side], "a list of numbers of experts")
    base, student = (tuple(sorted(row[side])) for side in ("base", "student"))
    _need(row["same"] is (base == student), where, "same", row["same"], f"{base == student} for these experts")
    return base, student


def _read_response(name: str, row: Mapping[str, Any], where: str) -> ResponseRecord:
    _need(row["stop_reason"] in ("stop", "length"), where, "stop_reason", row["stop_reason"], "'stop' or 'length'")
    refusal = _mapping(row["refusal"], _REFUSED, f"{where}: refusal")
    for key in ("expected", "refused"):
        _need(isinstance(refusal[key], bool), f"{where}: refusal", key, refusal[key], "true or false")
    score = _probability(row["coherence_score"], f"{where}: coherence_score")
    plain = ResponseRecord(name, refusal["expected"], refusal["refused"], score, row["stop_reason"])
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
    signals = (_number(refusal[name], f"{where}: refusal: {name}") for name in _SIGNALS)
    evidence = CorpusEvidence(tuple(cited["relevant"]), *signals)
    return replace(plain, citations=given, evidence=evidence, label=label)


def _citation(value: Any, where: str) -> Citation:
    row = _mapping(value, _CITATION, where)
    _need(isinstance(row["valid"], bool), where, "valid", row["valid"], "true or false")
    for key in ("passage", "span"):
        _need(isinstance(row[key], str), where, key, row[key], "a text")
    return Citation(row["passage"], row["span"], row["valid"])


def _mapping(value: Any, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(keys):
        actual = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"{value!r:.60}"
        raise InputError(f"{where}: found {actual}; it must have exactly {', '.join(keys)}")
    return value


def _only(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Checks that every field is null, except these keys and the prompt's id."""
    for key in (key for key in row if key not in ("prompt_id", *keys)):
        _need(row[key] is None, where, key, row[key], "null in a line of this kind")


def _number(value: Any, where: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good:
        raise InputError(f"{where} is {value!r:.60}; it must be a number")
    return float(value)


def _probability(value: Any, where: str) -> float:
    number = _number(value, where)
    if not 0 <= number <= 1:
        raise InputError(f"{where} is {number:g}; it must be from 0 to 1")
    return number


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _need(holds: bool, where: str, key: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"{where}: {key} is {value!r:.60}; it must be {wanted}")
