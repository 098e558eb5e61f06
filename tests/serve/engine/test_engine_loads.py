"""While adapters are being loaded, no other row waits; when loading fails, only their own rows fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from stillhouse.generate import Sampling
from stillhouse.models import Model
from stillhouse.runners import SavedRow, TorchRunner
from stillhouse.runners.torch.kv_cache import BatchCache
from stillhouse.serve.engine.engine import Engine, Request
from tests.serve.engine.test_engine import WAIT, Answer, adapters, ask_all, prompts_of, reference, running


class SlowLoading(TorchRunner):
    """Every load waits for `proceed`, and then raises `broken` if there is one."""

    broken: Exception | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.started, self.proceed = threading.Semaphore(0), threading.Event()

    def load(self, slot: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.started.release()
        assert self.proceed.wait(WAIT)
        if self.broken is not None:
            raise self.broken
        super().load(slot, tensors, config)


def slow(engine: Engine) -> SlowLoading:
    assert isinstance(engine.runner, SlowLoading)
    return engine.runner


def test_nobody_waits_for_an_adapter_of_somebody_else(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompts = adapters(model, 1), [tuple(p) for p in prompts_of(model, 4)]
    with running(model, kind=SlowLoading) as engine:
        waiting = [Answer(engine, Request(prompts[i], Sampling(5), "u", cold)) for i in (0, 1)]
        assert slow(engine).started.acquire(timeout=WAIT)
        ask_all(engine, [Request(prompts[2], Sampling(20))])
        assert engine.stats().running == 2
        assert (engine.stats().slot_loads, engine.stats().slot_hits) == (0, 1)
        slow(engine).proceed.set()
        for answer in waiting:
            answer.done()
        assert (engine.stats().slot_loads, engine.stats().slot_hits) == (1, 1)
    assert [a.tokens for a in waiting] == reference(model, [list(p) for p in prompts[:2]], [cold] * 2, 5)


def test_who_leaves_while_the_adapter_is_on_its_way_is_told_and_forgotten(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompt = adapters(model, 1), tuple(prompts_of(model, 1)[0])
    with running(model, slots=1, kind=SlowLoading) as engine:
        leaving = Answer(engine, Request(prompt, Sampling(5), "user0", cold))
        staying = Answer(engine, Request(prompt, Sampling(5), "other", cold))
        assert slow(engine).started.acquire(timeout=WAIT)
        engine.cancel(leaving.number)
        forgetting = threading.Thread(target=engine.forget, args=("user0",))
        forgetting.start()
        slow(engine).proceed.set()
        assert leaving.done().reason == "cancelled"
        forgetting.join(WAIT)
        assert engine.slots is not None
        assert cold.key not in engine.slots
        assert staying.done().reason == "length"


def test_a_load_that_breaks_fails_its_rows_and_the_engine_goes_on(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    (cold,), prompt = adapters(model, 1), tuple(prompts_of(model, 1)[0])
    with running(model, slots=1, kind=SlowLoading) as engine:
        slow(engine).broken = OSError("the mapping is gone")
        slow(engine).proceed.set()
        for _ in range(2):
            answers = [Answer(engine, Request(prompt, Sampling(5), "u", cold)) for _ in range(2)]
            assert all("the mapping is gone" in str(a.failed()) for a in answers)
        ask_all(engine, [Request(prompt, Sampling(5))])


class FullMemory(TorchRunner):
    """A runner whose caches cannot be joined while there is `no_room`."""

    no_room = False

    def cache(
        self, slots: Sequence[int], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0
    ) -> BatchCache:
        made = super().cache(slots, saved, tokens)
        if self.no_room:
            return UnjoinableCache(len(made.layers), slots)
        return made


class UnjoinableCache(BatchCache):
    def join(self, other: BatchCache) -> None:
        raise MemoryError("no room")


def test_what_breaks_between_two_steps_fails_those_who_run(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    with running(model, kind=FullMemory) as engine:
        assert isinstance(engine.runner, FullMemory)
        engine.runner.no_room = True
        running_now = Answer(engine, Request(prompt, Sampling(1500)))
        running_now.next()
        joining = Answer(engine, Request(prompt, Sampling(5)))
        assert "MemoryError: no room" in str(joining.failed())
        assert "MemoryError: no room" in str(running_now.failed())
        engine.runner.no_room = False
        ask_all(engine, [Request(prompt, Sampling(5))])
        assert engine.stats().running == engine.stats().kv_bytes == 0
