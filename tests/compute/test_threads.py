"""Threads that compute: how many, and none left over by whoever is not to compute beside the others."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillhouse.compute import threads as models_threads
from stillhouse.compute.threads import Threads, alone, fastest_threads, for_steps, give_back_workers, kept_to
from stillhouse.models import Model

counted = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(models_threads, "CORES", 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(random_model: Callable[..., Model]) -> Model:
    """One that nobody has timed."""
    return replace(random_model("llama"))


@pytest.fixture
def forwards(model: Model) -> Iterator[list[int]]:
    """How many threads each forward of the model had."""
    seen: list[int] = []
    hook = model.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    yield seen
    hook.remove()


def compute() -> None:
    torch.ones(1 << 20).mul_(2.0)


def threads() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def in_a_thread(work: Callable[[], None]) -> int:
    """How many threads it started and left. One that ends is still listed for a moment."""
    found: list[int] = []

    def run() -> None:
        before = threads()
        work()
        until = time.monotonic() + 1.0
        while threads() - before and time.monotonic() < until:
            time.sleep(0.01)
        found.append(len(threads() - before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@counted
def test_alone_starts_no_workers() -> None:
    def work() -> None:
        with alone():
            compute()
            assert torch.get_num_threads() == 1

    assert in_a_thread(work) == 0
    assert in_a_thread(compute) == 1, "what it would be otherwise"
    assert torch.get_num_threads() == 2


@counted
def test_workers_are_given_back_and_come_again() -> None:
    def work() -> None:
        for _ in range(2):
            compute()
            give_back_workers()

    assert in_a_thread(work) == 0


def test_a_large_forward_takes_all_and_a_small_one_what_is_fastest(model: Model) -> None:
    chosen = Threads()
    chosen.measure(model, 4)
    small = torch.get_num_threads()
    assert small in {1, 2}
    chosen.prepare(5)
    assert torch.get_num_threads() == 2
    chosen.prepare(4)
    assert torch.get_num_threads() == small
    torch.set_num_threads(1)
    chosen.close()
    assert torch.get_num_threads() == 2, "as before anybody chose"
    chosen.prepare(4)
    assert torch.get_num_threads() == 2


def test_who_says_how_many_is_listened_to(model: Model, monkeypatch: pytest.MonkeyPatch, forwards: list[int]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    chosen = Threads()
    chosen.measure(model, 4)
    chosen.prepare(500)
    chosen.close()
    with fastest_threads(model), for_steps(model, 1):
        assert torch.get_num_threads() == 1
    assert forwards == [], "nothing is tried"


def test_a_slow_forward_is_not_tried_with_one_thread(
    model: Model, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    monkeypatch.setattr(models_threads, "SURE", 0.0)
    with fastest_threads(model):
        assert torch.get_num_threads() == 2
    assert set(forwards) == {2} and torch.get_num_threads() == 2


def test_a_scope_chooses_once_and_puts_back_what_was(
    model: Model, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    monkeypatch.setattr(models_threads, "SURE", 60.0)  # also while others use the machine
    found = []
    for before in (2, 1):
        torch.set_num_threads(before)
        with fastest_threads(model):
            found.append(torch.get_num_threads())
        assert torch.get_num_threads() == before
    assert set(forwards) == {1, 2}
    assert len(set(found)) == 1
    timed = len(forwards)
    with pytest.raises(KeyboardInterrupt), fastest_threads(model, 8, 24):
        raise KeyboardInterrupt
    assert (len(forwards), torch.get_num_threads()) == (timed, 1)
    with fastest_threads(model, 2, 8):
        pass
    assert len(forwards) > timed, "another size"


def test_a_share_of_the_cores_is_kept_to(model: Model, forwards: list[int]) -> None:
    with kept_to(1):
        with fastest_threads(model), for_steps(model, 1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert forwards == [], "nothing is tried"
