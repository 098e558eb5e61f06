"""The adapters of a batch that goes on: the logits of `rows`, while rows and adapters come and go."""

from __future__ import annotations

import random
from typing import Any, Literal
from weakref import ref

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.errors import InputError
from stillhouse.lora import AdapterBank, BatchAdapters, LoraConfig
from stillhouse.lora.gathered import GatheredAdapters
from stillhouse.lora.kernel import rows_kernel
from stillhouse.lora.packed import PackedAdapters
from tests import architectures

Way = Literal["kernel", "torch"]
both_ways = pytest.mark.parametrize("way", ["kernel", "torch"])


def batch_adapters(bank: AdapterBank, way: Way) -> BatchAdapters:
    if way == "kernel" and rows_kernel() is None:
        pytest.skip("the kernel was not built")
    batch = bank.batch_adapters(by_kernel=way == "kernel")
    assert isinstance(batch, PackedAdapters if way == "kernel" else GatheredAdapters)
    return batch


def filled(network: PreTrainedModel, slots: int = 4) -> AdapterBank:
    bank = AdapterBank(network, slots, LoraConfig(rank=3, alpha=6.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return bank


@torch.inference_mode()
def logits(network: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    output: Tensor = network(input_ids=ids_BT).logits
    return output


def ids(rows: int, tokens: int = 5) -> Tensor:
    return torch.randint(5, 60, (rows, tokens), generator=torch.Generator().manual_seed(rows))


@both_ways
@pytest.mark.parametrize("name", architectures.ALL)
def test_rows_that_come_and_go_have_the_logits_of_their_slots(name: str, way: Way) -> None:
    network, chance = architectures.ALL[name](), random.Random(3)
    bank = filled(network)
    batch = batch_adapters(bank, way)
    for _ in range(8):
        slots = [chance.randint(-1, 3) for _ in range(chance.randint(1, 6))]
        ids_BT = ids(len(slots), chance.choice([1, 5]))
        with bank.rows(slots):
            expected_BTV = logits(network, ids_BT)
        with bank.step(batch, slots):
            output_BTV = logits(network, ids_BT)
        torch.testing.assert_close(output_BTV, expected_BTV, rtol=0, atol=2e-5)


@both_ways
def test_another_adapter_in_the_same_slot_is_seen(way: Way) -> None:
    network, ids_BT = architectures.qwen3(), ids(2)
    bank = filled(network)
    batch = batch_adapters(bank, way)
    for step in ("as it was", "loaded", "reset"):
        if step == "loaded":
            bank.load(1, bank.export(3), bank.adapter_config("base"))
        elif step == "reset":
            bank.reset(1, 0)
        with bank.step(batch, [0, 1]):
            output_BTV = logits(network, ids_BT)
        with bank.rows([0, 1]):
            torch.testing.assert_close(output_BTV, logits(network, ids_BT), rtol=0, atol=2e-5)
    with bank.step(batch, [-1, -1]):
        output_BTV = logits(network, ids_BT)
    assert torch.equal(output_BTV, logits(network, ids_BT)), "the base alone"


@both_ways
def test_targets_with_one_input_share_a_product_from_the_second_forward_on(way: Way) -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, way)
    layers = network.config.num_hidden_layers
    assert isinstance(batch, PackedAdapters | GatheredAdapters) and len(batch.groups) == 7 * layers
    inputs: list[Any] = []
    projection = network.get_submodule("model.layers.0.self_attn.q_proj")
    with bank.step(batch, [0, 1]), projection.register_forward_pre_hook(lambda _, x: inputs.append(ref(x[0]))):
        logits(network, ids(2))
    assert len(batch.groups) == 4 * layers, "q, k and v; o; gate and up; down"
    assert [x() for x in inputs] == [None], "no activation outlives its step"


def test_what_is_not_for_the_kernel_goes_by_torch() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, "kernel")
    site = bank.sites[0]
    outer, inner = site.b.shape[1], site.a.shape[2]
    x_N1I = torch.randn(2, 1, inner, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), bank.step(batch, [0, 1]):
        assert batch.add(site, x_N1I, torch.zeros(2, 1, 2 * outer)[..., ::2]) is None, "it has gaps"
        assert batch.add(site, x_N1I, torch.zeros(2, 1, outer, dtype=torch.bfloat16)) is None
        out_N1O = torch.zeros(2, 1, outer)
        assert batch.add(site, x_N1I, out_N1O) is out_N1O
        expected_N1O = torch.stack([x_N1I[row] @ site.a[row].T @ site.b[row].T for row in (0, 1)]) * bank.scale
        torch.testing.assert_close(out_N1O, expected_N1O, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_bfloat16_holds_takes_half_the_bytes_and_answers_the_same() -> None:
    network = architectures.qwen3()
    bank = AdapterBank(network, 2, LoraConfig(rank=4, alpha=8.0))
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05)
            parameter[0] = parameter[0].bfloat16().float()
    batch = batch_adapters(bank, "kernel")
    assert isinstance(batch, PackedAdapters)
    for _ in range(2):
        with bank.step(batch, [0, 1]):
            output_BTV = logits(network, ids(2))
    with bank.rows([0, 1]):
        torch.testing.assert_close(output_BTV, logits(network, ids(2)), rtol=0, atol=2e-5)
    assert [batch.adapters[slot, 0].dtype for slot in (0, 1)] == [torch.bfloat16, torch.float32]


def test_only_what_changed_is_copied() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, "torch")
    assert isinstance(batch, GatheredAdapters)
    for slots in ([0, 1, 2], [0, 1, 2]):
        with bank.step(batch, slots):
            logits(network, ids(3))
    before = [group.a_NGI[0].clone() for group in batch.groups]
    with torch.no_grad():  # not by `load`: not seen, and so not copied again
        for parameter in bank.parameters():
            parameter[0] = 1.0
    with bank.step(batch, [0, 3]):
        logits(network, ids(2))
    assert all(torch.equal(group.a_NGI[0], a) for group, a in zip(batch.groups, before, strict=True))


