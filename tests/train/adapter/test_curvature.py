"""Curvature: the form is its definition, its gradient is the form's, and it foretells the drift that is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stillhouse.generate import head
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.text import corpus
from stillhouse.train.adapter import curvature as _curvature
from stillhouse.train.adapter.curvature import Curvature, curvature, windows

Make = Callable[..., Model]
ARCHITECTURES = ["llama", "qwen3", "gemma3", "qwen3_moe", "olmoe"]
TOKENS = 768


SMALL = LoraConfig(4, 8.0)


@contextmanager
def filled(model: Model, slots: int = 1, size: float = 1.0, config: LoraConfig = SMALL) -> Iterator[AdapterBank]:
    """A bank with adapters drawn at random, in every target."""
    bank = AdapterBank(model.network, slots, config)
    try:
        torch.manual_seed(3)
        with torch.no_grad():
            for site in bank.sites:
                site.a.normal_(0, site.a.shape[-1] ** -0.5)
                site.b.normal_(0, size)
        yield bank
    finally:
        bank.detach()


def measured(model: Model, bank: AdapterBank) -> float:
    """KL(base || student) in nats per token on the windows that the curvature is of."""
    ids_WT = windows(model, TOKENS, 0)
    found = []
    with torch.no_grad():
        for slots in (None, [0] * len(ids_WT)):
            with bank.rows(slots):
                hidden = model.network.base_model(input_ids=ids_WT, use_cache=False).last_hidden_state
            found.append(head(model)(hidden).double().log_softmax(-1))
    base, student = found
    return float((base.exp() * (base - student)).sum(-1).mean())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_foretells_the_drift(random_model: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of adapters at one layer each, about: K-FAC takes inputs and gradients for independent. Every token takes all
    experts here, for that others are chosen is a jump that no curvature foretells."""
    model = random_model(name)
    for module in model.network.modules():
        if hasattr(module, "top_k") and hasattr(module, "num_experts"):
            monkeypatch.setattr(module, "top_k", module.num_experts)
    with filled(model, size=1e-3) as bank:
        form = curvature(model, bank, TOKENS, 0)
        values = [site.b.detach().clone() for site in bank.sites]
        ratios = []
        for site, value in zip(bank.sites, values, strict=True):
            with torch.no_grad():
                for other in bank.sites:
                    other.b.zero_()
                site.b.copy_(value * 100)
            while (drift := measured(model, bank)) > 1e-3:
                with torch.no_grad():
                    site.b.mul_(0.3)
            if drift > 1e-7:
                ratios.append(float(form.pull(0.0)) / drift)
    assert len(ratios) > len(values) // 2
    assert 0.6 < sorted(ratios)[len(ratios) // 2] < 1.7, ratios
    assert sum(0.3 < ratio < 3 for ratio in ratios) > 0.7 * len(ratios), ratios


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_the_gradient_is_the_forms(random_model: Make, name: str) -> None:
    model = random_model(name)
    with filled(model, slots=2, size=0.1) as bank:
        form = curvature(model, bank, TOKENS, 0)
        for p in bank.parameters():
            p.grad = torch.ones_like(p)
        drift_S = form.pull(3.0)
        pulled = [p.grad - 1 for p in bank.parameters() if p.grad is not None]
        expected_S = by_definition(form)
        torch.testing.assert_close(drift_S, expected_S.detach().float())
        expected = torch.autograd.grad(3 * expected_S.sum(), list(bank.parameters()))
        for found, wanted in zip(pulled, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def by_definition(form: Curvature) -> Tensor:
    """1/2 tr(G dW C dW') of every slot, with dW written out."""
    total_S = torch.zeros(len(form.sites[0].a), dtype=torch.float64)
    for site, factors in zip(form.sites, form.factors, strict=True):
        a_SERI, b_SERO = (p.double() for p in site.as_rows(site.a, site.b))
        change_SEOI = form.scale * b_SERO.mT @ a_SERI
        for expert, blocks_KDD in enumerate(factors.input_EKDD.double()):
            moments_II = torch.block_diag(*blocks_KDD)
            change_SOI = change_SEOI[:, expert]
            squares_SO = ((change_SOI @ moments_II) * change_SOI).sum(-1)
            total_S = total_S + 0.5 * squares_SO @ factors.output_EO[expert].double()
    return total_S


def test_the_factors_are_the_moments_of_what_goes_in(random_model: Make) -> None:
    model = random_model("llama")
    query: nn.Module = model.network.get_submodule("model.layers.1.self_attn.q_proj")
    seen: list[Tensor] = []
    with filled(model) as bank:
        undo = query.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().flatten(0, 1)))
        form = curvature(model, bank, TOKENS, 7)
        undo.remove()
        by_weight = {site.weight: f for site, f in zip(form.sites, form.factors, strict=True)}
    x_TI = torch.cat(seen)
    first, key, value, out = (by_weight[f"model.layers.1.self_attn.{n}_proj.weight"] for n in "qkvo")
    torch.testing.assert_close(first.input_EKDD[0, 0], x_TI.T @ x_TI / len(x_TI), atol=1e-4, rtol=1e-4)
    assert first.input_EKDD is key.input_EKDD is value.input_EKDD, "one input, one matrix"
    assert first.input_EKDD is not out.input_EKDD
    assert float(first.rows_E) == float(value.rows_E) == len(x_TI)
    assert bool((first.output_EO > 0).all())


def test_wide_layers_keep_blocks(random_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    with filled(model) as bank:
        whole = curvature(model, bank, TOKENS, 0)
        monkeypatch.setattr(_curvature, "WIDEST", 24)
        blocks = curvature(replace(model), bank, TOKENS, 0)
        for one, other in zip(whole.factors, blocks.factors, strict=True):
            size = other.input_EKDD.shape[-1]
            assert 1 < size <= 24
            torch.testing.assert_close(other.input_EKDD[0, 0], one.input_EKDD[0, 0, :size, :size])
        torch.testing.assert_close(blocks.pull(0.0), by_definition(blocks).detach().float())


def test_many_experts_have_narrower_blocks(random_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("qwen3_moe")
    with filled(model) as bank:
        whole = sum(f.input_EKDD.nbytes for f in curvature(replace(model), bank, TOKENS, 0).factors)
        monkeypatch.setattr(_curvature, "BYTES", whole // 4)
        form = curvature(replace(model), bank, TOKENS, 0)
        assert sum({id(f.input_EKDD): f.input_EKDD.nbytes for f in form.factors}.values()) <= whole // 4
        torch.testing.assert_close(form.pull(0.0), by_definition(form).detach().float())


def test_without_text_nothing_is_held(random_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    monkeypatch.setattr(corpus, "anchors", lambda n, seed: [])
    with filled(model) as bank:
        assert float(curvature(model, bank, TOKENS, 99).pull(1.0)) == 0


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_the_network_is_left_as_it_was_and_read_once(random_model: Make, name: str) -> None:
    model = random_model(name)
    with filled(model) as bank:
        before = [(m, dict(vars(m)), dict(m._forward_hooks)) for m in model.network.modules()]
        first = curvature(model, bank, TOKENS, 0)
        for module, attributes, hooks in before:
            assert vars(module).get("forward") is attributes.get("forward")
            assert dict(module._forward_hooks) == hooks
        assert all(p.grad is None for p in [*model.network.parameters(), *bank.parameters()])
    with filled(model, slots=2) as bank:
        assert curvature(model, bank, TOKENS, 0).factors is first.factors
    with filled(model, config=LoraConfig(4, 8.0, "attention")) as bank:
        assert len(curvature(model, bank, TOKENS, 0).factors) == len(bank.sites)
