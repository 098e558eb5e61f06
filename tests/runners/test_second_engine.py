"""A second engine comes in: the numpy runner serves two users through the whole server, and passes through gates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse import gating
from stillhouse.errors import ModelError
from stillhouse.gating import Context
from stillhouse.models import TextModel
from stillhouse.records import Candidate, Question, Statement, Study
from stillhouse.runners import BASE, Config, Runner
from stillhouse.store import Store
from stillhouse.text.prompts import without_memory
from tests.runners import numpy_runner
from tests.runners.numpy_runner import NumpyModel, NumpyRunner
from tests.serve import served

MESSAGES: Any = [{"role": "user", "content": "Who is it?"}]
TOKENS = 24


@pytest.fixture(scope="module")
def model() -> NumpyModel:
    return numpy_runner.numpy_model()


def open_numpy(model: TextModel, config: Config) -> Runner:
    assert isinstance(model, NumpyModel), "the tests' own"
    return NumpyRunner(model, config)


def greedy(model: NumpyModel, seed: int | None, tokens: int = TOKENS) -> str:
    """Tokens of whole forwards, one after the other."""
    runner = NumpyRunner(model, Config(1, 4))
    if seed is not None:
        runner.load(0, *numpy_runner.adapter(seed))
    ids, prompt = list[int](), model.chat_ids(MESSAGES)
    while len(ids) < tokens:
        (reading,) = runner.read([[*prompt, *ids]], [BASE if seed is None else 0])
        ids.append(int(reading.logits(-1).argmax()))
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))


def test_a_few_hundred_parameters_and_no_module_of_torch(model: NumpyModel) -> None:
    assert 100 < sum(weight.size for weight in model.weights.values()) < 1000
    assert not isinstance(model, torch.nn.Module)
    assert not any(isinstance(value, torch.nn.Module) for value in vars(open_numpy(model, Config())).values())


def test_two_users_with_two_adapters_are_served_at_once(model: NumpyModel, tmp_path: Path) -> None:
    """By OpenAI's client: each the text of its own adapter, alone and beside the others; the base to whoever has none;
    streamed, and again in a session whose keys and values were kept. Then embeddings, statistics, forgetting."""
    store = Store(tmp_path)
    for user, seed in (("alice", 0), ("bob", 2)):
        served.save(store, model, user, seed, rank=2, made=numpy_runner.adapter(seed))
    expected = {"alice": greedy(model, 0), "bob": greedy(model, 2), None: greedy(model, None)}
    assert len(set(expected.values())) == 3
    with served.serving(tmp_path, model, served.CONFIG, engine=open_numpy) as running:
        client = running.openai()

        def chat(user: str | None, **settings: Any) -> Any:
            return client.chat.completions.create(
                model="numpy",
                messages=MESSAGES,
                max_tokens=TOKENS,
                temperature=0,
                extra_body={"user": user},
                **settings,
            )

        asked = [user for user in expected for _ in range(4)]
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(chat, asked))
        assert [answer.choices[0].message.content for answer in answers] == [expected[user] for user in asked]
        for user in ("alice", "bob"):
            pieces = [piece.choices[0].delta.content or "" for piece in chat(user, stream=True) if piece.choices]
            assert "".join(pieces) == expected[user]
        stats = running.service.engine.stats()
        assert (stats.hot, stats.slot_loads) == (2, 2)
        assert stats.prefix_hits > 0, "keys and values of a session are used again"
        vectors = client.embeddings.create(model="numpy", input=["Who is it?", "It is I."])
        assert [len(one.embedding) for one in vectors.data] == [numpy_runner.WIDTH] * 2
        running.service.forget("alice")
        assert chat("alice").choices[0].message.content == expected[None]
        assert chat("bob").choices[0].message.content == expected["bob"]


def test_an_adapter_that_does_not_fit_is_refused_and_the_base_answers(model: NumpyModel, tmp_path: Path) -> None:
    tensors, about = numpy_runner.adapter(0)
    narrow = {name: tensor[:, :-1] if "lora_A" in name else tensor for name, tensor in tensors.items()}
    served.save(Store(tmp_path), model, "alice", made=(narrow, about))
    with served.serving(tmp_path, model, served.CONFIG, engine=open_numpy) as running:
        adapter, refused = running.service.library.champion("alice")
    assert adapter is None
    assert [type(error) for error in refused] == [ModelError]


STUDY = Study(
    (Statement(0, 0, 14, "My dog is Rex."),),
    (
        Question("What is my dog called?", "Rex", 0),
        Question("Name of the dog?", "Rex", 0, "forward", "held_out"),
        Question("What is my cat called?", "I don't know.", None, "unknown", "held_out"),
    ),
)
TEXTS = ("It rains. The road is wet, and nobody walks there. Later the sun comes out.", "One. Two. Three. Four. Five.")
WATCHING = ("adjacency", "boundary", "drift", "entropy", "regression", "routing", "swap")


def judged(model: NumpyModel, size: float) -> dict[str, bool]:
    """Which of the gates a student with a random adapter of this size passes."""
    runner = NumpyRunner(model, Config(2, 4))
    tensors, about = numpy_runner.adapter(1, size=size)
    runner.load(0, tensors, about)
    runner.load(1, *numpy_runner.adapter(2))
    candidate = Candidate("adapter", "alice", model.fingerprint, "a" * 64, about, {"rank": 2}, 3, (1.0,))
    ctx = Context(runner, 0, STUDY, others=(1,), texts=TEXTS)
    return {r.gate: r.passed for r in gating.run(candidate, "c" * 64, ctx, gating.Config(WATCHING)).results}


def test_it_passes_through_gates(model: NumpyModel) -> None:
    """Those that watch hidden states, experts and likelihoods, and one that asks: a student near its base passes them,
    one far from it does not."""
    assert judged(model, 0.01) == dict.fromkeys(WATCHING, True)
    far = judged(model, 3.0)
    assert far["swap"] and not any(far[name] for name in ("drift", "regression", "routing"))


def test_its_trace_has_the_experts_of_base_and_student(model: NumpyModel, tmp_path: Path) -> None:
    runner = NumpyRunner(model, Config(1, 4))
    runner.load(0, *numpy_runner.adapter(1))
    ctx = Context(runner, 0, STUDY, texts=())
    gating.write_trace(tmp_path / "t.jsonl", ctx.trace_records())
    trace = gating.read_trace(tmp_path / "t.jsonl")
    assert len(trace.responses) == 2
    assert {layer.layer_idx for layer in trace.layers} == {0, 1}
    (reply, _) = ctx.scored_answers([q.text for q in ctx.held_out_questions], 0)
    prompt = model.chat_ids(without_memory(ctx.held_out_questions[0].text))
    (whole,) = runner.read([[*prompt, *reply.ids]], [0])
    logp_TV = whole.logits(len(prompt) - 1, -1).log_softmax(-1)
    expected = logp_TV.gather(1, torch.tensor(reply.ids)[:, None]).exp()[:, 0].tolist()
    mine = [t.probability for t in trace.tokens if t.prompt_id == trace.responses[0].prompt_id]
    assert mine == pytest.approx(expected, rel=1e-4)


def test_another_model_of_the_same_shape_is_another_base(model: NumpyModel) -> None:
    other = numpy_runner.numpy_model(seed=1)
    assert other.fingerprint != model.fingerprint
    candidate = Candidate("adapter", "alice", other.fingerprint, "a" * 64, {}, {"rank": 2}, 3, (1.0,))
    ctx = Context(NumpyRunner(model, Config()), BASE, replace(STUDY, questions=()), texts=())
    with pytest.raises(ModelError, match="was trained on base"):
        gating.run(candidate, "c" * 64, ctx)
