"""Signals of a teacher on a data set: right at every token, the same again, and nothing made twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.capture.prompts import ABOUT, Captured, Config, Example, capture, load
from stillhouse.errors import InputError, ModelError, StoreError
from stillhouse.models import Model

Make = Callable[..., Model]
ASK = ({"role": "user", "content": "What is a list?"},)
DATA = [
    Example(ASK, answer="A mutable sequence."),
    Example(text="The gate is", answer=" open at nine."),
    Example(answer="Return a copy of the string with leading characters removed."),
    Example(({"role": "system", "content": "Be brief."}, *ASK)),
    Example(text="Once upon a"),
]
SMALL = Config(max_new_tokens=6, shard_examples=2)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest, random_model: Make) -> Model:
    return random_model(request.param)


def whole(captured: Captured) -> list[tuple[tuple[int, ...], int, bytes]]:
    return [(a.x_ids, len(a.targets), a.x_bytes) for shard in captured.read() for a in shard.artifacts()]


def test_every_answer_token_has_the_teachers_own_distribution(model: Model, tmp_path: Path) -> None:
    """Against the model run on one example at a time, everything kept."""
    config = replace(SMALL, top_k=255, draws=0, keep=0.0)
    captured = capture(model, DATA, config, tmp_path)
    assert captured.examples == len(DATA) and captured.positions == sum(n for _, n, _ in whole(captured))
    for shard in captured.read():
        for artifact in shard.artifacts():
            with torch.no_grad():
                logits_TV = model.network(input_ids=torch.tensor([artifact.x_ids])).logits[0].float()
            logprobs_TV = torch.log_softmax(logits_TV, -1)
            assert b"".join(model.token_bytes[t] for t in artifact.x_ids) == artifact.x_bytes
            for t in artifact.targets:
                own_V = logprobs_TV[t.position - 1]
                assert t.actual is not None and abs(t.actual - float(own_V[artifact.x_ids[t.position]])) < 0.04
                torch.testing.assert_close(torch.tensor(t.logprobs), own_V[list(t.ids)], atol=0.04, rtol=0)
                assert artifact.x_bytes[t.offset :].startswith(model.token_bytes[artifact.x_ids[t.position]])


def test_targets_are_the_answer_and_its_end(model: Model, tmp_path: Path) -> None:
    (first, text), *_ = (shard.artifacts() for shard in capture(model, DATA[:1] + DATA[2:3], SMALL, tmp_path).read())
    if not first.x_bytes.startswith(model.chat_text(ASK).encode()):
        first, text = text, first
    prompt = model.chat_ids(ASK)
    assert first.x_ids[: len(prompt)] == tuple(prompt)
    assert [t.position for t in first.targets] == list(range(len(prompt), len(first.x_ids)))
    assert first.x_ids[-1] == model.tokenizer.eos_token_id
    assert [t.position for t in text.targets] == list(range(1, len(text.x_ids)))
    assert {first.kind, text.kind} == {"prompt"}


def test_the_same_inputs_give_the_same_bytes_and_a_killed_run_goes_on(model: Model, tmp_path: Path) -> None:
    config = replace(SMALL, temperature=0.9, samples=2)
    first = capture(model, DATA, config, tmp_path / "a")

    def kill(n: int, note: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        capture(model, DATA, config, tmp_path / "b", kill)
    with pytest.raises(StoreError, match="no finished capture"):
        load(tmp_path / "b")
    (early,) = (tmp_path / "b").glob("signals-*")
    made = early.stat().st_mtime_ns
    second = capture(model, DATA, config, tmp_path / "b")
    assert early.stat().st_mtime_ns == made, "a shard that is there is not made again"
    assert load(tmp_path / "b") == second and second.shards == first.shards
    for name in first.shards:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first.examples == 3 + 2 * 2
    assert len({ids for ids, _, _ in whole(first)}) == 7, "samples differ"


def test_a_damaged_shard_is_made_again_and_not_read(model: Model, tmp_path: Path) -> None:
    captured = capture(model, DATA, SMALL, tmp_path)
    file = tmp_path / captured.shards[1]
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(StoreError, match=r"signals-.*cannot be read.*delete it and capture again"):
        list(captured.read())
    capture(model, DATA, SMALL, tmp_path)
    assert file.read_bytes() == good
    file.unlink()
    with pytest.raises(StoreError, match="missing; capture again to make it"):
        list(captured.read())
    (tmp_path / ABOUT).write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        load(tmp_path)


def test_a_shard_of_another_teacher_is_refused(random_model: Make, tmp_path: Path) -> None:
    one = capture(random_model("llama"), DATA[:1], SMALL, tmp_path / "a")
    two = capture(random_model("qwen3"), DATA[:1], SMALL, tmp_path / "b")
    (tmp_path / "a" / one.shards[0]).write_bytes((tmp_path / "b" / two.shards[0]).read_bytes())
    with pytest.raises(StoreError, match="of another teacher"):
        list(one.read())


def test_only_the_teacher_reads_its_own_system_message(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    plain = capture(model, DATA[:2], SMALL, tmp_path / "a")
    told = capture(model, DATA[:2], replace(SMALL, teacher_system="The list is red."), tmp_path / "b")
    assert whole(plain) == whole(told)
    left, right = (next(iter(c.read())).targets.actual_P for c in (plain, told))
    assert not np.allclose(left, right)


def test_settings_change_the_name_of_a_shard(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    names = {capture(model, DATA[:1], c, tmp_path).shards for c in (SMALL, replace(SMALL, top_k=4))}
    names |= {capture(model, DATA[1:2], SMALL, tmp_path).shards}
    assert len(names) == 3


def test_the_vocabulary_lies_beside_the_shards(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    assert capture(model, DATA[:1], SMALL, tmp_path).tokens() == model.token_bytes


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(({"role": "user", "content": " "},), answer="x"), "example 1: its prompt is empty"),
        (Example(ASK, answer=" "), "example 1: its answer is empty"),
        (Example(answer=""), "example 1: its text is empty"),
        (Example(), "example 1: neither prompt nor text"),
        (Example(ASK, answer="word " * 3000), "example 1 has [0-9]+ tokens; the teacher's limit is 2048: shorten it"),
        (Example(text="word " * 3000), "example 1 has [0-9]+ tokens; the teacher's limit is 2048"),
    ],
)
def test_examples_that_cannot_be_are_named(random_model: Make, tmp_path: Path, example: Example, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(random_model("llama"), [example], SMALL, tmp_path)


def test_what_is_too_long_can_be_left_out(random_model: Make, tmp_path: Path) -> None:
    data = [DATA[0], Example(ASK, answer="word " * 300), DATA[1]]
    config = replace(SMALL, max_tokens=100, too_long="skip")
    captured = capture(random_model("llama"), data, config, tmp_path)
    assert (captured.examples, captured.skipped) == (2, (1,))
    assert load(tmp_path).skipped == (1,)


def test_wrong_settings_and_no_data_are_one_clear_line(random_model: Make, tmp_path: Path) -> None:
    for wrong in ({"top_k": 0}, {"top_k": 256}, {"draws": -1}, {"keep": 0.9}, {"shard_examples": 0}, {"samples": 3}):
        with pytest.raises(InputError, match=rf"^capture\.{next(iter(wrong))}: "):
            replace(SMALL, **wrong)
    with pytest.raises(InputError, match="nothing to capture"):
        capture(random_model("llama"), [], SMALL, tmp_path)


def test_a_teacher_whose_logits_are_not_numbers_is_refused(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    weight = next(model.network.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(ModelError, match="its logits are not numbers"):
            capture(model, DATA[:1], SMALL, tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(before)
