"""Every runner, opened on a small random model: the torch runner on three architectures, and the numpy runner."""

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
class Opened:
    """A runner with three slots, and random adapters for it."""

    runner: Runner
    adapter: Callable[[int], Adapter]
    """The adapter of a seed, 0 to 4."""


def numpy_opened() -> Opened:
    """The numpy runner. Its adapters have half of the rank that the runner allows."""
    runner = numpy_runner.NumpyRunner(numpy_runner.numpy_model(), Config(3, RANK))
    return Opened(runner, numpy_runner.adapter)


@pytest.fixture(params=["numpy", "llama", "gemma3", "qwen3_moe"])
def opened(request: pytest.FixtureRequest, random_model: Callable[..., Model]) -> Iterator[Opened]:
    """A runner with adapters 0, 1 and 2 in its slots."""
    if request.param == "numpy":
        opened = numpy_opened()
    else:
        model = random_model(request.param)
        adapters = {seed: served.adapter(model, seed, RANK) for seed in range(5)}  # made by a bank of their own
        opened = Opened(TorchRunner.open(model, Config(3, RANK)), adapters.__getitem__)
    for slot in range(3):
        opened.runner.load(slot, *opened.adapter(slot))
    yield opened
    opened.runner.close()
