"""Packed weights: the same products from all that is packed, as far as the bytes go, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.compute.experts import answering
from stillhouse.compute.packed import Once, pack, packed_experts
from stillhouse.lora import AdapterBank, LoraConfig
from tests.architectures import ALL

T = TypeVar("T")
WIDE = {"hidden_size": 256, "intermediate_size": 384}


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    return ALL["llama"](640, **WIDE)


def faster(name: str, make: Callable[[], T]) -> T:
    """Copies are faster, whatever processor this is."""
    return cast(T, True)


def slower(name: str, make: Callable[[], T]) -> T:
    """Copies are slower."""
    return cast(T, False)


def packed_of(network: PreTrainedModel) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Linear) and "forward" in vars(m)]


def test_the_logits_are_those_of_the_weights_as_they_lie(network: PreTrainedModel) -> None:
    ids_BT = torch.randint(0, 640, (5, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(ids_BT).logits
    undo = pack(network, 2**30, once=faster)
    assert len(packed_of(network)) == 2 * 3 + 1, "three wide layers of the MLP, and the head"
    with torch.inference_mode():
        torch.testing.assert_close(network(ids_BT).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network(ids_BT[:1, :1]).logits, expected[:1, :1], atol=1e-4, rtol=1e-4)
    network(ids_BT).logits.sum().backward()
    undo()
    assert not packed_of(network)
    with torch.inference_mode():
        assert torch.equal(network(ids_BT).logits, expected)


def test_no_more_bytes_than_allowed(network: PreTrainedModel) -> None:
    one = 256 * 384 * 4
    for limit, count in ((0, 0), (one - 1, 0), (2 * one, 2)):
        undo = pack(network, limit, once=faster)
        assert len(packed_of(network)) == count
        undo()


def test_other_types_are_left_alone() -> None:
    network = ALL["llama"](640, **WIDE).bfloat16()
    pack(network, 2**30, once=faster)
    assert not packed_of(network)


def test_a_bias_is_added() -> None:
    layer = nn.Linear(300, 300)
    expected = layer(torch.ones(2, 3, 300)).detach()
    pack(nn.Sequential(layer), 2**30, once=faster)
    with torch.inference_mode():
        torch.testing.assert_close(layer(torch.ones(2, 3, 300)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_what_an_adapter_learns_is_the_same(name: str) -> None:
    network = ALL[name](640, **WIDE, **({"moe_intermediate_size": 256} if name == "qwen3_moe" else {}))
    network.requires_grad_(False)
    bank = AdapterBank(network, 2, LoraConfig(rank=4, alpha=8.0))
    for slot in range(2):
        bank.reset(slot, slot)
    with torch.no_grad():
        for number, parameter in enumerate(bank.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    ids_BT = torch.randint(0, 640, (4, 40), generator=torch.Generator().manual_seed(0))

    def learned() -> list[Tensor]:
        for parameter in bank.parameters():
            parameter.grad = None
        with bank.rows([0, 0, 1, 1], wide=True):
            logits = network(ids_BT).logits
        logits.square().mean().backward()
        return [logits.detach(), *(p.grad for p in bank.parameters() if p.grad is not None)]

    plain = learned()
    undo = pack(network, 2**30, gradients=True, once=faster)
    assert packed_of(network)
    assert bool([m for m in network.modules() if packed_experts(m, "down_proj")]) == (name == "qwen3_moe")
    for one, another in zip(learned(), plain, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)
    undo()
    assert all(torch.equal(a, b) for a, b in zip(learned(), plain, strict=True))


@pytest.mark.parametrize("once", [faster, slower])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "olmoe"])
def test_answers_are_the_same_however_they_are_computed(name: str, once: Once) -> None:
    network = ALL[name](640, **WIDE, **({"moe_intermediate_size": 256} if name == "qwen3_moe" else {}))
    draws = torch.Generator().manual_seed(0)
    for shape in (60, 9), (3, 4):
        ids_BT = torch.randint(0, 640, shape, generator=draws)
        with torch.inference_mode():
            expected = network(ids_BT).logits
            with answering(network, once=once):
                assert bool(packed_of(network)) == (once is faster)
                torch.testing.assert_close(network(ids_BT).logits, expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(network(ids_BT).logits, expected)


def test_whether_copies_are_faster_is_asked_once_for_a_shape_and_a_number_of_threads() -> None:
    names: list[str] = []

    def once(name: str, make: Callable[[], T]) -> T:
        names.append(name)
        return make()

    for sizes in ((300, 400), (300, 400), (400, 300)):
        pack(nn.Sequential(nn.Linear(*sizes)), 2**30, once=once)()
    assert names[0] == names[1] != names[2]
