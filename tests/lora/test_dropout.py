"""Dropout of an adapter's inputs: in training alone, as PEFT does it, and in the folder that PEFT reads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from stillhouse.errors import InputError
from stillhouse.export.peft import write
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model

Make = Callable[..., Model]
IDS = torch.arange(2 * 9).view(2, 9) % 50


def filled(model: Model, dropout: float) -> AdapterBank:
    """A bank with one adapter that does something."""
    bank = AdapterBank(model.network, 1, LoraConfig(4, 8.0, dropout=dropout))
    bank.reset(0, 1)
    with torch.no_grad():
        for site in bank.sites:
            site.b.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return bank


@torch.no_grad()
def logits(model: Model, bank: AdapterBank, training: bool, wide: bool = False) -> torch.Tensor:
    bank.training = training
    torch.manual_seed(5)
    with bank.rows([0, 0], wide=wide):
        found: torch.Tensor = model.network(IDS).logits
    bank.training = False
    return found


def test_it_is_of_training_alone(random_model: Make) -> None:
    model = random_model("llama")
    found = {}
    for dropout in (0.0, 0.3):
        bank = filled(model, dropout)
        try:
            found[dropout] = [logits(model, bank, training) for training in (False, True, True)]
            torch.testing.assert_close(logits(model, bank, True, wide=True), found[dropout][1])
        finally:
            bank.detach()
    still, drawn, again = found[0.3]
    assert torch.equal(still, found[0.0][0])
    assert torch.equal(found[0.0][1], still)
    assert not torch.allclose(drawn, still, atol=1e-3)
    assert torch.equal(drawn, again), "the same seed"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 still asks
def test_peft_reads_the_folder_and_drops_the_same_inputs(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    bank = filled(model, 0.3)
    try:
        write(tmp_path, bank.export(0), bank.adapter_config(str(model.path)))
        still, drawn = logits(model, bank, False), logits(model, bank, True)
    finally:
        bank.detach()
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model.network), tmp_path)
    assert vars(theirs.peft_config["default"])["lora_dropout"] == 0.3
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, still)
        torch.manual_seed(5)
        torch.testing.assert_close(theirs.train()(IDS).logits, drawn)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_what_is_no_share_is_refused(random_model: Make, dropout: float) -> None:
    with pytest.raises(InputError, match=r"lora\.dropout: .* is not allowed; it is a share, 0 to under 1"):
        AdapterBank(random_model("llama").network, 1, LoraConfig(4, 8.0, dropout=dropout))


def test_stacked_experts_have_none(random_model: Make) -> None:
    network = random_model("qwen3_moe").network
    with pytest.raises(InputError, match=r"lora\.dropout: 0\.1 is not for stacked experts; .* lora\.experts = false"):
        AdapterBank(network, 1, LoraConfig(4, 8.0, dropout=0.1))
    AdapterBank(network, 1, LoraConfig(4, 8.0, experts=False, dropout=0.1)).detach()
