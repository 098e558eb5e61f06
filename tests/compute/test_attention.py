"""Attention over rows side by side is attention row by row, in every way that it is computed; and where it does not
apply, nothing changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV3Config, DynamicCache

from stillhouse.compute import kernels
from stillhouse.compute.attention import CachedRows, Distinct, Text, UncachedRows, Visible, fits, forward, grouped
from stillhouse.errors import ModelError
from stillhouse.generate import Sampling, generate, prefill
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.trainer import padding_free

Make = Callable[..., Model]
HEADS, GROUPS, DIM, WINDOW = 4, 2, 8, 5
GREEDY = Sampling(max_new_tokens=5)


def layer(window: int | None) -> Any:
    """What attention asks of the module that it is of."""
    types = ["full_attention" if window is None else "sliding_attention"]
    config = SimpleNamespace(layer_types=types, sliding_window=window)
    return SimpleNamespace(config=config, layer_idx=0, num_key_value_groups=HEADS // GROUPS)


def drawn(tokens: int, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values of so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, heads, DIM, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def row_by_row(states: Sequence[Tensor], window: int | None, new: int) -> Tensor:
    """The definition: for each of the last `new` tokens and each head, a softmax over what stands before."""
    query_THD, keys_TGD, values_TGD = states
    out = []
    for at in range(len(query_THD) - new, len(query_THD)):
        seen = slice(0 if window is None else max(0, at + 1 - window), at + 1)
        keys, values = (s[seen].repeat_interleave(HEADS // GROUPS, 1) for s in (keys_TGD, values_TGD))
        weights_SH = ((keys * query_THD[at]).sum(-1) * DIM**-0.5).softmax(0)
        out.append((weights_SH[..., None] * values).sum(0))
    return torch.stack(out)


def joined(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(states) for states in zip(*rows, strict=True)]


def close(output: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize(("lengths", "compiled"), [((7, 1, 12), True), ((7, 1, 12), False), ((140, 3), True)])
def test_whole_rows(
    window: int | None, lengths: tuple[int, ...], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel, by plain products, and long ones by torch's own attention; behind tokens of others."""
    if not compiled:
        monkeypatch.setattr(kernels, "library", lambda: None)
    rows = [drawn(n, seed) for seed, n in enumerate(lengths)]
    group = UncachedRows(lengths, 4, torch.device("cpu"))
    assert group.tokens == slice(4, 4 + sum(lengths))
    output = group.attend(layer(window), joined(rows), {"is_causal": True})
    close(output, torch.cat([row_by_row(row, window, len(row[0])) for row in rows]))


