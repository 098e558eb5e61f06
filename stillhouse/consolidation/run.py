"""The way of a user's memory into weights: capture, train, judge, and a version of it.

In: users with their memories, a model reference, a home folder. Out: one `Consolidation` per user. Users given together
go through each stage in one batch. Every stage is done once for equal inputs, so a killed run is simply run again.

It holds no state of its own: everything is in the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from .. import gating, models
from ..compute.allocator import kept_memory
from ..compute.threads import fastest_threads
from ..errors import InputError
from ..inputs import MAX_MEMORY_BYTES, check_memory, home_folder
from ..models import Model
from ..progress import Audience, Step
from ..records import Candidate, Signals, Version
from ..store import Store
from ..text.statements import statements
from ..train import adapter
from .capture import capture
from .judge import in_context, judge, neighbours, verdict_of
from .pipeline import Pipeline
from .remedies import Tries, follow
from .result import Consolidation, Try
from .settings import Settings
from .sharding import Shares, processes
from .train import train
from .version import existing, result, save

Memories = Mapping[str, str]
DEFAULTS = Settings()


def consolidate(
    user: str, memory: str, *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, diagnose: bool = False,
) -> Consolidation:  # fmt: skip
    """Turn `memory` (text) into a private adapter of `user`, gate it, and make it the user's champion if it passes.

    With `diagnose`, the remedies that the failed gates name are tried in turn, until a candidate is approved: at most
    five more candidates, each a version with its own verdict and report. The result is the approved one, or else the
    one that the fewest gates refuse; its `tries` are all of them. `show`: who sees progress (`progress.Audience`).
    """
    return consolidate_all({user: memory}, model=model, home=home, settings=settings, show=show, diagnose=diagnose)[0]


def consolidate_all(
    memories: Memories, *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, diagnose: bool = False, workers: int = 1,
) -> list[Consolidation]:  # fmt: skip
    """The same for several users, trained together in batches; results in the order given.

    `workers` processes share the users (0: as many as cores and memory allow), where `model` is a reference.
    Raises `InputError` (user id, memory), `ModelError`, `Busy` when a user is being consolidated elsewhere, and
    `StoreError` for a damaged file of a stage that was finished before.
    """
    gating.settings(settings.gate)  # a mistake in the last stage's settings is told before the first stage
    with _opened(memories, model, home, settings, show) as (pipeline, texts):
        seconds = _shared(pipeline, texts, ("capture", "train", "gate"), 1 if isinstance(model, Model) else workers)
        results = _consolidated(pipeline, texts, {}, seconds)

        def again(remedy: str, changed: Settings, tries: Tries) -> list[Consolidation]:
            some = {user: texts[user] for user in tries}
            return _consolidated(replace(pipeline, settings=changed, note=remedy), some, tries, {})

        return follow(results, pipeline.settings, again) if diagnose else results


def candidates(
    memories: Memories, *, model: str | Model = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = DEFAULTS, show: Audience = False, workers: int = 1, note: str = "",
) -> dict[str, Candidate]:  # fmt: skip
    """Candidates by user, captured and trained but not gated; their adapters are blobs of `home`. `note` stands in the
    progress."""
    with _opened(memories, model, home, settings, show, note) as (pipeline, texts):
        _shared(pipeline, texts, ("capture", "train"), 1 if isinstance(model, Model) else workers)
        return train(pipeline, capture(pipeline, texts))


def share(
    model: Model, home: Path, settings: Settings, memories: Memories, users: Sequence[str], stage: str, step: Step
) -> None:
    """One stage ("capture", "train" or "gate") for some users of a run, after the stages before it.

    `step` is told of progress. What the stage makes is in the store. Whoever calls holds the users' locks.
    """
    pipeline = Pipeline(Store(home), model, settings, step=step)
    signals = capture(pipeline, memories if stage == "gate" else {user: memories[user] for user in users})
    if stage == "capture":
        return
    trained = train(pipeline, signals)
    for user in users if stage == "gate" else ():
        _judged(pipeline, memories[user], signals[user], trained)


def _consolidated(
    pipeline: Pipeline, memories: Memories, tries: Tries, seconds: Mapping[str, float]
) -> list[Consolidation]:
    """All stages for all users; what is in the store already is taken from there. `seconds` were spent before."""
    clock = dict(seconds)
    with _timed(clock, "capture"):
        signals = capture(pipeline, memories)
    with _timed(clock, "train"):
        trained = train(pipeline, signals)
    with _timed(clock, "gate"):
        versions = [
            _judged(pipeline, text, signals[user], trained, tries.get(user, ())) for user, text in memories.items()
        ]
    return [result(pipeline, version, signals[version.user], clock) for version in versions]


def _judged(
    pipeline: Pipeline, memory: str, signals: Signals, trained: Mapping[str, Candidate], before: Sequence[Try] = ()
) -> Version:
    """One user's candidate is judged, and becomes a version; the version of before where both were there."""
    store, model, candidate = pipeline.store, pipeline.model, trained[signals.user]
    others = neighbours(store, model.fingerprint, candidate.user, trained)
    work = verdict_of(pipeline, candidate, others)
    version = existing(store, candidate, work.result()) if work.finished else None
    if version is not None:
        return version
    with in_context(store, model, candidate, signals, others) as ctx:
        verdict = work.once(lambda _: pipeline.put(judge(pipeline, candidate, ctx)))
        version = existing(store, candidate, verdict)
        return version or save(pipeline, memory, signals, candidate, verdict, ctx, before)


