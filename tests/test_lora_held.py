"""Gathered weights that are kept: the logits of the bank's other paths, while rows and adapters come and go."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.errors import InputError
from stillhouse.lora import AdapterBank, LoraConfig
from tests import architectures


def filled(network: PreTrainedModel, slots: int = 4) -> AdapterBank:
    bank = AdapterBank(network, slots, LoraConfig(rank=3, alpha=6.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return bank


@torch.inference_mode()
def logits(network: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    found: Tensor = network(input_ids=ids_BT).logits
    return found


def ids(rows: int, tokens: int = 5) -> Tensor:
    return torch.randint(5, 60, (rows, tokens), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("name", architectures.ALL)
def test_rows_that_come_and_go_have_the_logits_of_their_slots(name: str) -> None:
    network, chance = architectures.ALL[name](), random.Random(3)
    bank = filled(network)
    held = bank.held()
    for _ in range(8):
        slots = [chance.randint(-1, 3) for _ in range(chance.randint(1, 6))]
        ids_BT = ids(len(slots), chance.choice([1, 5]))
        with bank.rows(slots):
            expected_BTV = logits(network, ids_BT)
        with bank.holding(held, slots):
            found_BTV = logits(network, ids_BT)
        torch.testing.assert_close(found_BTV, expected_BTV, rtol=0, atol=2e-5)


def test_another_adapter_in_the_same_slot_is_seen() -> None:
    network, ids_BT = architectures.qwen3(), ids(2)
    bank = filled(network)
    held = bank.held()
    for step in ("as it was", "loaded", "reset"):
        if step == "loaded":
            bank.load(1, bank.export(3), bank.adapter_config("base"))
        elif step == "reset":
            bank.reset(1, 0)
        with bank.holding(held, [0, 1]):
            found_BTV = logits(network, ids_BT)
        with bank.rows([0, 1]):
            torch.testing.assert_close(found_BTV, logits(network, ids_BT), rtol=0, atol=2e-5)
    with bank.holding(held, [-1, -1]):
        found_BTV = logits(network, ids_BT)
    assert torch.equal(found_BTV, logits(network, ids_BT)), "the base alone"


def test_targets_with_one_input_share_a_product_from_the_second_forward_on() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    held = bank.held()
    layers = network.config.num_hidden_layers
    assert len(held._groups) == 7 * layers
    with bank.holding(held, [0, 1]):
        logits(network, ids(2))
    assert len(held._groups) == 4 * layers, "q, k and v; o; gate and up; down"
    assert all(group._x is None and group._z_of is None for group in held._groups), "no activation outlives its step"


def test_targets_of_one_input_may_go_different_ways() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    held = bank.held()
    with bank.holding(held, [0, 1]):
        logits(network, ids(2))
    group = next(group for group in held._groups if len(group.sites) == 3)
    for seed in range(2):  # q by torch, for its values are not in rows; k and v by the kernel, where there is one
        x_N1I = torch.randn(2, 1, group.a_NGI.shape[2], generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(), bank.holding(held, [0, 1]):
            for place, site in enumerate(group.sites):
                step = 2 if place == 0 else 1
                out_N1O = torch.zeros(2, 1, step * site.b.shape[1])[..., ::step]
                expected_N1O = torch.stack([x_N1I[row] @ site.a[row].T @ site.b[row].T for row in (0, 1)])
                found_N1O = group.add(place, x_N1I, x_N1I, out_N1O, 1.0)
                torch.testing.assert_close(found_N1O, expected_N1O, rtol=1e-4, atol=1e-5)


def test_only_what_changed_is_copied() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    held = bank.held()
    for slots in ([0, 1, 2], [0, 1, 2]):
        with bank.holding(held, slots):
            logits(network, ids(3))
    before = [group.a_NGI[0].clone() for group in held._groups]
    with torch.no_grad():  # not by `load`: not seen, and so not copied again
        for parameter in bank.parameters():
            parameter[0] = 1.0
    with bank.holding(held, [0, 3]):
        logits(network, ids(2))
    assert all(torch.equal(group.a_NGI[0], a) for group, a in zip(held._groups, before, strict=True))


def test_a_broken_adapter_stays_in_its_row() -> None:
    network, ids_BT = architectures.qwen3_moe(), ids(3)
    bank = filled(network)
    with bank.rows([0, 1, -1]):
        expected_BTV = logits(network, ids_BT)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter[0] = float("nan")
    with bank.holding(bank.held(), [0, 1, -1]):
        found_BTV = logits(network, ids_BT)
    torch.testing.assert_close(found_BTV[1:], expected_BTV[1:], rtol=0, atol=2e-5)


def test_wrong_use_is_one_clear_line() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    with pytest.raises(InputError, match="slots"), bank.holding(bank.held(), [9]):
        pass
    with pytest.raises(InputError, match="a batch of 3 rows with slots for 2 rows"), bank.holding(bank.held(), [0, 1]):
        logits(network, ids(3))
