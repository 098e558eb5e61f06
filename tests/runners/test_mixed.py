"""Prompts that are read in the forwards of other rows get the same logits as in forwards of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.runners import BASE, Cache, TorchRunner
from tests.architectures import ALL

FIT = ["gemma3", "llama", "qwen3", "qwen3_moe"]
SHAPE = LoraConfig(rank=4, alpha=8.0)


def prompt(number: int, length: int) -> list[int]:
    return [5 + (number * 7 + i) % 200 for i in range(length)]


@pytest.fixture
def runner(name: str, random_model: Callable[..., Model]) -> Iterator[TorchRunner]:
    """A runner with three adapters that change the base's answers."""
    bank = AdapterBank(random_model(name).network, 3, SHAPE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    yield TorchRunner(random_model(name), bank)
    bank.detach()


def prefilled(runner: TorchRunner) -> Cache:
    """Three rows whose prompts were read. One of them has no adapter."""
    cache = runner.cache([0, BASE, 2])
    runner.prefill(cache, [prompt(number, length) for number, length in enumerate((9, 30, 4))])
    return cache


def pieces(prompts: list[list[int]], *columns: int) -> Iterator[list[list[int]]]:
    """Prompts that end together, in pieces of these numbers of columns."""
    start = -max(map(len, prompts))
    for width in columns:
        yield [p[max(len(p) + start, 0) : max(len(p) + start + width, 0)] for p in prompts]
        start += width


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-4)


def test_which_architectures_fit(random_model: Callable[..., Model]) -> None:
    assert {name for name in ALL if TorchRunner(random_model(name)).mixes} >= set(FIT)


@pytest.mark.parametrize("name", FIT)
def test_the_logits_are_those_of_forwards_of_their_own(runner: TorchRunner) -> None:
    """Padded prompts of two adapters in three pieces, the last of one column; gemma3's window is shorter than that."""
    prompts, columns = [prompt(7, 21), prompt(8, 13)], (12, 8, 1)
    apart, beside = prefilled(runner), prefilled(runner)
    alone, read = runner.cache([1, 2]), runner.cache([1, 2])
    whole_BV = runner.prefill(alone, prompts)
    first_BV = None
    for piece in pieces(prompts, *columns):
        expected_BV = runner.decode(apart, [11, 12, 13])
        last = len(piece[0]) == 1
        logits_BV, first_BV = runner.mixed(beside, [11, 12, 13], read, piece, logits=last)
        close(logits_BV, expected_BV)
        assert (first_BV is None) == (not last)
    close(first_BV, whole_BV)
    beside.join(read)
    apart.join(alone)
    close(runner.decode(beside, [7] * 5), runner.decode(apart, [7] * 5))
    lengths = [[cache.length(row) for row in range(5)] for cache in (beside, apart)]
    assert lengths == [[13, 34, 8, 22, 14]] * 2
    assert list(beside.slots) == [0, BASE, 2, 1, 2]
