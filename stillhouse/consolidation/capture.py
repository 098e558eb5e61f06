"""Stage 1: memories become signals.

In: users with their memories. Out: a `Signals` record for each user. Memories that were not captured before are
captured in one batch, and each is kept as soon as it is done.

It does not know what the signals are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..capture import memory
from ..config import as_dict
from ..errors import InputError
from ..records import Signals, Statement, Study, canonical, digest, from_mapping
from ..signals import shards
from ..store import Store
from ..text.prompts import PROMPTS_VERSION
from ..work import complete
from .pipeline import Pipeline


def capture(pipeline: Pipeline, memories: Mapping[str, str]) -> dict[str, Signals]:
    """Every user's signals, in the order of `memories`. `InputError` for a memory that cannot be captured."""
    works = {user: pipeline.work(Signals, [user], _inputs(pipeline, user, text)) for user, text in memories.items()}
    complete(works, lambda missing: _capture(pipeline, {user: memories[user] for user in missing}))
    return {user: work.result() for user, work in works.items()}


def load_study(store: Store, signals: Signals) -> Study:
    """The study that these signals were captured with."""
    return from_mapping(Study, json.loads(store.blobs.get(signals.study)))


def _inputs(pipeline: Pipeline, user: str, text: str) -> dict[str, Any]:
    opening = pipeline.model.opening  # came later: where there is none, older signals keep their names
    return {
        "stage": "capture", "user": user, "memory": digest(text.encode()), "base": pipeline.model.fingerprint,
        "config": as_dict(pipeline.settings.capture), "prompts": PROMPTS_VERSION,
        **({"opening": list(opening)} if opening else {}),
    }  # fmt: skip


def _capture(pipeline: Pipeline, memories: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yields users with the marks of their work, as they are done."""
    users, settings = list(memories), pipeline.settings.capture
    count = sum(len(_checked(pipeline, user, text)) for user, text in memories.items())
    with pipeline.progress("capture", count, users[0] if len(users) == 1 else f"{len(users)} users") as step:
        for number, captured in memory.capture_all(pipeline.model, list(memories.values()), settings, step):
            user = users[number]
            yield user, pipeline.put(_signals(pipeline, user, memories[user], captured))


def _checked(pipeline: Pipeline, user: str, text: str) -> Sequence[Statement]:
    try:
        return memory.check(pipeline.model, text, pipeline.settings.capture)
    except InputError as error:
        raise InputError(f"user {user!r}: {error}") from error


def _signals(pipeline: Pipeline, user: str, text: str, captured: memory.CapturedMemory) -> Signals:
    model, blobs = pipeline.model, pipeline.store.blobs
    about = {"base": model.fingerprint, "vocabulary": str(model.vocabulary), "prompts": str(PROMPTS_VERSION)}
    return Signals(
        user=user,
        memory=blobs.put(text.encode()),
        base=model.fingerprint,
        shard=blobs.put(shards.write(captured.artifacts, about)),
        study=blobs.put(canonical(captured.study)),
        config=as_dict(pipeline.settings.capture),
        examples=len(captured.artifacts),
        positions=sum(len(a.targets) for a in captured.artifacts),
        memory_tokens=captured.memory_tokens,
    )
