"""Prompts read beside rows that are answered: the logits of forwards of their own, on every architecture that fits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stillhouse.compute.attention import replaceable
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.serve.engine import mixed_step
from stillhouse.serve.engine.batch import Batch
from stillhouse.serve.engine.detokenize import TextStream
from stillhouse.serve.engine.engine import Engine
from stillhouse.serve.engine.kv_cache import Columns, layers_of
from stillhouse.serve.engine.sequence import Config, Event, Piece, Request, Row, Sampling
from tests.architectures import ALL

FIT = ["gemma3", "llama", "qwen3", "qwen3_moe"]
SHAPE = LoraConfig(rank=4, alpha=8.0)


def rows(model: Model, lengths: list[int], slots: list[int]) -> list[Row]:
    made = []
    for number, (length, slot) in enumerate(zip(lengths, slots, strict=True)):
        prompt = tuple(5 + (number * 7 + i) % 200 for i in range(length))
        row = Row(number, Request(prompt, Sampling(50)), lambda event: None, TextStream(model.tokenizer), 0.0)
        row.slot = slot
        made.append(row)
    return made


def batch(model: Model, bank: AdapterBank, lengths: list[int], slots: list[int]) -> Batch:
    return Batch(model, bank, rows(model, lengths, slots), Columns(layers_of(model.network), lengths))


def answered(model: Model, bank: AdapterBank) -> tuple[Batch, Tensor]:
    """Three rows with their prompts read, and the logits of that; one is the base's."""
    made = batch(model, bank, [9, 30, 4], [0, -1, 2])
    logits_BV = made.feed(made.piece(30))
    assert logits_BV is not None
    made.held = bank.held()
    for row in made.rows:
        row.out.append(11)
    return made, logits_BV


def filled(model: Model) -> AdapterBank:
    bank = AdapterBank(model.network, 3, SHAPE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return bank


def test_which_architectures_fit(random_model: Callable[..., Model]) -> None:
    assert {name for name in ALL if replaceable(random_model(name).network)} >= set(FIT)


@pytest.mark.parametrize("name", FIT)
@torch.inference_mode()
def test_the_logits_are_those_of_forwards_of_their_own(name: str, random_model: Callable[..., Model]) -> None:
    """Padded prompts of two adapters in three pieces, the last of one column; gemma3's window is shorter than that."""
    model = random_model(name)
    bank = filled(model)
    apart, _ = answered(model, bank)
    beside, _ = answered(model, bank)
    alone, read = (batch(model, bank, [21, 13], [1, 2]) for _ in range(2))
    whole_BV = alone.feed(alone.piece(21))
    for columns in (12, 8, 1):
        expected_BV = apart.feed([[row.out[-1]] for row in apart.rows])
        logits_BV, first_BV = mixed_step.feed(beside, read, columns)
        torch.testing.assert_close(logits_BV, expected_BV, atol=2e-5, rtol=2e-4)
        assert (first_BV is None) == (columns > 1)
    torch.testing.assert_close(first_BV, whole_BV, atol=2e-5, rtol=2e-4)
    beside.absorb(read)
    apart.absorb(alone)
    for row in [*beside.rows, *apart.rows]:
        row.out.append(7)
    joined_BV, expected_BV = (b.feed([[row.out[-1]] for row in b.rows]) for b in (beside, apart))
    torch.testing.assert_close(joined_BV, expected_BV, atol=2e-5, rtol=2e-4)
    assert [row.fed for row in beside.rows] == [row.fed for row in apart.rows] == [13, 34, 8, 22, 14]
    assert model.network.config.get_text_config()._attn_implementation == "sdpa"
    bank.detach()


def test_an_arrival_is_read_in_pieces_between_the_others_tokens(random_model: Callable[..., Model]) -> None:
    """Two rows are answered; a prompt of 40 tokens comes and may take four steps: each of them gives them a token."""
    model = random_model("llama")
    config = Config(prompt_steps=4, stretch=1.0001)
    seen: list[tuple[str, int]] = []
    over, begun = threading.Event(), threading.Event()
    engine = Engine(model, None, config).start()

    def told(who: str) -> Callable[[Event], None]:
        def sink(event: Event) -> None:
            if isinstance(event, Piece):
                seen.append((who, event.choice.token))
                if who == "other" and len(seen) > 20:
                    begun.set()
            else:
                over.set() if who == "late" else None

        return sink

    for _ in range(2):
        engine.submit(Request(tuple(range(5, 15)), Sampling(1500)), told("other"))
    assert begun.wait(60)
    before = len(seen)
    engine.submit(Request(tuple(range(5, 45)), Sampling(3)), told("late"))
    assert over.wait(60)
    engine.close()
    between = [who for who, _ in seen[before:]]
    assert between[: between.index("late")].count("other") >= 2 * 3
