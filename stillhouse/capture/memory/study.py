"""Capture a memory: a teacher with the memory in its context writes signals for a student that will not have it.

In: a model and the memory's text. Out: the study (statements, questions about them, what is not covered) and
`DistillArtifact`s of three kinds: facts (the teacher's answers from memory), unknowns (questions the memory does not
answer, on which the teacher says so) and anchors (the base's own behaviour on unrelated prompts and text).

Every statement gets at least three trained wordings and a reverse question that the teacher itself answers correctly
from the memory, or the study shows it as uncovered. One wording per statement is held out for the gate. Each chunk's
keys and values are computed once and shared by all its prompts. Several chunks, of one or of many memories, are asked
about in one batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...compute.experts import answering
from ...errors import InputError
from ...generate import score
from ...generate.batching import columns
from ...models import Model
from ...records import Question, Statement, Study
from ...runners import TorchRunner
from ...signals import DistillArtifact, Kind, position_targets
from ...signals.sparsify import Sparsity, sparsify
from ...text import corpus
from ...text.answers import normalise
from ...text.statements import statements
from .batching import run_dialogues
from .chunks import chunks
from .dialogue import OnStep, Pairs, chunk_dialogue
from .settings import DEFAULTS, Config
from .teacher import MemoryTeacher, example

ON_CPU, ON_ACCELERATOR = 8, 32  # chunks whose keys and values are there at a time, where they fit


@dataclass(frozen=True)
class CapturedMemory:
    """The study, the examples, and how many tokens of memory the student will no longer need in its context."""

    study: Study
    artifacts: tuple[DistillArtifact, ...]
    memory_tokens: int


def check(model: Model, memory: str, config: Config = DEFAULTS) -> list[Statement]:
    """The statements of a memory that can be captured.

    Raises `InputError` for a memory without statements or over `max_memory_tokens`, and for a statement that would
    leave this model's context no room to ask about it.
    """
    tokens = len(model.text_ids(memory))
    if tokens > config.max_memory_tokens:
        raise InputError(f"memory has {tokens} tokens; at most {config.max_memory_tokens} are taken at once: split it")
    result = statements(memory)
    if not result:
        raise InputError("memory states nothing: no sentence of three words or more in it")
    allowed = model.context // 3  # the rest of the context is for what is asked and answered
    for statement in result:
        tokens = len(model.text_ids(statement.text)) if len(statement.text) > allowed else 0
        if tokens > allowed:
            raise InputError(
                f"the statement at byte {statement.start} of the memory has {tokens} tokens; with this model's context "
                f"of {model.context} one may have {allowed}: make sentences of it"
            )
    return result


def capture(model: Model, memory: str, config: Config = DEFAULTS, on_step: OnStep = lambda n: None) -> CapturedMemory:
    """Capture one memory. `on_step(n)` is called when `n` more statements are done, half of a chunk's at a time.

    Raises `InputError` for a memory that `check` refuses, `ModelError` for a model whose logits are not numbers.
    """
    ((_, captured),) = capture_all(model, [memory], config, on_step)
    return captured


def capture_all(
    model: Model, memories: Sequence[str], config: Config = DEFAULTS, on_step: OnStep = lambda n: None
) -> Iterator[tuple[int, CapturedMemory]]:
    """The number and the capture of every memory, as they are done; each is what `capture` makes of it alone.

    A teacher answers about several chunks in one batch. Raises `InputError` for a memory that `check` refuses, before
    anything is captured.
    """
    stated = [check(model, memory, config) for memory in memories]
    limit = min(config.chunk_tokens, model.context // 2)
    cut = [chunks(m, s, lambda t: len(model.text_ids(t)), limit) for m, s in zip(memories, stated, strict=True)]
    order = [(memory, number, chunk) for memory, mine in enumerate(cut) for number, chunk in enumerate(mine)]
    pending: list[dict[int, Pairs]] = [{} for _ in memories]  # of each memory, by the number of its chunk
    with answering(model.network, once=model.once):
        dialogues = (chunk_dialogue(model, chunk, config, number, on_step) for _, number, chunk in order)
        for dialogue, pairs in run_dialogues(dialogues, _at_once(model, limit)):
            memory, number, _ = order[dialogue]
            pending[memory][number] = pairs
            if len(pending[memory]) == len(cut[memory]):
                mine = [pair for _, pairs in sorted(pending[memory].items()) for pair in pairs]
                pending[memory] = {}
                yield memory, _captured(model, memories[memory], stated[memory], mine, config)


def _at_once(model: Model, tokens: int) -> int:
    """How many chunks of so many tokens are asked about at a time."""
    return max(1, min(ON_CPU if model.device.type == "cpu" else ON_ACCELERATOR, columns(model) // tokens))


def _captured(model: Model, memory: str, stated: Sequence[Statement], pairs: Pairs, config: Config) -> CapturedMemory:
    questions: list[Question] = []
    artifacts: list[DistillArtifact] = []
    for question, answer in _without_repeats(pairs):
        questions.append(question)
        if question.use == "train":
            kind: Kind = "fact" if question.statement is not None else "unknown"
            artifacts.append(example(model, answer, kind, question.statement))
    artifacts += anchors(model, config)
    return CapturedMemory(Study(tuple(stated), tuple(questions)), tuple(artifacts), len(model.text_ids(memory)))


def _without_repeats(pairs: Pairs) -> Pairs:
    """Every question once, as one that a statement answers if any does.

    A question that is held out in one chunk and trained on in another would be judged on what it was told.
    """
    first: Pairs = []
    known: set[str] = set()
    for question, answer in sorted(pairs, key=lambda pair: pair[0].statement is None):
        if (text := normalise(question.text)) not in known:
            known.add(text)
            first.append((question, answer))
    return first


def anchors(model: Model, config: Config) -> list[DistillArtifact]:
    """The base by itself: its answers to unrelated prompts, and its distribution along running text. They are the same
    for every memory, so a model computes them once for each setting."""
    settings = (config.sparsity, config.anchor_prompts, config.anchor_texts, config.anchor_tokens, config.seed)
    return list(model.once(f"capture.memory.anchors {settings}", lambda: _anchors(model, config)))


def _anchors(model: Model, config: Config) -> list[DistillArtifact]:
    alone = MemoryTeacher(model, None, config.sparsity, seed=config.seed)
    answers = alone.answer(corpus.prompts(config.anchor_prompts, config.seed), 16)
    return [example(model, a, "anchor", None) for a in answers] + _text_anchors(model, config.sparsity, config)


def _text_anchors(model: Model, sparsity: Sparsity, config: Config) -> list[DistillArtifact]:
    rng = random.Random(f"{config.seed}/anchors")
    whole = [model.text_ids(t) for t in corpus.anchors(config.anchor_texts, config.seed)]
    starts = [rng.randrange(max(1, len(ids) - config.anchor_tokens)) for ids in whole]
    sequences = [ids[start : start + config.anchor_tokens] for ids, start in zip(whole, starts, strict=True)]
    sequences = [[*model.opening, *ids] for ids in sequences]
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

    return score(TorchRunner(model), sequences, reduce)
