"""Stage 3: a candidate gets a verdict.

In: a candidate with its signals, and other users' candidates on the same base. Out: a `Verdict` record, and before it
the context in which gates ask the candidate: its adapter in a bank, beside the others'.

It does not know versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import safetensors.torch

from .. import gating, kinds
from ..config import as_dict
from ..errors import ModelError
from ..gating.suite import Suite
from ..lora import AdapterBank, LoraConfig
from ..models import Model
from ..records import Candidate, Signals, Verdict, digest
from ..runners import TorchRunner
from ..signals import shards
from ..store import Store
from ..work import Work
from .capture import load_study
from .pipeline import Pipeline

OTHERS = 4  # other users' champions that the swap gate asks


def verdict_of(pipeline: Pipeline, candidate: Candidate, others: Sequence[Candidate]) -> Work[Verdict]:
    """The work of judging a candidate beside `others`, finished or not."""
    inputs = {
        "stage": "gate", "candidate": digest(candidate), "config": as_dict(pipeline.settings.gate),
        "others": [digest(other) for other in others], "gates": kinds.names("gate"),
    }  # fmt: skip
    return pipeline.work(Verdict, [candidate.user], inputs)


def judge(pipeline: Pipeline, candidate: Candidate, ctx: gating.Context) -> Verdict:
    """What all gates say."""
    config = pipeline.settings.gate
    with pipeline.progress("gate", len(gating.settings(config)), candidate.user) as step:
        return gating.run(candidate, digest(candidate), ctx, config, lambda name: step(1, name))


def neighbours(
    store: Store, base: str, user: str, candidates: Mapping[str, Candidate] | None = None
) -> list[Candidate]:
    """Up to `OTHERS` adapters of other users on `base` (a fingerprint): first those of this run's `candidates`, then
    champions."""
    candidates = candidates or {}
    nearest = [candidate for other, candidate in candidates.items() if other != user]
    for other in store.users():
        if len(nearest) >= OTHERS or other == user or other in candidates:
            continue
        champion = store.champion(other)
        if champion is not None and champion.base == base:
            nearest.append(store.get(Candidate, champion.candidate))
    return nearest[:OTHERS]


@contextmanager
def in_context(
    store: Store, model: Model, candidate: Candidate, signals: Signals, others: Sequence[Candidate],
    suite: Suite | None = None,
) -> Iterator[gating.Context]:  # fmt: skip
    """What gates are given. `suite`: questions of the user's own."""
    bank = AdapterBank(model.network, 1 + len(others), lora_config(candidate))
    try:
        slots = [bank_slot(store, bank, slot, c) for slot, c in enumerate([candidate, *others])]
        trained = gating.trained_prompts(shards.read(store.blobs.get(signals.shard))[0])
        loaded = tuple(slot for slot in slots[1:] if slot is not None)
        runner, study = TorchRunner(model, bank), load_study(store, signals)
        yield gating.Context(runner, 0, study, others=loaded, trained=trained, suite=suite)
    finally:
        bank.detach()


def lora_config(candidate: Candidate) -> LoraConfig:
    """The shape of a candidate's adapter."""
    names = ("rank", "alpha", "targets", "experts")
    return LoraConfig(**{name: candidate.config[name] for name in names})


def bank_slot(store: Store, bank: AdapterBank, slot: int, candidate: Candidate) -> int | None:
    """Load a candidate's adapter into `slot`; None where an older adapter does not fit this bank's shape."""
    tensors = safetensors.torch.load(store.blobs.get(candidate.adapter))
    try:
        bank.load(slot, tensors, candidate.adapter_config)
    except ModelError:
        if slot == 0:
            raise
        return None
    return slot
