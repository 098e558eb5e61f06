"""Stage 2: signals become candidates.

In: users with their signals. Out: a `Candidate` record for each user. Users whose candidates are missing are trained
in one batch. A killed training goes on from its checkpoints.

It does not know gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import models
from ..export import peft
from ..records import Candidate, Signals, digest
from ..signals import shards
from ..train import adapter
from ..work import complete
from .pipeline import Pipeline


def train(pipeline: Pipeline, signals: Mapping[str, Signals]) -> dict[str, Candidate]:
    """Every user's candidate, in the order of `signals`."""
    config = adapter.about(pipeline.model, pipeline.settings.train)
    about = {"stage": "train", "kind": "adapter", "config": config}
    works = {u: pipeline.work(Candidate, [u], about | {"signals": digest(s)}) for u, s in signals.items()}
    complete(works, lambda missing: _train(pipeline, signals, missing, config))
    return {user: work.result() for user, work in works.items()}


def _train(
    pipeline: Pipeline, signals: Mapping[str, Signals], missing: Sequence[str], config: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yields the users who are missing with the marks of their work. Checkpoints go once all are done."""
    batch = {user: signals[user] for user in missing}
    if adapter.checkpoints(_folder(pipeline, signals, config)):
        batch = dict(signals)  # a run of all was killed between two users' candidates: its end is on disk
    folder = _folder(pipeline, batch, config)
    for user, trained in zip(batch, _adapters(pipeline, batch, folder), strict=True):
        if user in missing:
            yield user, pipeline.put(_candidate(pipeline, batch[user], trained, config))
    for file in adapter.checkpoints(folder):
        file.unlink()


def _folder(pipeline: Pipeline, signals: Mapping[str, Signals], config: dict[str, Any]) -> Path:
    """Where the training of these users leaves its checkpoints."""
    return pipeline.store.work(digest(["fit", config, *map(digest, signals.values())]), list(signals))


def _adapters(pipeline: Pipeline, signals: Mapping[str, Signals], folder: Path) -> list[adapter.Trained]:
    model, settings = pipeline.model, pipeline.settings.train
    examples = [shards.read(pipeline.store.blobs.get(s.shard))[0] for s in signals.values()]
    steps = adapter.total_steps([len(signals)], settings, model.device)
    with pipeline.progress("train", steps) as step:
        return adapter.train(model, examples, settings, folder, step)


def _candidate(pipeline: Pipeline, signals: Signals, trained: adapter.Trained, config: dict[str, Any]) -> Candidate:
    return Candidate(
        kind="adapter",
        user=signals.user,
        base=pipeline.model.fingerprint,
        adapter=pipeline.store.blobs.put(peft.to_bytes(trained.tensors)),
        adapter_config=trained.adapter_config | {"base_model_name_or_path": models.recorded(pipeline.model)},
        config=config,
        steps=trained.steps,
        losses=tuple(round(x, 5) for x in trained.losses),
        parents=(digest(signals),),
        best=trained.best and replace(trained.best, loss=round(trained.best.loss, 5)),
    )
