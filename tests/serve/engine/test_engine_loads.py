"""Adapters on their way into the bank: nobody else waits, and what goes wrong is told to whom it concerns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from stillhouse.models import Model
from stillhouse.serve.engine.engine import Engine, Request, Sampling
from stillhouse.serve.engine.kv_cache import Columns
from tests.serve.engine.test_engine import WAIT, Answer, adapters, ask_all, prompts_of, reference, running


class Slow:
    """Holds up every load into a bank until it is told to go on; `after` is raised then."""

    def __init__(self, engine: Engine, after: Exception | None = None) -> None:
        assert engine.bank is not None
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self._load, self._after = engine.bank.load, after
        engine.bank.load = self  # type: ignore[assignment,method-assign]

    def __call__(self, *args: Any) -> None:
        self.begun.release()
        assert self.go_on.wait(WAIT)
        if self._after is not None:
            raise self._after
        self._load(*args)


def test_nobody_waits_for_an_adapter_of_somebody_else(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompts = adapters(model, 1), [tuple(p) for p in prompts_of(model, 4)]
    with running(model) as engine:
        slow = Slow(engine)
        waiting = [Answer(engine, Request(prompts[i], Sampling(5), "u", cold)) for i in (0, 1)]
        assert slow.begun.acquire(timeout=WAIT)
        ask_all(engine, [Request(prompts[2], Sampling(20))])
        assert engine.stats().running == 2
        assert (engine.stats().slot_loads, engine.stats().slot_hits) == (0, 1)
        slow.go_on.set()
        for answer in waiting:
            answer.done()
        assert (engine.stats().slot_loads, engine.stats().slot_hits) == (1, 1)
    assert [a.tokens for a in waiting] == reference(model, [list(p) for p in prompts[:2]], [cold] * 2, 5)


def test_who_leaves_while_the_adapter_is_on_its_way_is_told_and_forgotten(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompt = adapters(model, 1), tuple(prompts_of(model, 1)[0])
    with running(model, slots=1) as engine:
        slow = Slow(engine)
        leaving = Answer(engine, Request(prompt, Sampling(5), "user0", cold))
        staying = Answer(engine, Request(prompt, Sampling(5), "other", cold))
        assert slow.begun.acquire(timeout=WAIT)
        engine.cancel(leaving.number)
        forgetting = threading.Thread(target=engine.forget, args=("user0",))
        forgetting.start()
        slow.go_on.set()
        assert leaving.done().reason == "cancelled"
        forgetting.join(WAIT)
        assert engine.slots is not None
        assert cold.key not in engine.slots
        assert staying.done().reason == "length"


def test_a_load_that_breaks_fails_its_rows_and_the_engine_goes_on(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompt = adapters(model, 1), tuple(prompts_of(model, 1)[0])
    with running(model, slots=1) as engine:
        slow = Slow(engine, OSError("the mapping is gone"))
        slow.go_on.set()
        for _ in range(2):
            answers = [Answer(engine, Request(prompt, Sampling(5), "u", cold)) for _ in range(2)]
            assert all("the mapping is gone" in str(a.failed()) for a in answers)
        ask_all(engine, [Request(prompt, Sampling(5))])


def test_what_breaks_between_two_steps_fails_those_who_run(
    random_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    with running(model) as engine:
        running_now = Answer(engine, Request(prompt, Sampling(1500)))
        running_now.next()
        with monkeypatch.context() as patch:
            patch.setattr(Columns, "join", raising(MemoryError("no room")))
            joining = Answer(engine, Request(prompt, Sampling(5)))
            assert "MemoryError: no room" in str(joining.failed())
            assert "MemoryError: no room" in str(running_now.failed())
        ask_all(engine, [Request(prompt, Sampling(5))])
        assert engine.stats().running == engine.stats().kv_bytes == 0


def raising(error: Exception) -> Callable[..., None]:
    def broken(*args: Any) -> None:
        raise error

    return broken
