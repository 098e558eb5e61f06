"""A trace: a run of the behavioural gates, token by token, written as JSONL, and read back to be judged again.

In: the responses of a run, with their prompts and answers. Out: lines of exactly eight fields (`FIELDS`). There are
three kinds of line, and each prompt has them in the order token, layer, response:

- a response has neither `token_idx` nor `layer_idx`: `citations`, `refusal`, `coherence_score`, `stop_reason`;
- a token has a `token_idx`: `coherence_score` is the probability that the student gave it;
- a layer of a token has both: `routing` names the experts that base and student chose for it.

What a kind does not have is null. A response stands after its tokens, so a response that was read has all of them. A
file that ends in the middle is recognised as cut off. A trace has spans of answers that cite, and no other text.

It does not know thresholds. docs/formats/trace.md is its specification.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ...runners import BASE, Runner, Watch
from ...storage.files import PARTIAL, discard, sync_folder, writing
from ..scored_answers import refuse_nan
from .responses import ResponseRecord
from .trace_lines import LayerRecord, TokenRecord, TraceRecord, parse_record, trace_line


@dataclass(frozen=True)
class Trace:
    """The records of one file."""

    name: str  # the file's, as it was given
    responses: tuple[ResponseRecord, ...]
    tokens: tuple[TokenRecord, ...]
    layers: tuple[LayerRecord, ...]
    cut_off: bool = False  # the file ends before its run did; then it has only the responses that are whole

    def responses_to(self, prompt_ids: Sequence[str]) -> list[ResponseRecord]:
        """The responses to these prompts, in their order.

        Raises `InputError` where one is missing: a verdict on a part of the prompts would be another verdict.
        """
        responses = {r.prompt_id: r for r in self.responses}
        missing = [name for name in prompt_ids if name not in responses]
        if missing:
            raise InputError(
                f"{self.name}: {len(prompt_ids) - len(missing)} of {len(prompt_ids)} prompts are in this trace, "
                f"{missing[0]} is not; it was cut off, or made with another study, suite or corpus: write it again"
            )
        return [responses[name] for name in prompt_ids]


def token_records(
    runner: Runner, slot: int, prompt_id: str, prompt: Sequence[int], answer: Sequence[int]
) -> Iterator[TokenRecord | LayerRecord]:
    """Every token of an answer, each followed by its layers that have a router. Base and student share one forward
    pass.
    """
    if not answer:
        return
    both = tuple(runner.read([[*prompt, *answer]] * 2, [BASE, slot], Watch(experts=True)))
    logits_TV = both[1].logits(len(prompt) - 1, -1)
    refuse_nan(logits_TV)
    answer_T1 = torch.tensor(answer, device=logits_TV.device)[:, None]
    probabilities = logits_TV.softmax(-1).gather(1, answer_T1)[:, 0].tolist()
    chosen = [[e_TK[len(prompt) :].sort(-1).values.tolist() for e_TK in reading.experts] for reading in both]
    layers = list(zip(*chosen, strict=True))
    for number, probability in enumerate(probabilities):
        yield TokenRecord(prompt_id, number, probability)
        for layer, (base, student) in enumerate(layers):
            yield LayerRecord(prompt_id, number, layer, tuple(base[number]), tuple(student[number]))


def trace_target(path: Path | str) -> Path:
    """The path that a trace of this name is written to.

    Raises `InputError` where it is a folder, or where its folder does not exist.
    """
    target = Path(path).expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{str(path)!r} is no file that can be written; name one in a folder that exists")
    return target


def write_trace(path: Path | str, records: Iterator[TraceRecord]) -> None:
    """Writes records, one a line. The file appears whole or not at all. Raises `StoreError` where it cannot be
    written."""
    target = trace_target(path)
    partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    try:
        with writing(target):
            with partial.open("wb") as file:
                file.writelines(trace_line(record).encode() for record in records)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            sync_folder(target.parent)
    finally:
        discard(partial)


def read_trace(path: Path | str, whole: bool = True) -> Trace:
    """The trace in a file. With `whole` false, a file that is cut off gives its whole responses, and `cut_off` is set.

    Raises `InputError` where the file is missing, where a line does not have the form above, where a response comes
    twice, and with `whole` where the file is cut off.
    """
    records, cut_off = _records(Path(path).expanduser(), path)
    responses = {r.prompt_id: r for r in records if isinstance(r, ResponseRecord)}
    if len(responses) < sum(isinstance(r, ResponseRecord) for r in records):
        raise InputError(f"{path}: a response comes twice; a trace holds one run")
    rest = [r for r in records if not isinstance(r, ResponseRecord)]
    cut_off = cut_off or any(r.prompt_id not in responses for r in rest) or not responses
    if whole and cut_off:
        raise InputError(
            f"{path}: the trace is cut off after {len(responses)} whole responses; a verdict needs all: write it again"
        )
    kept = [r for r in rest if r.prompt_id in responses]
    tokens = tuple(r for r in kept if isinstance(r, TokenRecord))
    layers = tuple(r for r in kept if isinstance(r, LayerRecord))
    return Trace(str(path), tuple(responses.values()), tokens, layers, cut_off)


def _records(file: Path, path: Path | str) -> tuple[list[TraceRecord], bool]:
    """The records in order, and whether the last line is cut off."""
    records: list[TraceRecord] = []
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.endswith(b"\n"):
                    return records, True
                records.append(parse_record(_object(raw, f"{path}: line {number}"), f"{path}: line {number}"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; a trace is a JSONL file") from error
    return records, False


def _object(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not JSON; a trace has one object a line") from error
