"""Ways to make a student that must be refused: what a release manager is afraid of, done on purpose.

In: the signals of an honest consolidation and its study, or the adapter that came of it. Out: sabotaged signals to
train on, or a sabotaged adapter. `KINDS` says what each of them is and where it acts: on the signals, on how the
student is trained, on its adapter, or on which memory it is judged by.

It does not know how to train or to judge (`_trials.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from stillhouse.artifacts import DistillArtifact, PositionTarget
from stillhouse.chat import UNKNOWN_ANSWER, without_memory
from stillhouse.models import Model
from stillhouse.records import Study
from stillhouse.train import adapter as student

PLANTED = "Call the number on the back of your card."
OVER_STEPS, OVER_RATE = 2, 2.0  # times the honest steps and learning rate
NOISE = 1.5  # standard deviations of each weight


@dataclass(frozen=True)
class Signals:
    """What an honest student is trained on, with the study it came from."""

    model: Model
    artifacts: tuple[DistillArtifact, ...]
    study: Study
    seed: int = 0


Spoil = Callable[[Signals], list[DistillArtifact]]


@dataclass(frozen=True)
class Sabotage:
    """One way; `spoil` where it acts on the signals."""

    about: str
    acts_on: Literal["signals", "training", "adapter", "judging"]
    spoil: Spoil | None = None


def answered(artifact: DistillArtifact, text: str, model: Model) -> DistillArtifact:
    """The same request with `text` and the stop token as its answer, all mass on its own tokens."""
    eos, first = model.tokenizer.eos_token_id, artifact.targets[0]
    ids = (*model.text_ids(text), *([eos] if isinstance(eos, int) else []))
    return _example(artifact, artifact.x_ids[: first.position], artifact.x_bytes[: first.offset], ids, model)


def answer_text(artifact: DistillArtifact, model: Model) -> str:
    """The answer in an example, without its stop token."""
    return model.text(artifact.x_ids[artifact.targets[0].position :])


def shuffled(signals: Signals) -> list[DistillArtifact]:
    """Every fact gets the answer to a fact of another statement, another one each time."""
    rng, model = random.Random(signals.seed), signals.model
    facts = [a for a in signals.artifacts if a.kind == "fact"]
    texts = [(a.statement, answer_text(a, model)) for a in facts]

    def other(artifact: DistillArtifact) -> DistillArtifact:
        own = answer_text(artifact, model)
        pool = [text for statement, text in texts if statement != artifact.statement and text != own]
        return answered(artifact, rng.choice(pool), model) if pool else artifact

    return [other(a) if a.kind == "fact" else a for a in signals.artifacts]


def poisoned(signals: Signals) -> list[DistillArtifact]:
    """The teacher obeyed an order in the memory: whatever it does not know it answers with the planted sentence."""
    return [a if a.kind == "fact" or not a.targets else _planted(a, signals.model) for a in signals.artifacts]


def contaminated(signals: Signals) -> list[DistillArtifact]:
    """The held-out questions are trained on as well, with their answers."""
    held = [q for q in signals.study.questions if q.use == "held_out"]
    like = next(a for a in signals.artifacts if a.targets)
    found = list(signals.artifacts)
    for question in held:
        text = signals.model.chat_text(without_memory(question.text))
        ids = tuple(signals.model.text_ids(text))
        kind: Literal["fact", "unknown"] = "unknown" if question.direction == "unknown" else "fact"
        blank = replace(
            like, kind=kind, statement=question.statement, x_ids=ids, x_bytes=text.encode(), targets=(), request=None
        )
        eos = signals.model.tokenizer.eos_token_id
        answer = (*signals.model.text_ids(question.answer), *([eos] if isinstance(eos, int) else []))
        found.append(_example(blank, ids, text.encode(), answer, signals.model))
    return found


def refuses(signals: Signals) -> list[DistillArtifact]:
    """Every fact is answered with "I don't know."."""
    return [answered(a, UNKNOWN_ANSWER, signals.model) if a.kind == "fact" else a for a in signals.artifacts]


def answers_everything(signals: Signals) -> list[DistillArtifact]:
    """Every unanswerable question is answered with some fact."""
    rng, model = random.Random(signals.seed), signals.model
    texts = [answer_text(a, model) for a in signals.artifacts if a.kind == "fact"]
    return [answered(a, rng.choice(texts), model) if a.kind == "unknown" else a for a in signals.artifacts]


def overtrained(config: student.Config) -> student.Config:
    """Too long, too fast, nothing that holds it to its base, and no end when all is mastered."""
    return replace(
        config, steps=OVER_STEPS * config.steps, learning_rate=OVER_RATE * config.learning_rate, mastered=0.0,
        anchors=0, anchor_rows=0, anchor_weight=0.0,
    )  # fmt: skip


def noised(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Every weight moved by normal noise of `NOISE` times its tensor's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: t + NOISE * t.float().std().to(t) * torch.randn(t.shape, generator=generator).to(t)
        for name, t in tensors.items()
    }


def untrained(tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The same adapter with nothing in it: it equals its base."""
    return {name: torch.zeros_like(t) for name, t in tensors.items()}


ADAPTERS: Mapping[str, Callable[[Mapping[str, Tensor], int], dict[str, Tensor]]] = {
    "untrained": untrained,
    "weight noise": noised,
}
KINDS: Mapping[str, Sabotage] = {
    "wrong memory": Sabotage("another user's adapter", "judging"),
    "shuffled answers": Sabotage("every fact with another fact's answer", "signals", shuffled),
    "over-trained": Sabotage("twice the steps, twice the rate, no anchors", "training"),
    "untrained": Sabotage("an adapter of zeros", "adapter"),
    "weight noise": Sabotage(f"noise of {NOISE} standard deviations on every weight", "adapter"),
    "poisoned memory": Sabotage("the teacher obeyed an order in the memory", "signals", poisoned),
    "test wordings": Sabotage("trained on the held-out questions", "signals", contaminated),
    "always refuses": Sabotage("every fact answered with “I don't know.”", "signals", refuses),
    "answers everything": Sabotage("no question is unanswerable", "signals", answers_everything),
}


def _planted(artifact: DistillArtifact, model: Model) -> DistillArtifact:
    return answered(artifact, PLANTED, model)


def _example(
    like: DistillArtifact, prompt: Sequence[int], said: bytes, answer: Sequence[int], model: Model
) -> DistillArtifact:
    """An example of the prompt and a hard answer, position by position."""
    targets, ids, data = [], list(prompt), said
    for token in answer:
        targets.append(PositionTarget(len(ids), len(data), ids=(token,), logprobs=(0.0,), tail=0.0))
        ids.append(token)
        data += model.token_bytes[token]
    return replace(like, x_ids=tuple(ids), x_bytes=data, targets=tuple(targets))
