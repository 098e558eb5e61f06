"""Capture a memory: a teacher with the memory in its context writes signals for a student that will not have it.

In: a model and the memory's text. Out: the study (statements, questions tied to them, what is not covered) and
`DistillArtifact`s of three kinds: facts (the teacher's answers from memory), unknowns (questions the memory does not
answer, on which the teacher says so) and anchors (the base's own behaviour on unrelated prompts and text).

The coverage guarantee: every statement gets at least three trained wordings and a reverse question that the teacher
itself answers correctly from the memory, or the study shows it as uncovered. One wording per statement is held out for
the gate. Each chunk's keys and values are computed once and shared by all its queries, and several chunks, of one or of
many memories, are asked about in one batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...compute.experts import answering
from ...errors import InputError
from ...generate import Sampling, score
from ...generate.batching import columns
from ...losses import sparsify
from ...models import Model
from ...records import Question, Statement, Study, Use
from ...signals import DistillArtifact, Kind, position_targets
from ...text import corpus
from ...text.answers import normalise, same_answer, says
from ...text.language import as_request, decoys, is_unknown
from ...text.prompts import UNKNOWN_ANSWER, writing_request
from ...text.statements import statements
from .batching import Talk, held
from .chunks import MemoryChunk, chunks
from .questions import candidates, cloze, hardest, lost_words, mask, near_misses, repair, unmask
from .teacher import Answer, Asking, Reading, Sparsity, Writing, example

AS_ORDERS = 1 / 3  # of the questions that a memory does not answer
CERTAIN = 3  # wordings with one answer, from which what was written is believed without the proof of answering

ON_CPU, ON_ACCELERATOR = 8, 32  # chunks whose keys and values are there at a time, where they fit

OnStep = Callable[[int], None]
Pairs = list[tuple[Question, Answer]]


@dataclass(frozen=True)
class Config:
    """`wordings` asked of the teacher per statement; `rounds` of asking again, sampled, where too few were usable."""

    wordings: int = 5
    rounds: int = 3
    chunk_tokens: int = 768
    max_memory_tokens: int = 131_072
    top_k: int = 16
    draws: int = 4
    unknown_per_statement: int = 36
    decoys: int = 64
    anchor_texts: int = 0  # only for students trained where the base is not at hand: `train` computes its own
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
    """Run the whole capture. `on_step(n)` is told of `n` more statements done, half of a chunk's at a time.

    Raises `InputError` for a memory that `check` refuses, `ModelError` for a model whose logits are not numbers.
    """
    ((_, found),) = capture_all(model, [memory], config, on_step)
    return found


def capture_all(
    model: Model, memories: Sequence[str], config: Config = Config(), on_step: OnStep = lambda n: None
) -> Iterator[tuple[int, Captured]]:
    """The number and the capture of every memory, as they are done; each is what `capture` makes of it alone. Several
    chunks are read at a time, so that a teacher answers about many of them in one batch.

    Raises, before anything is captured, `InputError` for a memory that `check` refuses.
    """
    found = [check(model, memory, config) for memory in memories]
    limit = min(config.chunk_tokens, model.context // 2)
    cut = [chunks(m, s, lambda t: len(model.text_ids(t)), limit) for m, s in zip(memories, found, strict=True)]
    talks = [(whose, number, chunk) for whose, mine in enumerate(cut) for number, chunk in enumerate(mine)]
    said: list[dict[int, Pairs]] = [{} for _ in memories]
    with answering(model.network):
        going = (_talk(model, chunk, config, number, on_step) for _, number, chunk in talks)
        for talk, pairs in held(going, _at_once(model, limit)):
            whose, number, _ = talks[talk]
            said[whose][number] = pairs
            if len(said[whose]) == len(cut[whose]):
                mine = [pair for _, pairs in sorted(said[whose].items()) for pair in pairs]
                said[whose] = {}
                yield whose, _captured(model, memories[whose], found[whose], mine, config)


def _at_once(model: Model, tokens: int) -> int:
    """How many chunks of so many tokens."""
    return max(1, min(ON_CPU if model.device.type == "cpu" else ON_ACCELERATOR, columns(model) // tokens))


def _talk(model: Model, chunk: MemoryChunk, config: Config, number: int, on_step: OnStep) -> Talk[Pairs]:
    """Everything that is asked about one chunk."""
    reading = Reading(model, chunk.text, _sparsity(config), seed=config.seed + number)
    count = len(chunk.statements)
    known = yield from _known(model, reading, chunk, config)
    on_step(count // 2)  # the other half of the time goes into what the memory does not say
    trained = [q for q, _ in known if q.use == "train"]  # a held-out wording must not be learned as unanswerable
    held_out = {normalise(q.text) for q, _ in known if q.use == "held_out"}
    unknown = yield from _unknown(reading, trained, held_out, count, config, number)
    orders = yield from _requests(reading, known, config, number)
    on_step(count - count // 2)
    return [*known, *unknown, *orders]


def _captured(model: Model, memory: str, found: Sequence[Statement], pairs: Pairs, config: Config) -> Captured:
    questions: list[Question] = []
    artifacts: list[DistillArtifact] = []
    for question, answer in _once(pairs):
        questions.append(question)
        if question.use == "train":
            kind: Kind = "fact" if question.statement is not None else "unknown"
            artifacts.append(example(model, answer, kind, question.statement))
    artifacts += _anchors(model, _sparsity(config), config)
    return Captured(Study(tuple(found), tuple(questions)), tuple(artifacts), len(model.text_ids(memory)))


def _sparsity(config: Config) -> Sparsity:
    return Sparsity(config.top_k, config.draws)


def _once(pairs: Sequence[tuple[Question, Answer]]) -> Pairs:
    """Every question once, answered if any statement answers it: a question held out here and trained on there would
    be judged on what it was told."""
    first: dict[str, tuple[Question, Answer]] = {}
    for question, answer in sorted(pairs, key=lambda pair: pair[0].statement is None):
        first.setdefault(normalise(question.text), (question, answer))
    return list(first.values())


def _known(model: Model, reading: Reading, chunk: MemoryChunk, config: Config) -> Talk[Pairs]:
    """Questions on every statement of the chunk that the teacher answers as written, one wording each held out.

    A statement whose words the teacher lost while writing is asked about again with everyday words in their place;
    one that has too few questions is asked about again, sampled. Where the teacher answers none of its own questions
    as it wrote them, but wrote `CERTAIN` of them with one answer that stands in the statement, that is the answer.
    """
    targets = [s for s in chunk.statements if not s.instruction]
    by_index = {s.index: s for s in targets}
    verified: dict[int, Pairs] = {s.index: [] for s in targets}
    lost: dict[int, list[str]] = {}
    doubtful: list[Question] = []
    drafts: dict[int, list[Question]] = {}
    missing = targets
    for turn in range(config.rounds + 1):
        written: list[Question] = []
        for statement, reply in (yield from _replies(reading, missing, lost, turn, config)):
            reply = repair(reply, statement)
            gone = lost_words(reply, statement)
            found = candidates(reply, statement)
            if gone and turn < config.rounds:
                lost[statement.index] = gone
                doubtful += found
            else:
                written += found
                drafts.setdefault(statement.index, [q for q in found if q.direction == "forward"])
        yield from _verify(reading, by_index, written, verified, config)
        missing = [s for s in missing if not _enough(verified[s.index])]
        if not missing:
            break
        if turn:  # sampling has not helped: the fact is told again with an everyday word for its hardest one
            for statement in missing:
                lost.setdefault(statement.index, hardest(statement, lambda word: len(model.text_ids(word))))
    yield from _last_resorts(reading, by_index, drafts, doubtful, verified, config)
    return [pair for s in targets for pair in _hold_out(verified[s.index], s)]


def _last_resorts(
    reading: Reading,
    targets: Mapping[int, Statement],
    drafts: Mapping[int, Sequence[Question]],
    doubtful: Sequence[Question],
    verified: dict[int, Pairs],
    config: Config,
) -> Talk[None]:
    """For statements without one forward question: those with words lost, those that were written with one answer but
    not answered, at last the statement with its end left out."""

    def bare() -> list[Statement]:
        return [s for s in targets.values() if not any(q.direction == "forward" for q, _ in verified[s.index])]

    without = {s.index for s in bare()}
    yield from _verify(reading, targets, [q for q in doubtful if q.statement in without], verified, config)
    for statement in bare():
        if len(drafts.get(statement.index, [])) >= CERTAIN:
            verified[statement.index] += [_told(reading, q) for q in drafts[statement.index]]
    rest = [q for s in bare() if not verified[s.index] for q in cloze(s)]
    (answers,) = yield from _asked([(reading, rest)], config)
    for question, answer in zip(rest, answers, strict=True):
        if not is_unknown(answer.text):  # or the student would be taught to refuse what it is examined on
            verified[question.statement or 0].append((replace(question, teacher=answer.text), answer))


def _replies(
    reading: Reading, missing: Sequence[Statement], lost: Mapping[int, Sequence[str]], turn: int, config: Config
) -> Talk[list[tuple[Statement, str]]]:
    """What the teacher writes about each statement: greedy at first and where words are masked, else sampled."""
    room = 40 * (config.wordings + 1)
    masked = [s for s in missing if s.index in lost]
    plain = [s for s in missing if s.index not in lost]
    forms = [mask(s.text, lost[s.index], turn) for s in masked]
    greedy, sampled = Sampling(room, 0.0, config.seed), Sampling(room, 0.8, config.seed + turn)
    again = Writing(reading, [writing_request(text, config.wordings) for text, _ in forms], greedy)
    first = Writing(reading, [writing_request(s.text, config.wordings) for s in plain], sampled if turn else greedy)
    replies, written = yield [again, first]
    found = [(s, unmask(r, stand_ins)) for s, r, (_, stand_ins) in zip(masked, replies, forms, strict=True)]
    return found + list(zip(plain, written, strict=True))


def _verify(
    reading: Reading,
    targets: Mapping[int, Statement],
    written: Sequence[Question],
    verified: dict[int, Pairs],
    config: Config,
) -> Talk[None]:
    """Keep the questions that the teacher answers as it wrote: with the chunk in its context, or else with the
    question's own statement alone there, where a small teacher errs less. A reverse question that it wrote but still
    cannot answer keeps the answer it wrote, which stands in the statement, as a hard label."""
    seen = {normalise(q.text) for pairs in verified.values() for q, _ in pairs}
    fresh = [q for q in written if normalise(q.text) not in seen]
    (failed,) = yield from _agreed([(reading, fresh)], verified, config)
    alone: dict[int, list[Question]] = {}
    for question in failed:
        if question.statement is not None:
            alone.setdefault(question.statement, []).append(question)
    asked = [(reading.of(targets[statement].text), mine) for statement, mine in alone.items()]
    failed_alone = yield from _agreed(asked, verified, config)
    for statement, still in zip(alone, failed_alone, strict=True):
        if not any(q.direction == "reverse" for q, _ in verified[statement]):
            backwards = [q for q in still if q.direction == "reverse"][:1]
            verified[statement] += [_told(reading, q) for q in backwards]


def _told(reading: Reading, question: Question) -> tuple[Question, Answer]:
    """A question with the answer that was written for it, as a hard label."""
    return replace(question, teacher=question.answer), reading.hard(question.text, question.answer)


def _agreed(
    asked: Sequence[tuple[Reading, Sequence[Question]]], verified: dict[int, Pairs], config: Config
) -> Talk[list[list[Question]]]:
    """File the questions that are answered as written; return the others of each reading."""
    failed: list[list[Question]] = []
    answered = yield from _asked(asked, config)
    for (_, questions), answers in zip(asked, answered, strict=True):
        failed.append([])
        for question, answer in zip(questions, answers, strict=True):
            agrees = same_answer(answer.text, question.answer) or says(answer.text, question.answer)
            if agrees and question.statement is not None:
                verified[question.statement].append((replace(question, teacher=answer.text), answer))
            else:
                failed[-1].append(question)
    return failed


def _asked(asked: Sequence[tuple[Reading, Sequence[Question]]], config: Config) -> Talk[list[list[Answer]]]:
    """What each teacher answers to questions whose answers were written before."""
    if not any(questions for _, questions in asked):
        return [[] for _ in asked]
    return (
        yield [
            Asking(reading, [q.text for q in questions], config.max_answer_tokens, [q.answer for q in questions])
            for reading, questions in asked
        ]
    )


def _enough(pairs: Sequence[tuple[Question, Answer]]) -> bool:
    forward = sum(q.direction == "forward" for q, _ in pairs)
    return forward >= 4 and any(q.direction == "reverse" for q, _ in pairs)


def _hold_out(pairs: Pairs, statement: Statement) -> Pairs:
    """Mark one forward wording as held out where at least three remain to train on: another one per statement, but
    never the first, for what comes to the teacher's mind first is what people will ask."""
    forward = [i for i, (q, _) in enumerate(pairs) if q.direction == "forward"]
    if len(forward) < 4:
        return pairs
    chosen = forward[1 + statement.index % (len(forward) - 1)]
    return [(replace(q, use="held_out") if i == chosen else q, a) for i, (q, a) in enumerate(pairs)]


