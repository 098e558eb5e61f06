"""Capture a memory: a teacher with the memory in its context writes signals for a student that will not have it.

In: a model and the memory's text. Out: the study (statements, questions tied to them, what is not covered) and
`DistillArtifact`s of three kinds: facts (the teacher's answers from memory), unknowns (questions the memory does not
answer, on which the teacher says so) and anchors (the base's own behaviour on unrelated prompts and text).

The coverage guarantee: every statement gets at least three trained wordings and a reverse question that the teacher
itself answers correctly from the memory, or the study shows it as uncovered. One wording per statement is held out for
the gate. Each chunk's keys and values are computed once and shared by all its queries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import chat, texts
from ..artifacts import DistillArtifact, Kind, position_targets
from ..errors import InputError
from ..generate import Sampling, score
from ..losses import sparsify
from ..models import Model
from ..records import Question, Statement, Study, Use
from ._chunk import Chunk, chunks
from ._chunk import statements as statements
from ._selfstudy import candidates, cloze, decoys, near_misses
from ._teacher import Answer, Reading, Sparsity, example

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Config:
    """`wordings` asked of the teacher per statement; `rounds` of asking again, sampled, where too few were usable."""

    wordings: int = 5
    rounds: int = 2
    chunk_tokens: int = 768
    max_memory_tokens: int = 131_072
    top_k: int = 16
    draws: int = 4
    unknown_per_statement: int = 8
    decoys: int = 64
    anchor_texts: int = 96
    anchor_tokens: int = 32
    anchor_prompts: int = 24
    max_answer_tokens: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"capture.{name}: {getattr(self, name)} is too small; at least {least} is allowed")
        for name in ("top_k", "draws"):
            if getattr(self, name) > 255:  # counted in one byte on disk
                raise InputError(f"capture.{name}: {getattr(self, name)} is too large; at most 255 is allowed")


_LEAST = {
    "wordings": 1, "rounds": 0, "chunk_tokens": 1, "max_memory_tokens": 1, "top_k": 1, "draws": 0,
    "unknown_per_statement": 0, "decoys": 0, "anchor_texts": 0, "anchor_tokens": 0, "anchor_prompts": 0,
    "max_answer_tokens": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Captured:
    """The study, the examples, and how many tokens of memory the student will no longer need in its context."""

    study: Study
    artifacts: tuple[DistillArtifact, ...]
    memory_tokens: int


def check(model: Model, memory: str, config: Config = Config()) -> list[Statement]:
    """The statements of a memory that can be captured.

    Raises `InputError` for a memory without statements or over `max_memory_tokens`, and for a statement that would
    leave this model's context no room to ask about it.
    """
    tokens = len(model.text_ids(memory))
    if tokens > config.max_memory_tokens:
        raise InputError(f"memory has {tokens} tokens; at most {config.max_memory_tokens} are taken at once: split it")
    found = statements(memory)
    if not found:
        raise InputError("memory states nothing: no sentence of three words or more in it")
    for statement in found:
        long = len(model.text_ids(statement.text)) if len(statement.text) > model.context // 3 else 0
        if long > model.context // 3:
            raise InputError(
                f"the statement at byte {statement.start} of the memory has {long} tokens; with this model's context "
                f"of {model.context} one may have {model.context // 3}: make sentences of it"
            )
    return found


def capture(model: Model, memory: str, config: Config = Config(), on_step: OnStep = lambda n: None) -> Captured:
    """Run the whole capture. `on_step(n)` is told of every `n` statements finished.

    Raises `InputError` for a memory that `check` refuses, `ModelError` for a model whose logits are not numbers.
    """
    found = check(model, memory, config)
    sparsity = Sparsity(config.top_k, config.draws)
    limit = min(config.chunk_tokens, model.context // 2)
    questions: list[Question] = []
    artifacts: list[DistillArtifact] = []
    for number, chunk in enumerate(chunks(memory, found, lambda t: len(model.text_ids(t)), limit)):
        reading = Reading(model, chunk.text, sparsity, seed=config.seed + number)
        known = _known(model, reading, chunk, config)
        unknown = _unknown(model, reading, [q for q, _ in known], len(chunk.statements), config, number)
        for question, answer in [*known, *unknown]:
            questions.append(question)
            if question.use == "train":
                kind: Kind = "fact" if question.statement is not None else "unknown"
                artifacts.append(example(model, answer, kind, question.statement))
        on_step(len(chunk.statements))
    artifacts += _anchors(model, sparsity, config)
    return Captured(Study(tuple(found), tuple(questions)), tuple(artifacts), len(model.text_ids(memory)))


def _known(model: Model, reading: Reading, chunk: Chunk, config: Config) -> list[tuple[Question, Answer]]:
    """Questions on every statement of the chunk that the teacher answers as written, one wording each held out."""
    targets = [s for s in chunk.statements if not s.instruction]
    verified: dict[int, list[tuple[Question, Answer]]] = {s.index: [] for s in targets}
    missing = targets
    for turn in range(config.rounds + 1):
        sampling = Sampling(40 * (config.wordings + 1), 0.0 if turn == 0 else 0.8, config.seed + turn)
        requests = [chat.writing_request(s.text, config.wordings) for s in missing]
        replies = reading.write(requests, sampling)
        written = [q for s, reply in zip(missing, replies, strict=True) for q in candidates(reply, s)]
        _verify(reading, written, verified, config)
        missing = [s for s in missing if not _enough(verified[s.index])]
        if not missing:
            break
    bare = [q for s in targets if not any(q.direction == "forward" for q, _ in verified[s.index]) for q in cloze(s)]
    for question, answer in zip(bare, reading.answer([q.text for q in bare], config.max_answer_tokens), strict=True):
        verified[question.statement or 0].append((replace(question, teacher=answer.text), answer))
    return [pair for s in targets for pair in _hold_out(verified[s.index], s)]


def _verify(
    reading: Reading, written: Sequence[Question], verified: dict[int, list[tuple[Question, Answer]]], config: Config
) -> None:
    """Keep the questions that the teacher, asked with the memory in its context, answers as it wrote."""
    seen = {chat.normalise(q.text) for pairs in verified.values() for q, _ in pairs}
    fresh = [q for q in written if chat.normalise(q.text) not in seen]
    for question, answer in zip(fresh, reading.answer([q.text for q in fresh], config.max_answer_tokens), strict=True):
        agrees = chat.same_answer(answer.text, question.answer) or chat.says(answer.text, question.answer)
        if agrees and question.statement is not None:
            verified[question.statement].append((replace(question, teacher=answer.text), answer))


def _enough(pairs: Sequence[tuple[Question, Answer]]) -> bool:
    forward = sum(q.direction == "forward" for q, _ in pairs)
    return forward >= 4 and any(q.direction == "reverse" for q, _ in pairs)


def _hold_out(pairs: list[tuple[Question, Answer]], statement: Statement) -> list[tuple[Question, Answer]]:
    """Mark one forward wording as held out where at least three remain to train on; another one per statement."""
    forward = [i for i, (q, _) in enumerate(pairs) if q.direction == "forward"]
    if len(forward) < 4:
        return pairs
    chosen = forward[statement.index % len(forward)]
    return [(replace(q, use="held_out") if i == chosen else q, a) for i, (q, a) in enumerate(pairs)]


def _unknown(
    model: Model, reading: Reading, known: Sequence[Question], n: int, config: Config, number: int
) -> list[tuple[Question, Answer]]:
    """Near misses and decoys on which the teacher, with the memory before it, says that it does not know."""
    rng = random.Random(f"{config.seed}/{number}/unknown")
    forward = [q for q in known if q.direction != "cloze"]
    wanted = n * config.unknown_per_statement
    misses = near_misses(forward, per_question=max(1, wanted // max(1, len(forward)) + 1), seed=config.seed + number)
    asked = rng.sample(misses, min(len(misses), wanted)) + rng.sample(decoys(), min(len(decoys()), config.decoys))
    found = []
    for text, answer in zip(asked, reading.answer(asked, config.max_answer_tokens), strict=True):
        if chat.is_unknown(answer.text):
            use: Use = "held_out" if rng.random() < 0.25 else "train"
            found.append((Question(text, chat.UNKNOWN_ANSWER, None, "unknown", use, answer.text), answer))
    return found


def _anchors(model: Model, sparsity: Sparsity, config: Config) -> list[DistillArtifact]:
    """The base by itself: its answers to unrelated prompts, and its distribution along running text."""
    alone = Reading(model, None, sparsity, seed=config.seed)
    answers = alone.answer(texts.prompts(config.anchor_prompts, config.seed), 16)
    return [example(model, a, "anchor", None) for a in answers] + _text_anchors(model, sparsity, config)


def _text_anchors(model: Model, sparsity: Sparsity, config: Config) -> list[DistillArtifact]:
    rng = random.Random(f"{config.seed}/anchors")
    whole = [model.text_ids(t) for t in texts.anchors(config.anchor_texts, config.seed)]
    starts = [rng.randrange(max(1, len(ids) - config.anchor_tokens)) for ids in whole]
    sequences = [ids[start : start + config.anchor_tokens] for ids, start in zip(whole, starts, strict=True)]
    sequences = [s for s in sequences if len(s) > 8]
    draws = torch.Generator().manual_seed(config.seed)

    def reduce(i: int, logits_TV: Tensor) -> DistillArtifact:
        ids = sequences[i]
        logprobs_PV = torch.log_softmax(logits_TV[3:-1].cpu(), -1)
        sparse = sparsify(logprobs_PV, sparsity.top_k, sparsity.draws, draws)
        ends = [0]
        for token in ids:
            ends.append(ends[-1] + len(model.token_bytes[token]))
        positions = list(range(4, len(ids)))
        targets = position_targets(sparse, positions, [ends[p] for p in positions])
        return DistillArtifact("anchor", None, b"".join(model.token_bytes[t] for t in ids), tuple(ids), tuple(targets))

    return score(model, sequences, reduce)
