"""Every runner there is, opened on a small random model: the torch runner, and the smallest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from stillhouse.models import Model
from stillhouse.runners import Config, Runner, TorchRunner
from tests.runners import numpy_runner
from tests.serve import served

RANK = 4
Adapter = tuple[Mapping[str, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class Made:
    """A runner with three slots, and random adapters for it by their seed."""

    runner: Runner
    adapter: Callable[[int], Adapter]


def numpy_made() -> Made:
    """The numpy runner; its adapters have half of the rank that there is room for."""
    runner = numpy_runner.NumpyRunner(numpy_runner.numpy_model(), Config(3, RANK))
    return Made(runner, numpy_runner.adapter)


@pytest.fixture(params=["numpy", "llama", "gemma3", "qwen3_moe"])
def made(request: pytest.FixtureRequest, random_model: Callable[..., Model]) -> Iterator[Made]:
    """A runner; adapters 0, 1 and 2 are in its slots."""
    if request.param == "numpy":
        found = numpy_made()
    else:
        model = random_model(request.param)
        adapters = {seed: served.adapter(model, seed, RANK) for seed in range(5)}  # made by a bank of their own
        found = Made(TorchRunner.open(model, Config(3, RANK)), adapters.__getitem__)
    for slot in range(3):
        found.runner.load(slot, *found.adapter(slot))
    yield found
    found.runner.close()