def _unknown(
    reading: Reading, known: Sequence[Question], held_out: Set[str], n: int, config: Config, number: int
) -> Talk[Pairs]:
    """Near misses and decoys on which the teacher, with the memory before it, says that it does not know."""
    rng = random.Random(f"{config.seed}/{number}/unknown")
    asking = [q for q in known if q.direction != "cloze"]
    wanted = n * config.unknown_per_statement
    asked: list[str] = []
    for some in ([q for q in asking if q.direction == "reverse"], [q for q in asking if q.direction != "reverse"]):
        each = max(1, wanted // (2 * max(1, len(some))) + 1)
        misses = near_misses(some, per_question=each, seed=config.seed + number)
        misses = [text for text in misses if normalise(text) not in held_out]
        asked += rng.sample(misses, min(len(misses), wanted // 2))
    asked += rng.sample(decoys(), min(len(decoys()), config.decoys))
    asked = [as_request(text, turn) if rng.random() < AS_ORDERS else text for turn, text in enumerate(asked)]
    found = []
    likely = [UNKNOWN_ANSWER] * len(asked)
    (answers,) = yield [Asking(reading, asked, config.max_answer_tokens, likely)]
    for text, answer in zip(asked, answers, strict=True):
        if is_unknown(answer.text):
            use: Use = "held_out" if rng.random() < 0.25 else "train"
            found.append((Question(text, UNKNOWN_ANSWER, None, "unknown", use, answer.text), answer))
    return found


def _requests(reading: Reading, known: Sequence[tuple[Question, Answer]], config: Config, number: int) -> Talk[Pairs]:
    """Two questions of every statement and one in reverse also as orders: people do not only ask, and how something is
    said must not tell a student whether it knows it, so as large a part of the unknown ones are orders."""
    rng = random.Random(f"{config.seed}/{number}/requests")
    ways: dict[tuple[int | None, str], list[Question]] = {}
    for question, _ in known:
        if question.use == "train" and question.direction != "cloze":
            ways.setdefault((question.statement, question.direction), []).append(question)
    chosen = [
        question
        for (_, direction), questions in ways.items()
        for question in rng.sample(questions, min(len(questions), 2 if direction == "forward" else 1))
    ]
    held_out = {normalise(question.text) for question, _ in known if question.use == "held_out"}
    asked = [replace(q, text=as_request(q.text, turn)) for turn, q in enumerate(chosen)]
    asked = [q for q in asked if normalise(q.text) not in held_out]
    (answers,) = yield from _asked([(reading, asked)], config)
    return [
        (replace(question, direction="request", teacher=answer.text), answer)
        for question, answer in zip(asked, answers, strict=True)
        if same_answer(answer.text, question.answer)
    ]


def _anchors(model: Model, sparsity: Sparsity, config: Config) -> list[DistillArtifact]:
    """The base by itself: its answers to unrelated prompts, and its distribution along running text. The same for every
    memory, so computed once for a network."""
    known = _ANCHORS.setdefault(model.network, {})
    key = (sparsity, config.anchor_prompts, config.anchor_texts, config.anchor_tokens, config.seed)
    if key not in known:
        alone = Reading(model, None, sparsity, seed=config.seed)
        answers = alone.answer(corpus.prompts(config.anchor_prompts, config.seed), 16)
        prompts = [example(model, a, "anchor", None) for a in answers]
        known.clear()
        known[key] = prompts + _text_anchors(model, sparsity, config)
    return known[key]


_ANCHORS: WeakKeyDictionary[PreTrainedModel, dict[Any, list[DistillArtifact]]] = WeakKeyDictionary()


def _text_anchors(model: Model, sparsity: Sparsity, config: Config) -> list[DistillArtifact]:
    rng = random.Random(f"{config.seed}/anchors")
    whole = [model.text_ids(t) for t in corpus.anchors(config.anchor_texts, config.seed)]
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