def _shared(pipeline: Pipeline, memories: Memories, stages: Sequence[str], workers: int) -> dict[str, float]:
    """These stages for all users, by as many processes as `workers` says; nothing where one process does it all.
    Returns the seconds that each stage took."""
    seconds: dict[str, float] = {}
    model, settings, home = pipeline.model, pipeline.settings, pipeline.store.home
    count = processes(model, len(memories), workers)
    if count < 2:
        return seconds

    own = partial(share, model, home, settings, memories)
    with Shares(home, model.ref, settings, memories, count, own) as shares:
        steps = adapter.total_steps(shares.sizes, settings.train, model.device)
        totals = {"capture": None, "train": steps, "gate": len(memories) * len(gating.settings(settings.gate))}
        for stage in stages:
            with pipeline.progress(stage, totals[stage], f"{len(memories)} users") as step, _timed(seconds, stage):
                shares.run(stage, step)
    return seconds


@contextmanager
def _timed(clock: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds of the block to the stage's."""
    start = time.monotonic()
    try:
        yield
    finally:
        clock[stage] = clock.get(stage, 0.0) + time.monotonic() - start


@contextmanager
def _opened(
    memories: Memories, model: str | Model, home: Path | str | None, settings: Settings, show: Audience, note: str = ""
) -> Iterator[tuple[Pipeline, Memories]]:
    """The pipeline, with the settings as they are for this home and model, and the memories' texts. It holds the locks
    of its users."""
    if not memories:
        raise InputError("no memory given: at least one user with a memory is needed")
    texts = {user: _stated(user, text) for user, text in memories.items()}
    store = Store(home_folder(home))
    with ExitStack() as stack:
        stack.enter_context(kept_memory())
        for user in sorted(texts):
            stack.enter_context(store.lock(user))
        base = model if isinstance(model, Model) else models.load(model, home=store.home)
        stack.enter_context(fastest_threads(base))
        resolved = adapter.resolved(base, settings.train)
        gate = gating.calibrated(store.home, base.fingerprint, settings.gate)
        yield Pipeline(store, base, replace(settings, train=resolved, gate=gate), show, note), texts


def _stated(user: str, text: str) -> str:
    """The text of a memory that states something, whoever read it."""
    try:
        memory = check_memory(text.encode(), f"memory of {user!r}")
    except UnicodeEncodeError as error:
        raise InputError(f"memory of {user!r}: no Unicode text at character {error.start}; decode it first") from error
    if len(memory) <= MAX_MEMORY_BYTES and not statements(memory):
        raise InputError(f"memory of {user!r} states nothing: no sentence of three words or more in it")
    return memory
