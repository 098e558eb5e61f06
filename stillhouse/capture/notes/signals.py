"""Lessons become signals: the reply's own tokens as hard labels, for a student of one model.

In: lessons and a model's text side. Out: `DistillArtifact`s. Replies that say "I don't know" are of the kind `unknown`,
all others `fact`.

It does not know what the lessons teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ...models import TextModel
from ...signals import DistillArtifact, Kind, PositionTarget
from .lessons import Lesson

UNKNOWN = ("refuse", "closed")  # tasks whose reply is that it is not known


def artifacts(model: TextModel, lessons: Sequence[Lesson]) -> list[DistillArtifact]:
    """One for each lesson that fits the model's context, in their order."""
    made = (_artifact(model, lesson) for lesson in lessons)
    return [artifact for artifact in made if len(artifact.x_ids) <= model.context]


def _artifact(model: TextModel, lesson: Lesson) -> DistillArtifact:
    prompt = model.chat_ids(list(lesson.messages))
    reply = [*model.text_ids(lesson.reply), *_stop(model)]
    ids = (*prompt, *reply)
    ends = list(accumulate((len(model.token_bytes[i]) for i in ids), initial=0))
    first = len(prompt)
    targets = tuple(PositionTarget(first + n, ends[first + n], (token,), (0.0,), 0.0) for n, token in enumerate(reply))
    kind: Kind = "unknown" if lesson.task in UNKNOWN else "fact"
    return DistillArtifact(kind, None, b"".join(model.token_bytes[i] for i in ids), ids, targets)


def _stop(model: TextModel) -> list[int]:
    eos = model.tokenizer.eos_token_id
    return [eos] if isinstance(eos, int) else []
