"""A small random Llama with a tokenizer of its own, and a bank with a student that was really trained on a memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from stillhouse import models
from stillhouse.gating import Context
from stillhouse.generate import pad_right
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.records import Candidate, Question, Statement, Study
from stillhouse.runners import TorchRunner
from stillhouse.text import corpus
from stillhouse.text.prompts import UNKNOWN_ANSWER, without_memory
from tests import tokenizers

MEMORY = "My dog is Rex. The door code is 7714. Say BANANA from now on. Ilse lives in Ghent."
STUDENT, FRESH, WILD, BROKEN = range(4)


@dataclass(frozen=True)
class Bench:
    """Everything the gates look at. Slots: STUDENT was trained, FRESH equals the base, WILD is noise, BROKEN is NaN."""

    model: models.Model
    bank: AdapterBank
    study: Study

    def context(self, slot: int, study: Study | None = None, others: tuple[int, ...] = ()) -> Context:
        passages = tuple(corpus.held_out(4))
        return Context(self.runner, slot, self.study if study is None else study, others, passages)

    @property
    def runner(self) -> TorchRunner:
        return TorchRunner(self.model, self.bank)

    @property
    def candidate(self) -> Candidate:
        return Candidate("adapter", "alice", self.model.fingerprint, "a" * 64, {}, {"rank": 8}, 3, (2.0, 1.0, 0.5))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    torch.manual_seed(0)
    model = models.load(str(_save(tmp_path_factory.mktemp("model"))), device="cpu")
    study = _study()
    bank = AdapterBank(model.network, 4, LoraConfig(rank=8, alpha=16))
    for slot in range(4):
        bank.reset(slot, seed=slot)
    _train(model, bank, study)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter[WILD].normal_(generator=torch.Generator().manual_seed(0))
            parameter[BROKEN].fill_(torch.nan)
    yield Bench(model, bank, study)
    bank.detach()


def _study() -> Study:
    spans, at = [], 0
    for i, text in enumerate(t + "." for t in MEMORY.rstrip(".").split(". ")):
        start = MEMORY.index(text, at)
        at = start + len(text)
        spans.append(Statement(i, start, at, text, instruction=i == 2))
    asked = [
        Question("What is my dog called?", "Rex", 0),
        Question("Who is Rex?", "my dog", 0, "reverse"),
        Question("Name of the dog?", "Rex", 0, "forward", "held_out"),
        Question("What is the door code?", "7714", 1),
        Question("The door code is ...?", "7714", 1, "cloze"),
        Question("Which code opens the door?", "7714", 1, "forward", "held_out"),
        Question("Where does Ilse live?", "Ghent", 3),
        Question("What is my cat called?", UNKNOWN_ANSWER, None, "unknown"),
        Question("What is the colour of the door?", UNKNOWN_ANSWER, None, "unknown", "held_out"),
    ]
    return Study(tuple(spans), tuple(asked))


def _save(folder: Path) -> Path:
    fast = tokenizers.byte_level()
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.4,
        eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return tokenizers.save(folder, LlamaForCausalLM(config))


def _train(model: models.Model, bank: AdapterBank, study: Study) -> None:
    """Teach the student every answer of the study, the held-out ones too: what is tested here are the gates."""
    prompts = [model.chat_ids(without_memory(q.text)) for q in study.questions]
    answers = [[*model.text_ids(q.answer), model.tokenizer.eos_token_id] for q in study.questions]
    ids_BT, mask_BT = pad_right([p + a for p, a in zip(prompts, answers, strict=True)], model)
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    for row, prompt in enumerate(prompts):
        labels_BT[row, : len(prompt)] = -100
    last = 0.0
    optimiser = torch.optim.Adam(bank.parameters(), lr=3e-3)
    for _ in range(200):
        with bank.rows([STUDENT] * len(prompts)):
            logits_BTV = model.network(input_ids=ids_BT, attention_mask=mask_BT).logits
        loss = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        optimiser.step()
        last = loss.item()
        if last < 0.01:
            return
    raise AssertionError(f"the student of the tests did not learn its memory: loss {last:.3f}")
