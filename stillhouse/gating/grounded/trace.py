"""What happened in a run of the behavioural gates, token by token: written as JSONL, read back, judged again.

In: the responses of a run with the prompts and answers they came from. Out: lines of exactly eight fields (`FIELDS`),
of three kinds, in the order token, layer, response for every prompt:

- a response has neither `token_idx` nor `layer_idx`: `citations`, `refusal`, `coherence_score`, `stop_reason`;
- a token has a `token_idx`: `coherence_score` is the probability that the student gave it;
- a layer of a token has both: `routing` names the experts that base and student chose for it.

What a kind does not have is null. A response stands after its tokens, so one that was read has all of them; a file that
ends in the middle is cut off, and says so. It holds spans of answers that cite, and no other text.

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
from ..replies import refuse_nan
from .responses import Response
from .trace_lines import Layer, Token, line, parsed


@dataclass(frozen=True)
class Trace:
    """`cut_off`: the file ends before its run did; then only responses that are whole are in it."""

    name: str
    responses: tuple[Response, ...]
    tokens: tuple[Token, ...]
    layers: tuple[Layer, ...]
    cut_off: bool = False

    def of(self, expected: Sequence[str]) -> list[Response]:
        """The responses to these prompts, in their order. `InputError` where one is missing: a verdict on a part of
        the prompts would be another verdict."""
        found = {r.prompt_id: r for r in self.responses}
        missing = [name for name in expected if name not in found]
        if missing:
            raise InputError(
                f"{self.name}: {len(expected) - len(missing)} of {len(expected)} prompts are in this trace, "
                f"{missing[0]} is not; it was cut off, or made with another study, suite or corpus: write it again"
            )
        return [found[name] for name in expected]


def followed(
    runner: Runner, slot: int, prompt_id: str, prompt: Sequence[int], answer: Sequence[int]
) -> Iterator[Token | Layer]:
    """Every token of an answer, and every layer of it that has a router; one pass over base and student."""
    if not answer:
        return
    both = tuple(runner.read([[*prompt, *answer]] * 2, [BASE, slot], Watch(experts=True)))
    logits_TV = both[1].logits(len(prompt) - 1, -1)
    refuse_nan(logits_TV)
    answer_T1 = torch.tensor(answer, device=logits_TV.device)[:, None]
    given_T = logits_TV.softmax(-1).gather(1, answer_T1)[:, 0].tolist()
    chosen = [[e_TK[len(prompt) :].sort(-1).values.tolist() for e_TK in reading.experts] for reading in both]
    layers = list(zip(*chosen, strict=True))
    for number, probability in enumerate(given_T):
        yield Token(prompt_id, number, probability)
        for layer, (base, student) in enumerate(layers):
            yield Layer(prompt_id, number, layer, tuple(base[number]), tuple(student[number]))


def trace_target(path: Path | str) -> Path:
    """Where a trace of this name is written. `InputError` for a folder, or a file in a folder that is not there."""
    target = Path(path).expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{str(path)!r} is no file that can be written; name one in a folder that exists")
    return target


def write_trace(path: Path | str, records: Iterator[Token | Layer | Response]) -> None:
    """Write records one a line; the file appears whole or not at all. `StoreError` where it cannot be written."""
    target = trace_target(path)
    partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    try:
        with writing(target):
            with partial.open("wb") as file:
                file.writelines(line(record).encode() for record in records)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            sync_folder(target.parent)
    finally:
        discard(partial)


def read_trace(path: Path | str, whole: bool = True) -> Trace:
    """The records of a trace. `InputError`: missing, a line that is not in the form above, a response that comes twice,
    and with `whole` a file that is cut off; without it, what is whole is read and `cut_off` is set."""
    found, cut_off = _records(Path(path).expanduser(), path)
    responses = {r.prompt_id: r for r in found if isinstance(r, Response)}
    if len(responses) < sum(isinstance(r, Response) for r in found):
        raise InputError(f"{path}: a response comes twice; a trace holds one run")
    rest = [r for r in found if not isinstance(r, Response)]
    cut_off = cut_off or any(r.prompt_id not in responses for r in rest) or not responses
    if whole and cut_off:
        raise InputError(
            f"{path}: the trace is cut off after {len(responses)} whole responses; a verdict needs all: write it again"
        )
    kept = [r for r in rest if r.prompt_id in responses]
    tokens = tuple(r for r in kept if isinstance(r, Token))
    layers = tuple(r for r in kept if isinstance(r, Layer))
    return Trace(str(path), tuple(responses.values()), tokens, layers, cut_off)


def _records(file: Path, path: Path | str) -> tuple[list[Token | Layer | Response], bool]:
    """Records in order, and whether the last line is cut off."""
    found: list[Token | Layer | Response] = []
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.endswith(b"\n"):
                    return found, True
                found.append(parsed(_object(raw, f"{path}: line {number}"), f"{path}: line {number}"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; a trace is a JSONL file") from error
    return found, False


def _object(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not JSON; a trace has one object a line") from error
