"""Stage 2 of a distillation: from the teacher's signals to a trained student.

In: `RecipeSignals`, a `StudentPlan`. Out: a `TrainedStudent`, still loaded, with the evaluation from before its
training. With several domains it is one base with an adapter per domain, all trained in the same batches. A finished
student is loaded again here too. It does not know reports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import models
from ..capture.prompts import states
from ..errors import InputError
from ..export import peft
from ..feeds.on_policy import OnPolicyFeed
from ..feeds.same_tokens import Feed, SameTokens
from ..feeds.states import TracedFeed
from ..lora import AdapterBank, LoraConfig
from ..models import Model
from ..progress import progress
from ..teachers.local import Local
from ..train import full
from .evaluate import Evaluation
from .feed import feed_of, tokenizer_note
from .measure import evaluate_student
from .plan import StudentPlan
from .signals import RecipeSignals
from .student import Student, build


@dataclass(frozen=True)
class TrainedStudent:
    """A student after its training. With adapters, these stay on the network until `trained.bank.detach()`."""

    model: Model
    feed: Feed
    """The stored signals it learned from."""
    trained: full.Trained
    before: list[Evaluation]
    """How it was before its training, per lesson. Empty in all processes but the first."""


def train_student(signals: RecipeSignals, plan: StudentPlan) -> TrainedStudent:
    """Build the student, evaluate it as it is, and train it. A killed training goes on from its checkpoint.

    `InputError`: settings that do not go together; `ModelError`: a loss that is not a number, a damaged checkpoint.
    """
    student, lessons = plan.student, signals.lessons
    model = start_of(signals, plan)
    stored, owners = feed_of(model, [lesson.signals for lesson in lessons])
    if signals.show:
        sys.stderr.write(tokenizer_note(plan.name, model, stored))
    slots, names = (owners, [lesson.name for lesson in lessons]) if signals.recipe.domains else ([], [])
    feed = _on_policy(signals, stored, model, student) or _traced(signals, stored, student)
    validated = [lesson.held_out_signals for lesson in lessons if lesson.held_out_signals]
    held_out, held_out_slots = feed_of(model, validated) if student.train.validate_every else (None, [])
    before = evaluate_student(signals, model) if signals.ranks.first else []
    with progress(f"train {plan.name}", full.planned(feed, student.train, slots), signals.show) as step:
        on_step = feed.told(step) if isinstance(feed, OnPolicyFeed) else step
        trained = full.train(
            model, feed, student.train, plan.folder, on_step, plan.key, slots, names,
            held_out, held_out_slots if slots else [],
        )  # fmt: skip
    return TrainedStudent(model, stored, trained, before)


def start_of(signals: RecipeSignals, plan: StudentPlan) -> Model:
    """What the student starts from, built where it is missing."""
    recipe, student = signals.recipe, plan.student

    def load() -> Model:
        base = signals.teacher.base(student.model)
        texts = _texts(signals) if student.new_tokenizer else []
        return build(student, base, texts, plan.folder / "start", recipe.teacher.device, recipe.seed, signals.home)

    return signals.ranks.in_turn(load)


def load_student(signals: RecipeSignals, plan: StudentPlan) -> tuple[Model, AdapterBank | None]:
    """A finished student: its base with its adapters, one slot per lesson, or its own weights.

    `InputError` where it is not finished; `StoreError` and `ModelError` where files of it are damaged.
    """
    if not plan.work.finished:
        raise InputError(f"students.{plan.name} is not trained with these data and settings; run `stillhouse distill`")
    if plan.student.train.lora is None:
        return models.load(str(plan.folder / "model"), signals.recipe.teacher.device), None
    adapters = [one.folder / "adapter" for one in plan.work.result()]
    model = start_of(signals, plan)
    return model, _bank(model, adapters, plan.student.train.lora)


def _bank(model: Model, folders: Sequence[Path], lora: LoraConfig) -> AdapterBank:
    """The adapters in PEFT folders, one slot each, on `model`."""
    bank = AdapterBank(model.network, len(folders), lora)
    try:
        for slot, folder in enumerate(folders):
            bank.load(slot, *peft.read(folder))
    except BaseException:
        bank.detach()
        raise
    return bank


def _on_policy(signals: RecipeSignals, stored: Feed, model: Model, student: Student) -> OnPolicyFeed | None:
    """Batches in which the student writes, where it is to."""
    if student.on_policy is None:
        return None
    captured = [lesson.signals for lesson in signals.lessons]
    return OnPolicyFeed(stored, captured, model, signals.teacher.teacher, student.on_policy)


def _traced(signals: RecipeSignals, stored: Feed, student: Student) -> Feed:
    """The stored signals, with the teacher's inner states beside them where the student is to match them."""
    traces, teacher = signals.recipe.traces, signals.teacher.teacher
    if traces is None or not (student.train.hidden or student.train.routing):
        return stored
    single = isinstance(teacher, Local) and len(teacher.mixture.models) == 1
    if not single or not isinstance(stored, SameTokens) or not isinstance(teacher, Local) or student.on_policy:
        raise InputError(
            "traces: inner states are of one model on this machine, on stored signals, for a student with its "
            "tokenizer; leave train.hidden and train.routing out"
        )
    return TracedFeed(
        stored, [t for one in signals.lessons for t in states.record(teacher.text_model, one.signals, traces)]
    )


def _texts(signals: RecipeSignals) -> list[str]:
    """What a new tokenizer is trained on: all texts of the training data, and what the teacher wrote."""
    examples = [lesson.data.style(e) for lesson in signals.lessons for e in lesson.train]
    texts = [t for e in examples for t in (*(m["content"] for m in e.messages), e.text, e.answer or "")]
    shards = [shard for lesson in signals.lessons for shard in lesson.signals.read()]
    answers = [x.decode(errors="replace") for shard in shards for x in shard.x_bytes]
    return [t for t in (*texts, *answers) if t]
