"""Rows that pick their own adapter: alone or mixed, trained or served, on every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from stillhouse.errors import InputError, ModelError
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.lora import experts as lora_experts
from stillhouse.lora.rows import RowSlots
from tests import architectures

MODELS = architectures.ALL | architectures.MORE_EXPERTS
SMALL = LoraConfig(rank=4, alpha=8.0)
ORDERS = [[0, 0, 1, 1, 2, 2], [2, 2, 2, 2, 2, 2], [1, -1, 0, 2, 2, 0], [0, 0, 0, 1, 2, 2], [-1, -1, 2, 2, 0, 0]]


def tokens(rows: int = 6, length: int = 17) -> Tensor:
    return torch.randint(0, 320, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(network: nn.Module, ids_BT: Tensor) -> Tensor:
    out: Tensor = network(input_ids=ids_BT).logits
    return out


def filled(network: PreTrainedModel, slots: int = 3, config: LoraConfig = SMALL) -> AdapterBank:
    """A bank whose slots differ and matter."""
    bank = AdapterBank(network, slots, config)
    for slot in range(slots):
        bank.reset(slot, seed=slot)
    with torch.no_grad():
        for stack in bank.parameters()[1::2]:
            stack.normal_(std=0.1, generator=torch.Generator().manual_seed(len(stack)))
    return bank


def train(bank: AdapterBank, network: PreTrainedModel, ids_BT: Tensor, slots: Sequence[int], steps: int = 4) -> None:
    """Plain SGD with per-slot clipping; each row's loss is its own, so a slot's gradient is that of its rows."""
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.01)
    for _ in range(steps):
        with bank.rows(slots):
            out_BTV = network(input_ids=ids_BT).logits
        loss = nn.functional.cross_entropy(out_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="sum")
        loss.backward()
        bank.clip_per_slot(1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(params=list(MODELS.values()), ids=list(MODELS))
def make(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    made: Callable[[], PreTrainedModel] = request.param
    return made


def test_each_row_of_a_mixed_batch_gets_what_its_slot_gives_alone(make: Callable[[], PreTrainedModel]) -> None:
    network, ids_BT = make(), tokens()
    base_BTV = logits(network, ids_BT)
    bank = filled(network)
    alone = {-1: base_BTV}
    for slot in range(3):
        with bank.rows([slot] * 6):
            alone[slot] = logits(network, ids_BT)
        assert (alone[slot] - base_BTV).abs().max() > 0.1
    for order, wide in product(ORDERS, (False, True)):
        with bank.rows(order, wide=wide):
            mixed_BTV = logits(network, ids_BT)
        expected_BTV = torch.stack([alone[slot][row] for row, slot in enumerate(order)])
        torch.testing.assert_close(mixed_BTV, expected_BTV, rtol=0, atol=2e-5)


def test_the_bank_does_nothing_outside_of_rows_and_after_detach(make: Callable[[], PreTrainedModel]) -> None:
    network, ids_BT = make(), tokens()
    base_BTV = logits(network, ids_BT)
    weights = {name: p.clone() for name, p in network.named_parameters()}
    assert all(p.requires_grad for p in network.parameters())
    bank = filled(network)
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(logits(network, ids_BT), base_BTV)
    for nothing in (None, [-1] * 6):
        with bank.rows([0] * 6), bank.rows(nothing):
            assert torch.equal(logits(network, ids_BT), base_BTV)
    bank.detach()
    with bank.rows([0] * 6):
        assert torch.equal(logits(network, ids_BT), base_BTV)
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in network.modules())


def test_slots_trained_together_equal_each_trained_alone(make: Callable[[], PreTrainedModel]) -> None:
    ids_BT = tokens(rows=6)
    network = make()
    together = AdapterBank(network, 3, SMALL)
    for slot in range(3):
        together.reset(slot, seed=slot)
    train(together, network, ids_BT, [0, 0, 1, 1, 2, 2])
    together.detach()
    for slot in range(3):
        alone = AdapterBank(network, 1, SMALL)
        alone.reset(0, seed=slot)
        start = alone.export(0)
        train(alone, network, ids_BT[2 * slot : 2 * slot + 2], [0, 0])
        alone.detach()
        for name, tensor in alone.export(0).items():
            torch.testing.assert_close(together.export(slot)[name], tensor, rtol=0, atol=3e-5)
            assert (tensor - start[name]).abs().max() > 1e-3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("few", "wide"), [(0, False), (10_000, False), (0, True)])
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_fast_experts_equal_the_reference(
    name: str, few: int, wide: bool, order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_experts, "FEW_TOKENS", few)
    network = MODELS[name]()
    bank = filled(network)
    up, down = (s for s in bank.sites if s.weight.startswith("model.layers.1.mlp.experts"))
    hidden_NH = torch.randn(30, 32, requires_grad=True)
    routing_NK, expert_NK = torch.randn(30, 4).softmax(-1).topk(2)
    slot_N = torch.tensor(order).repeat_interleave(5)
    found = []
    rows = RowSlots(order, bank.slots, wide)
    given = (up.module, hidden_NH, expert_NK, routing_NK, slot_N, (up, down), bank.scale)
    for out_NH in (lora_experts.adapted_forward(*given, rows), lora_experts.reference_forward(*given)):
        wanted = [hidden_NH, up.a, up.b, down.a, down.b]
        found.append((out_NH, *torch.autograd.grad(out_NH.square().sum(), wanted)))
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_a_broken_slot_stays_alone() -> None:
    network, ids_BT = architectures.qwen3_moe(), tokens()
    bank = filled(network)
    order = [0, 0, 1, 1, -1, -1]
    with bank.rows(order):
        before_BTV = logits(network, ids_BT)
    with torch.no_grad():
        for stack in bank.parameters():
            stack[0] = float("nan")
    with bank.rows(order):
        after_BTV = logits(network, ids_BT)
        network(input_ids=ids_BT).logits[2:].sum().backward()
    torch.testing.assert_close(after_BTV[2:], before_BTV[2:])
    assert all(p.grad is not None and p.grad[1:].isfinite().all() for p in bank.parameters())


def test_changes_within_one_context_are_seen() -> None:
    network, ids_BT = architectures.qwen3(), tokens()
    bank = filled(network)
    with bank.rows([0, 1, 0, 1, 0, 1]):
        before_BTV = logits(network, ids_BT)
        bank.load(0, bank.export(1), bank.adapter_config("base"))
        after_BTV = logits(network, ids_BT)
    assert not torch.equal(after_BTV[0], before_BTV[0])
    assert torch.equal(after_BTV[1], before_BTV[1])


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe"])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(name: str) -> None:
    network, ids_BT = architectures.ALL[name](), tokens()
    bank = filled(network)
    with bank.rows([2, 0, -1, 1, 1, 0]), torch.inference_mode():
        whole_BTV = network(input_ids=ids_BT).logits
        cache = network(input_ids=ids_BT[:, :12]).past_key_values
        steps = [network(input_ids=ids_BT[:, t : t + 1], past_key_values=cache).logits for t in range(12, 17)]
    torch.testing.assert_close(torch.cat(steps, 1), whole_BTV[:, 12:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "olmoe"])
def test_bfloat16_weights_and_autocast_stay_near_float32(name: str) -> None:
    network, ids_BT = architectures.ALL[name](), tokens()
    bank = filled(network)
    with bank.rows(ORDERS[2]):
        exact_BTV = logits(network, ids_BT)
        with torch.autocast("cpu", torch.bfloat16):
            mixed_BTV = logits(network, ids_BT)
            network(input_ids=ids_BT, labels=ids_BT).loss.backward()
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.isfinite().all() for p in bank.parameters())
    bank.detach()
    halved = network.bfloat16()
    bank = filled(halved)
    with bank.rows(ORDERS[2]):
        half_BTV = logits(halved, ids_BT)
        halved(input_ids=ids_BT, labels=ids_BT).loss.backward()
    assert half_BTV.dtype == torch.bfloat16 and bank.parameters()[0].dtype == torch.float32
    for near_BTV in (mixed_BTV, half_BTV):
        assert (near_BTV.float() - exact_BTV).abs().mean() < 0.03 * exact_BTV.std()


def test_reset_is_deterministic_and_starts_at_the_base() -> None:
    network, ids_BT = architectures.qwen3_moe(), tokens()
    base_BTV = logits(network, ids_BT)
    bank = AdapterBank(network, 2, SMALL)
    bank.reset(0, seed=5)
    bank.reset(1, seed=5)
    first, second = bank.export(0), bank.export(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    bank.reset(1, seed=6)
    assert any(not torch.equal(first[name], t) for name, t in bank.export(1).items())
    for name, tensor in first.items():
        assert tensor.is_contiguous() and tensor.dtype == torch.float32
        if "lora_B" in name:
            assert not tensor.any()
        else:  # uniform within 1 / sqrt(in), as nn.Linear and PEFT start
            assert 0.8 < tensor.abs().max() * tensor.shape[1] ** 0.5 <= 1
    with bank.rows([0] * 6):
        torch.testing.assert_close(logits(network, ids_BT), base_BTV, rtol=0, atol=1e-5)


def test_export_and_load_are_inverse_and_pad_lower_ranks() -> None:
    network, ids_BT = architectures.qwen3_moe(), tokens()
    small = filled(network)
    adapter, config = small.export(1), small.adapter_config("base")
    with small.rows([1] * 6):
        expected_BTV = logits(network, ids_BT)
    small.detach()
    large = filled(network, 2, LoraConfig(rank=6, alpha=5.0))
    large.load(1, adapter, config)
    with large.rows([1] * 6):
        torch.testing.assert_close(logits(network, ids_BT), expected_BTV, rtol=0, atol=1e-5)
    large.detach()
    same = filled(network, 1)
    same.load(0, adapter, config)
    assert all(torch.equal(tensor, adapter[name]) for name, tensor in same.export(0).items())


def test_targets_can_be_chosen() -> None:
    network = architectures.qwen3_moe()

    def leaves(config: LoraConfig) -> set[str]:
        bank = AdapterBank(network, 1, config)
        bank.detach()
        return {site.weight.split("layers.")[1][2:] for site in bank.sites}

    attention = {f"self_attn.{p}_proj.weight" for p in "qkvo"}
    experts = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert leaves(LoraConfig(rank=2)) == attention | experts
    assert leaves(LoraConfig(rank=2, targets="attention")) == attention
    assert leaves(LoraConfig(rank=2, targets="mlp")) == experts
    assert leaves(LoraConfig(rank=2, experts=False)) == attention


def test_an_adapter_of_fewer_targets_leaves_the_others_at_the_base() -> None:
    network, ids_BT = architectures.llama(), tokens()
    narrow = filled(network, 1, LoraConfig(rank=4, alpha=8.0, targets="attention"))
    adapter, config = narrow.export(0), narrow.adapter_config("base")
    with narrow.rows([0] * 6):
        expected_BTV = logits(network, ids_BT)
    narrow.detach()
    wide = filled(network, 1)
    wide.load(0, adapter, config)
    with wide.rows([0] * 6):
        torch.testing.assert_close(logits(network, ids_BT), expected_BTV, rtol=0, atol=1e-5)


def test_an_adapter_that_does_not_fit_is_refused_in_one_line_and_changes_nothing() -> None:
    bank = filled(architectures.qwen3_moe())
    good, config = bank.export(0), bank.adapter_config("base")
    query = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    experts = "base_model.model.model.layers.0.mlp.experts.lora_B.weight"
    wrong: list[tuple[dict[str, Tensor], dict[str, object], str]] = [
        (good, {"peft_type": "LOHA"}, "only LORA"),
        (good, {"use_dora": True}, "use_dora = True"),
        (good | {"x.lora_A.weight": torch.zeros(4, 32)}, {}, "has no place here"),
        ({n: t for n, t in good.items() if n != query}, {}, "q_proj.lora_A.weight' is missing"),
        ({n: t for n, t in good.items() if "layers.1.self_attn" not in n}, {}, "layers.1.self_attn.* is missing"),
        (good | {query: torch.zeros(4, 31)}, {}, "shapes"),
        (good | {query: torch.zeros(4)}, {}, "shapes"),
        (good | {experts: torch.zeros(32, 8)}, {}, "4 experts"),
    ]
    for tensors, settings, line in wrong:
        with pytest.raises(ModelError, match=line) as caught:
            bank.load(1, tensors, config | settings)
        assert "\n" not in str(caught.value)
    higher = filled(architectures.qwen3_moe(), 1, LoraConfig(rank=5))
    with pytest.raises(ModelError, match="rank 5; at most 4"):
        bank.load(1, higher.export(0), higher.adapter_config("base"))
    untouched = filled(architectures.qwen3_moe())
    assert all(torch.equal(t, untouched.export(1)[name]) for name, t in bank.export(1).items())


def test_gradients_are_clipped_per_slot() -> None:
    network, ids_BT = architectures.llama(), tokens()
    bank = filled(network)
    assert bank.per_slot_norms().tolist() == [0, 0, 0]
    with bank.rows([0, 0, 0, 1, 1, 1]):
        loss_B = -network(input_ids=ids_BT).logits.log_softmax(-1)[:, :, 7].sum(1)
    (loss_B * torch.tensor([100.0, 100, 100, 1e-3, 1e-3, 1e-3])).sum().backward()
    large, small, none = bank.per_slot_norms().tolist()
    assert large > 1 > small > 0 == none
    assert bank.clip_per_slot(1.0).tolist() == [large, small, none]
    assert bank.per_slot_norms().tolist() == pytest.approx([1.0, small, 0.0], rel=1e-5)


def test_wrong_use_is_one_clear_line() -> None:
    network = architectures.qwen3_moe()
    with pytest.raises(InputError, match="rank: 0"):
        AdapterBank(network, 1, LoraConfig(rank=0))
    with pytest.raises(InputError, match="slots: 0"):
        AdapterBank(network, 0)
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no 'all' linear layer"):
        AdapterBank(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)), 1)
    bank = filled(network)
    for slots in ([0, 3], [-2, -1], [-2, -2]):
        with pytest.raises(InputError, match="allowed are 0 to 2"), bank.rows(slots):
            pass
    for call in (lambda: bank.reset(3, 0), lambda: bank.export(-1)):
        with pytest.raises(InputError, match="allowed are 0 to 2"):
            call()
    with pytest.raises(InputError, match="a batch of 6 rows with slots for 2 rows"), bank.rows([0, 1]):
        logits(network, tokens())


def test_an_answer_and_then_a_step_in_one_context() -> None:
    network = architectures.qwen3_moe()
    bank = filled(network, 1)
    with bank.rows([0] * 6, wide=True):
        with torch.inference_mode():
            network(tokens())
        network(tokens()).logits.sum().backward()
    assert all(p.grad is not None for p in bank.parameters())


@pytest.mark.parametrize("of", [torch.float16, torch.bfloat16])
def test_experts_under_another_type_than_their_tokens(of: torch.dtype) -> None:
    network, ids_BT = architectures.qwen3_moe(), tokens(rows=40)
    bank = filled(network, 1)
    with torch.no_grad(), torch.autocast("cpu", of):
        with bank.rows([0] * 40):
            expected = logits(network, ids_BT)
        with bank.rows([0] * 40, wide=True):
            found = logits(network, ids_BT)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3 * float(expected.abs().max()))


def test_adapters_whose_writes_nobody_counts_are_read_anew_for_every_batch() -> None:
    """Torch keeps no count of writes into inference tensors; a bank made of them must not answer from old weights."""
    network = architectures.ALL["llama"](320)
    with torch.inference_mode():
        bank = filled(network)
        with bank.rows([2, 0, 1, -1, 0, 2]):
            before = logits(network, tokens())
            for stack in bank.parameters():
                stack.mul_(3.0)
            assert not torch.equal(logits(network, tokens()), before)
