"""Consolidated users, asked again: their adapters loaded one at a time into a bank, with questions of our own.

In: a store's home and the model. Out: answers without any memory in the context. It does not know what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stillhouse import consolidation
from stillhouse.consolidation import Consolidation
from stillhouse.gating import Context
from stillhouse.generate import Sampling, generate
from stillhouse.lora import AdapterBank
from stillhouse.models import Model
from stillhouse.records import Candidate, Study
from stillhouse.runners import TorchRunner
from stillhouse.store import Store
from stillhouse.text.prompts import without_memory

LONGEST_ANSWER = 48  # new tokens


class Student:
    """One user's adapter on the base, approved or not."""

    def __init__(self, model: Model, bank: AdapterBank, study: Study):
        self.model, self.bank, self.study = model, bank, study

    def answers(self, questions: Sequence[str]) -> list[str]:
        """Greedy answers from the weights alone."""
        prompts = [self.model.chat_ids(without_memory(q)) for q in questions]
        slots = [0] * len(prompts)
        found = generate(self.model, prompts, Sampling(LONGEST_ANSWER), bank=self.bank, slots=slots)
        return [self.model.text(ids) for ids in found]

    def context(self, texts: Sequence[str]) -> Context:
        """What a gate looks at, with held-out passages of the caller's."""
        return Context(TorchRunner(self.model, self.bank), 0, self.study, texts=tuple(texts))


@contextmanager
def student(model: Model, home: Path, result: Consolidation) -> Iterator[Student]:
    """The adapter of this consolidation, while the block runs."""
    store = Store(home)
    candidate = store.get(Candidate, result.version.candidate)
    bank = AdapterBank(model.network, 1, consolidation.lora_config(candidate))
    try:
        consolidation.bank_slot(store, bank, 0, candidate)
        yield Student(model, bank, result.study)
    finally:
        bank.detach()
