"""The engine: the tokens of `generate`, whoever else is being answered; rows come and go; nobody breaks another."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from stillhouse import runners
from stillhouse.errors import InputError, ModelError, StillhouseError
from stillhouse.generate import Sampling, generate
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.serve.engine.adapters import Adapter, Key
from stillhouse.serve.engine.engine import (
    Config,
    Done,
    Engine,
    Event,
    Failed,
    Overloaded,
    Piece,
    Request,
    Unavailable,
)
from stillhouse.text.prompts import without_memory
from tests.architectures import ALL

SHAPE = LoraConfig(rank=4, alpha=8.0)
DEFAULTS = Config()
WAIT = 60.0


def adapters(model: Model, count: int, size: float = 0.05) -> list[Adapter]:
    """Random adapters, far enough from the base to change its words."""
    bank = AdapterBank(model.network, count, SHAPE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    about = bank.adapter_config("base")
    made = [Adapter(Key(f"user{i}", 1), bank.export(i), about) for i in range(count)]
    bank.detach()
    return made


@contextmanager
def running(
    model: Model, config: Config = DEFAULTS, slots: int = 4, kind: type[TorchRunner] = TorchRunner
) -> Iterator[Engine]:
    runner = kind.open(
        model, runners.Config(slots, SHAPE.rank, packed_bytes=config.packed_bytes, deterministic=config.deterministic)
    )
    engine = Engine(runner, config).start()
    try:
        yield engine
    finally:
        engine.close()
        runner.close()


class Answer:
    """The events of one request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.tokens: list[int] = []
        self.text = ""
        self.pieces: list[Piece] = []
        self.number = engine.submit(request, self._events.put)

    def next(self) -> Event:
        event = self._events.get(timeout=WAIT)
        if isinstance(event, Piece):
            self.tokens.append(event.choice.token)
            self.pieces.append(event)
        if not isinstance(event, Failed):
            self.text += event.text
        return event

    def end(self) -> Done | Failed:
        while isinstance(event := self.next(), Piece):
            pass
        return event

    def done(self) -> Done:
        event = self.end()
        assert isinstance(event, Done), event
        return event

    def failed(self) -> StillhouseError:
        event = self.end()
        assert isinstance(event, Failed), event
        return event.error