def test_only_what_changed_is_packed() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, "kernel")
    assert isinstance(batch, PackedAdapters)
    for slots in ([0, 1, 2], [2, 0, 1], [-1]):
        with bank.step(batch, slots):
            logits(network, ids(len(slots)))
    before = dict(batch.adapters)
    assert len(before) == 3
    bank.reset(1, 0)
    with bank.step(batch, [0, 1]):
        logits(network, ids(2))
    assert batch.adapters[0, 0] is before[0, 0] and batch.adapters[1, 1] is not before[1, 0]
    assert (1, 0) not in batch.adapters, "what was in the slot before is let go"


def test_what_was_in_a_slot_before_is_let_go() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, "kernel")
    assert isinstance(batch, PackedAdapters)
    for seed in range(5):
        for slot in (0, 1):
            bank.reset(slot, seed)
            batch.prepare(slot)
        with bank.step(batch, [0, 1]):
            logits(network, ids(2))
        assert len(batch.adapters) <= 2, "one for each slot that is in use"
    assert set(batch.adapters) == {(0, 5), (1, 5)}


def test_a_flat_row_of_another_length_is_refused_before_anything_is_written() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    batch = batch_adapters(bank, "kernel")
    site = bank.sites[0]
    outer, inner = site.b.shape[1], site.a.shape[2]
    for tokens in (4, 6):  # two rows and a run of three are five
        out_1TO = torch.zeros(1, tokens, outer)
        wrong = pytest.raises(InputError, match=f"a batch of {tokens} tokens with slots for 5")
        with torch.no_grad(), bank.step(batch, [0, 1], [(2, 3)]), wrong:
            batch.add(site, torch.ones(1, tokens, inner), out_1TO)
        assert not bool(out_1TO.any())


@both_ways
def test_a_broken_adapter_stays_in_its_row(way: Way) -> None:
    network, ids_BT = architectures.qwen3_moe(), ids(3)
    bank = filled(network)
    with bank.rows([0, 1, -1]):
        expected_BTV = logits(network, ids_BT)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter[0] = float("nan")
    with bank.step(batch_adapters(bank, way), [0, 1, -1]):
        output_BTV = logits(network, ids_BT)
    torch.testing.assert_close(output_BTV[1:], expected_BTV[1:], rtol=0, atol=2e-5)


def test_wrong_use_is_one_clear_line() -> None:
    network = architectures.qwen3()
    bank = filled(network)
    with pytest.raises(InputError, match="slots"), bank.step(bank.batch_adapters(), [9]):
        pass
    with (
        pytest.raises(InputError, match="a batch of 3 rows with slots for 2 rows"),
        bank.step(bank.batch_adapters(), [0, 1]),
    ):
        logits(network, ids(3))