@pytest.mark.parametrize("scores", [2**25, 200])
@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("known", [True, False])
def test_rows_that_go_on_from_a_cache(
    window: int | None, known: bool, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows behind a text, the second one padded on the left, and one behind nothing; or all behind nothing."""
    monkeypatch.setattr(grouped, "SCORES", scores)
    begun = drawn(6, 9)
    cache = DynamicCache()
    keys, values = (s.transpose(0, 1)[None] for s in begun[1:])
    cache.update(keys, values, 0)
    texts = [Text(cache, 6)] * 2 + [None] if known else None
    before = [6, 6, 0] if known else [0, 0, 0]
    rows = [drawn(n, seed) for seed, n in enumerate((5, 3, 5))]
    whole = [joined([begun, row]) if count else row for count, row in zip(before, rows, strict=True)]
    padded = [joined([drawn(5 - len(row[0]), 7), row]) for row in rows]
    own_BS = torch.tensor([[column >= 5 - len(row[0]) for column in range(5)] for row in rows])
    position_BS = (own_BS.cumsum(1) - 1).clamp(min=0) + torch.tensor(before)[:, None]
    own, parts = DynamicCache(), []
    for start, end in ((0, 4), (4, 5)):
        visible = Visible(position_BS[:, :end], own_BS[:, :end], end - start)
        group = CachedRows(0, 3, end - start, own, visible, texts)
        states = joined([[s[start:end] for s in row] for row in padded])
        parts.append(group.attend(layer(window), states, {"is_causal": True}).unflatten(0, (3, end - start)))
    for row, output_TH, states in zip(rows, torch.cat(parts, 1), whole, strict=True):
        close(output_TH[-len(row[0]) :], row_by_row(states, window, len(row[0])))


def test_tokens_that_are_the_same_are_computed_once() -> None:
    distinct = Distinct(torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 3]))
    assert distinct.expand(torch.tensor([5, 6, 7])).tolist() == [5, 6, 5, 7]
    assert distinct.pick(torch.tensor([5, 6, 5, 7])).tolist() == [5, 6, 7]
    unshared = Distinct(None, torch.tensor([0, 1, 2, 2]))
    assert unshared.expand(torch.tensor([5, 6, 7, 7])).tolist() == [5, 6, 7, 7]
    assert unshared.pick(torch.tensor([5, 6, 7])).tolist() == [5, 6, 7, 7]


def test_a_network_that_attends_otherwise_does_not_fit_and_answers_the_same(random_model: Make) -> None:
    """Set to another entry of transformers' interface, it never calls ours: rows are padded, each with its cache."""
    loaded = random_model("qwen3")
    network = AutoModelForCausalLM.from_pretrained(loaded.path, attn_implementation="eager", dtype=torch.float32)
    model = replace(loaded, network=network.eval())
    assert fits(loaded) and TorchRunner(loaded).mixes and padding_free.fits(loaded)
    assert not fits(model) and not TorchRunner(model).mixes and not padding_free.fits(model)
    begun, asked = [7, 9, 11, 13], [[20 + i, 30 + i, 5] for i in range(9)]
    answers = generate(loaded, asked, GREEDY, prefix=prefill(loaded, begun))
    assert generate(model, asked, GREEDY, prefix=prefill(model, begun)) == answers


def test_a_network_that_caches_something_else_is_trained_side_by_side_all_the_same(random_model: Make) -> None:
    """DeepSeek's attention caches latents: whole rows fit, those that go on from its cache do not."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 24, "vocab_size": random_model("llama").vocabulary,
    }  # fmt: skip
    network = AutoModelForCausalLM.from_config(DeepseekV3Config(**shape)).eval()
    model = replace(random_model("llama"), network=network)
    assert padding_free.fits(model) and not fits(model) and not TorchRunner(model).mixes


def test_settings_that_rows_do_not_heed_are_refused(random_model: Make) -> None:
    network = random_model("llama").network
    ids_BT = torch.tensor([[5, 6, 7]])
    group = UncachedRows([3], 0, torch.device("cpu"))
    with torch.no_grad():
        hidden = forward(network.base_model, ids_BT, torch.arange(3)[None], [group]).last_hidden_state
        torch.testing.assert_close(hidden, network.base_model(ids_BT).last_hidden_state)
        with pytest.raises(ModelError, match="softcap"):
            forward(network.base_model, ids_BT, torch.arange(3)[None], [group], softcap=50.0)
        torch.testing.assert_close(network.base_model(ids_BT).last_hidden_state, hidden)


def test_threads_do_not_see_each_others_rows(random_model: Make) -> None:
    network = random_model("llama").network
    ids_BT, position_BT = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 1, 0, 1]])
    outputs: list[Tensor] = []

    def plain(*args: Any, **settings: Any) -> Any:
        """While rows lie side by side here, another thread asks the same network."""
        thread = threading.Thread(target=lambda: outputs.append(network.base_model(ids_BT).last_hidden_state))
        thread.start()
        thread.join()
        return network.base_model(*args, **settings)

    with torch.no_grad():
        expected = network.base_model(ids_BT).last_hidden_state
        group = UncachedRows([2, 2], 0, torch.device("cpu"))
        hidden = forward(plain, ids_BT, position_BT, [group]).last_hidden_state
        apart = network.base_model(ids_BT.view(2, 2)).last_hidden_state.view_as(hidden)
    torch.testing.assert_close(outputs[0].detach(), expected)
    torch.testing.assert_close(hidden, apart, atol=1e-5, rtol=1e-5)