def ask_all(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    answers = [Answer(engine, request) for request in requests]
    for answer in answers:
        answer.done()
    return answers


def prompts_of(model: Model, count: int) -> list[list[int]]:
    words = ["Who", "What is", "Where was", "Why did they say that"]
    return [model.chat_ids(without_memory(f"{words[i % 4]} {'no ' * (i % 7)}{i}?")) for i in range(count)]


def reference(model: Model, prompts: list[list[int]], made: Sequence[Adapter | None], tokens: int) -> list[list[int]]:
    """`generate`, one prompt at a time."""
    bank = AdapterBank(model.network, 1, SHAPE)
    answers = []
    for prompt, adapter in zip(prompts, made, strict=True):
        if adapter is not None:
            bank.load(0, adapter.tensors, adapter.config)
        answers += generate(model, [prompt], Sampling(tokens), bank=bank, slots=[-1 if adapter is None else 0])
    bank.detach()
    return answers


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_gives_the_tokens_of_generate(name: str, random_model: Callable[..., Model]) -> None:
    """Rows of several adapters and the base, of different lengths, more than run at once; sliding windows pass."""
    model = random_model(name)
    made: list[Adapter | None] = [*adapters(model, 3), None]
    prompts = prompts_of(model, 9)
    chosen = [made[i % 4] for i in range(9)]
    expected = reference(model, prompts, chosen, 12)
    with running(model, Config(rows=4, prefill_tokens=64), slots=3) as engine:
        requests = [
            Request(tuple(p), Sampling(12), f"user{i}", a) for i, (p, a) in enumerate(zip(prompts, chosen, strict=True))
        ]
        answers = ask_all(engine, requests)
    assert [a.tokens for a in answers] == expected
    assert len({tuple(t) for t in expected}) > 3, "the adapters say different things"


def test_a_prompt_longer_than_a_chunk_is_read_in_chunks(random_model: Callable[..., Model]) -> None:
    for name in ("llama", "gemma3"):
        model = random_model(name)
        prompt = (prompts_of(model, 8)[7] * 20)[:500]
        short = prompts_of(model, 1)[0]
        expected = reference(model, [prompt, short], [None, None], 8)
        with running(model, Config(prefill_tokens=33)) as engine:
            answers = ask_all(engine, [Request(tuple(p), Sampling(8)) for p in (prompt, short)])
        assert [a.tokens for a in answers] == expected


def test_a_session_is_read_on_from_where_it_was(random_model: Callable[..., Model]) -> None:
    for name in ("llama", "gemma2"):
        model = random_model(name)
        first = prompts_of(model, 5)[4]
        with running(model) as engine:
            (before,) = ask_all(engine, [Request(tuple(first), Sampling(6), "a", session="s")])
            longer = [*first, *before.tokens, *prompts_of(model, 3)[2]]
            expected = reference(model, [longer, longer[:30]], [None, None], 6)
            same, other = Answer(engine, Request(tuple(longer), Sampling(6), "a", session="s")), None
            done = same.done()
            other = Answer(engine, Request(tuple(longer[:30]), Sampling(6), "b", session="s"))
            assert other.done().cached_tokens == 0, "another user's session of the same name is another session"
        assert same.tokens == expected[0]
        assert other.tokens == expected[1]
        assert done.cached_tokens == len(first) + len(before.tokens) - 1


def test_sessions_of_several_lengths_are_read_on_together(random_model: Callable[..., Model]) -> None:
    model = random_model("gemma3")
    prompts = [p * 3 for p in prompts_of(model, 4)]
    with running(model, Config(prefill_tokens=400)) as engine:
        ask_all(engine, [Request(tuple(p), Sampling(4), f"u{i}", session="s") for i, p in enumerate(prompts[:3])])
        longer = [p + [7] * (i + 2) for i, p in enumerate(prompts)]
        answers = ask_all(engine, [Request(tuple(p), Sampling(6), f"u{i}", session="s") for i, p in enumerate(longer)])
        assert engine.stats().prefix_hits > 0
    assert [a.tokens for a in answers] == reference(model, longer, [None] * 4, 6)


def test_idle_sessions_leave_the_least_recently_used_first(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    with running(model, Config(session_bytes=6_000)) as engine:
        for user in ("a", "b", "a", "c", "d"):
            ask_all(engine, [Request(prompt, Sampling(2), user, session="s")])
        stats = engine.stats()
        assert stats.session_evictions > 0
        assert stats.session_bytes <= 6_000
        assert ("d", "s", None) in engine.sessions
        engine.forget("d")
        assert ("d", "s", None) not in engine.sessions


def test_sampling_depends_on_the_seed_alone(random_model: Callable[..., Model]) -> None:
    model = random_model("qwen3")
    prompt = tuple(prompts_of(model, 1)[0])
    draws = [Sampling(10, 1.0, seed, top_p=0.9) for seed in (1, 2, 1)]
    with running(model) as engine:
        one, two, again = (a.tokens for a in ask_all(engine, [Request(prompt, draw) for draw in draws]))
        (alone,) = ask_all(engine, [Request(prompt, draws[0])])
    assert one == again == alone.tokens
    assert one != two


@pytest.mark.parametrize("sampling", [
    Sampling(24, 0.9, 17),
    Sampling(24, 1.3, 18, top_k=50, top_p=0.9, min_p=0.02),
    Sampling(24, 1.0, 19, repetition_penalty=1.4),
    Sampling(24, 0.0, repetition_penalty=1.8),
])  # fmt: skip
def test_served_and_offline_answers_are_the_same_tokens(shipped: Model, sampling: Sampling) -> None:
    prompts = [shipped.text_ids(text) for text in ("The old lighthouse keeper said", "Every morning they walk")]
    expected = [generate(shipped, [prompt], sampling)[0] for prompt in prompts]
    assert len(set(map(tuple, expected))) == 2
    with running(shipped) as engine:
        answers = ask_all(engine, [Request(tuple(prompt), sampling) for prompt in prompts])
    assert [answer.tokens for answer in answers] == expected


def test_deterministic_tokens_do_not_depend_on_the_company(random_model: Callable[..., Model]) -> None:
    """Mixed experts route other rows' tokens differently, and sizes of products change: here nothing may."""
    model = random_model("qwen3_moe")
    made, prompts, chance = adapters(model, 3), prompts_of(model, 6), random.Random(5)
    asked = [
        Request(tuple(p), Sampling(8, float(i % 2), seed=i, logprobs=0), f"u{i}", made[i % 3])
        for i, p in enumerate(prompts)
    ]
    with running(model, Config(deterministic=True, rows=8)) as engine:
        alone = [ask_all(engine, [request])[0] for request in asked]
        for _ in range(6):
            mix = chance.sample(range(6), chance.randint(2, 6))
            for i, answer in zip(mix, ask_all(engine, [asked[i] for i in mix]), strict=True):
                assert [p.choice for p in answer.pieces] == [p.choice for p in alone[i].pieces]


def test_logprobs_are_the_models_own(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = prompts_of(model, 1)[0]
    with running(model) as engine:
        (answer,) = ask_all(engine, [Request(tuple(prompt), Sampling(3, 0.7, seed=4, logprobs=5))])
    ids = torch.tensor([prompt + answer.tokens])
    with torch.no_grad():
        expected_TV = model.network(input_ids=ids).logits[0].float().log_softmax(-1)
    for step, piece in enumerate(answer.pieces):
        here_V = expected_TV[len(prompt) - 1 + step]
        assert piece.choice.logprob == pytest.approx(float(here_V[piece.choice.token]), abs=1e-4)
        assert [t for t, _ in piece.choice.top] == here_V.topk(5).indices.tolist()


def test_a_stop_string_is_not_said(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    with running(model) as engine:
        (whole,) = ask_all(engine, [Request(prompt, Sampling(20))])
        stop = whole.text[5:8]
        (answer,) = ask_all(engine, [Request(prompt, Sampling(20, stop=("never there", stop)))])
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert len(answer.tokens) < len(whole.tokens)


def test_a_cancelled_row_ends_and_the_others_do_not(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    first, second = (tuple(p) for p in prompts_of(model, 2))
    expected = reference(model, [list(second)], [None], 300)
    with running(model) as engine:
        long = Answer(engine, Request(first, Sampling(1500)))
        other = Answer(engine, Request(second, Sampling(300)))
        assert isinstance(long.next(), Piece)
        engine.cancel(long.number)
        assert long.done().reason == "cancelled"
        assert other.done().reason == "length"
        engine.cancel(other.number)  # too late: nothing happens
        assert engine.stats().running == 0
    assert [other.tokens] == expected


def test_leaving_the_iterator_cancels(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")

    async def first_piece(engine: Engine) -> Event:
        events = engine.stream(Request(tuple(prompts_of(model, 1)[0]), Sampling(1500)))
        _, event = await anext(events)
        await events.aclose()
        while engine.stats().running:
            await asyncio.sleep(0.01)
        return event

    with running(model) as engine:
        assert isinstance(asyncio.run(asyncio.wait_for(first_piece(engine), WAIT)), Piece)
        assert engine.stats().generated_tokens < 1500


def test_what_is_refused_at_once(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    ignore: Callable[[Event], None] = lambda event: None  # noqa: E731
    with running(model, Config(rows=1, queue=3, queue_per_user=2)) as engine:
        with pytest.raises(InputError, match="the prompt is empty"):
            engine.submit(Request(()), ignore)
        with pytest.raises(InputError, match="do not fit: 2048 tokens are allowed"):
            engine.submit(Request(prompt * 300, Sampling(5)), ignore)
        with pytest.raises(InputError, match=r"prompt of 100000 tokens .* 2048 tokens are allowed"):
            engine.submit(Request((7,) * 100_000, Sampling(5)), ignore)
        busy = Answer(engine, Request(prompt, Sampling(1900)))
        busy.next()
        waiting = [Answer(engine, Request(prompt, Sampling(2), "greedy")) for _ in range(2)]
        with pytest.raises(Overloaded, match="of yours are waiting") as caught:
            engine.submit(Request(prompt, Sampling(2), "greedy"), ignore)
        assert caught.value.status == 429
        assert caught.value.retry_after > 0
        waiting.append(Answer(engine, Request(prompt, Sampling(2), "modest")))
        with pytest.raises(Overloaded, match="3 answers are waiting"):
            engine.submit(Request(prompt, Sampling(2), "other"), ignore)
        engine.cancel(busy.number)
        for answer in waiting:
            answer.done()
    with pytest.raises(Unavailable):
        engine.submit(Request(prompt), ignore)


def test_a_broken_row_takes_nobody_with_it(random_model: Callable[..., Model]) -> None:
    """An adapter that makes everything NaN, and one that does not fit, beside one that works."""
    model = random_model("qwen3_moe")
    good, bad, odd = adapters(model, 3)
    nan = Adapter(bad.key, {n: t * float("nan") for n, t in bad.tensors.items()}, bad.config)
    unfit = Adapter(odd.key, {"what.is.this": torch.zeros(2)}, odd.config)
    prompts = prompts_of(model, 3)
    expected = reference(model, [prompts[0]], [good], 40)
    with running(model) as engine:
        answers = [
            Answer(engine, Request(tuple(p), Sampling(n), adapter=a))
            for p, a, n in zip(prompts, (good, nan, unfit), (40, 5, 5), strict=True)
        ]
        assert isinstance(answers[2].failed(), ModelError)
        answers[1].end()
        answers[0].done()
        later = ask_all(engine, [Request(tuple(prompts[0]), Sampling(40), adapter=good)])
    assert answers[0].tokens == later[0].tokens == expected[0]


def test_a_step_that_breaks_fails_its_rows_and_the_engine_goes_on(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    prompt = tuple(prompts_of(model, 1)[0])
    with running(model) as engine:
        broken = Answer(engine, Request((10**6, *prompt), Sampling(4)))  # no such token
        assert "the model failed" in str(broken.failed())
        ask_all(engine, [Request(prompt, Sampling(4))])


def test_closing_tells_everybody(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    with running(model, Config(rows=1)) as engine:
        answers = [Answer(engine, Request(tuple(p), Sampling(1500))) for p in prompts_of(model, 2)]
        answers[0].next()
    assert all(isinstance(a.failed(), Unavailable) for a in answers)


def test_many_rows_come_and_go(random_model: Callable[..., Model]) -> None:
    """Random lengths and adapters, five slots for seven adapters: everyone gets the answer they get alone."""
    model, chance = random_model("qwen3"), random.Random(11)
    made: list[Adapter | None] = [*adapters(model, 7), None]
    prompts = [chance.choice(prompts_of(model, 8)) * chance.randint(1, 4) for _ in range(24)]
    chosen = [chance.choice(made) for _ in prompts]
    lengths = [chance.randint(1, 30) for _ in prompts]
    expected = [reference(model, [p], [a], n)[0] for p, a, n in zip(prompts, chosen, lengths, strict=True)]
    with running(model, Config(rows=6, prefill_tokens=90), slots=5) as engine:
        answers = ask_all(
            engine,
            [
                Request(tuple(p), Sampling(n), f"u{i % 5}", a)
                for i, (p, a, n) in enumerate(zip(prompts, chosen, lengths, strict=True))
            ],
        )
        stats = engine.stats()
    assert [a.tokens for a in answers] == expected
    assert stats.running == stats.waiting == stats.kv_bytes == 0
    assert stats.slot_evictions > 0
    assert stats.slot_hits + stats.slot_loads == sum(a is not None for a in chosen)
    assert stats.slot_loads - stats.slot_evictions == stats.hot == 5


def test_an_arrival_is_read_in_pieces_between_the_others_tokens(random_model: Callable[..., Model]) -> None:
    """Two rows are answered; a prompt of 40 tokens comes and may take four steps: each of them gives them a token."""
    model = random_model("llama")
    config = Config(prompt_steps=4, stretch=1.0001)
    seen: list[tuple[str, int]] = []
    over, answering = threading.Event(), threading.Event()
    engine = Engine(TorchRunner(model), config).start()

    def sink_of(who: str) -> Callable[[Event], None]:
        def sink(event: Event) -> None:
            if isinstance(event, Piece):
                seen.append((who, event.choice.token))
                if who == "other" and len(seen) > 20:
                    answering.set()
            else:
                over.set() if who == "late" else None

        return sink

    for _ in range(2):
        engine.submit(Request(tuple(range(5, 15)), Sampling(1500)), sink_of("other"))
    assert answering.wait(60)
    before = len(seen)
    engine.submit(Request(tuple(range(5, 45)), Sampling(3)), sink_of("late"))
    assert over.wait(60)
    engine.close()
    between = [who for who, _ in seen[before:]]
    assert between[: between.index("late")].count("other") >= 2 * 3
