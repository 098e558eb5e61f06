"""Teachers behind an endpoint: llama.cpp's own server, Stillhouse's, servers that speak as vLLM and SGLang do, and ones
that are busy, break off, or do not tell the truth."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse import models
from stillhouse.capture import prompts
from stillhouse.capture.prompts import Captured, Config, Example, Positions, capture
from stillhouse.errors import InputError, ModelError
from stillhouse.generate import Sampling, generate
from stillhouse.models import Model
from stillhouse.signals import DistillArtifact
from stillhouse.teachers.client import EndpointClient, EndpointRequest
from stillhouse.teachers.endpoint import Endpoint, open_endpoint, secret
from stillhouse.teachers.settings import Dialect
from tests import tokenizers
from tests.serve import served
from tests.teachers import llama_cpp, speaking
from tests.teachers.speaking import Amiss, Speaking

Make = Callable[..., Model]
ASK = ({"role": "user", "content": "What is a list?"},)
DATA = [
    Example(ASK, answer="A mutable sequence."),
    Example(text="The gate is", answer=" open at nine."),
    Example(ASK),
    Example(text="Once upon a"),
]
CONFIG = Config(max_new_tokens=5, draws=0, top_k=6, keep=0.0)
QUICK: dict[str, Any] = {"pause": 0.01, "retries": 3, "concurrency": 4}


@pytest.fixture(scope="module")
def model(random_model: Make) -> Model:
    return random_model("llama")


@pytest.fixture(scope="module")
def llama(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server with the weights of `model`."""
    with llama_cpp.serving(llama_cpp.write(model, tmp_path_factory.mktemp("gguf") / "model.gguf")) as url:
        yield url


def opened(url: str, model: Model, dialect: Dialect = "auto", **patience: Any) -> Endpoint:
    return open_endpoint(EndpointClient(url, **(QUICK | patience)), "", str(model.path), dialect)


def by_text(captured: Captured) -> dict[tuple[int, ...], DistillArtifact]:
    return {a.x_ids: a for shard in captured.read() for a in shard.artifacts()}


def same_signals(theirs: Captured, ours: Captured, ends: bool = True) -> None:
    """The same examples, and at every position the same entries, as far as steps of 1/16 nat show."""
    left, right = by_text(theirs), by_text(ours)
    assert set(left) == set(right)
    for ids, artifact in left.items():
        pairs = list(zip(artifact.targets, right[ids].targets, strict=ends))
        assert len(pairs) > 2
        for a, b in pairs:
            assert (a.position, a.offset) == (b.position, b.offset)
            told, own = (dict(zip(t.ids, t.logprobs, strict=True)) for t in (a, b))
            shared = set(told) & set(own)
            assert len(shared) >= len(own) - 1 > 0, "the last may change places with the next"
            assert all(abs(told[i] - own[i]) < 0.13 for i in shared)
            assert abs(a.tail - b.tail) < 0.1 * b.tail + 0.02 and not a.draw_ids


def test_llama_cpps_server_teaches_what_the_weights_say(llama: str, model: Model, tmp_path: Path) -> None:
    teacher = opened(llama, model)
    assert teacher.dialect == "llama.cpp" and 0 < teacher.text_model.context <= 2048
    theirs = capture(teacher, DATA, CONFIG, tmp_path / "theirs")
    ours = capture(model, DATA, CONFIG, tmp_path / "ours")
    same_signals(theirs, ours)
    assert theirs.tail == "mass" and next(theirs.read()).about["tail"] == "mass"
    assert theirs.tokens() == model.token_bytes and prompts.load(tmp_path / "theirs") == theirs
    assert not list((tmp_path / "theirs").glob("asked-*"))


def test_answers_that_end_by_themselves_teach_their_end(random_model: Make, tmp_path: Path) -> None:
    """A model made to end its answer where it would have said its third token."""
    source = random_model("llama")
    network = copy.deepcopy(source.network)
    ids = source.chat_ids(ASK)
    third = generate(source, [ids], Sampling(3))[0][2]
    head_VH = network.get_output_embeddings().weight
    with torch.no_grad():
        head_VH[source.tokenizer.eos_token_id] = 1.5 * head_VH[third]
    ends = models.load(str(tokenizers.save(tmp_path / "ends", network)), "cpu")
    with llama_cpp.serving(llama_cpp.write(ends, tmp_path / "model.gguf")) as url:
        theirs = capture(opened(url, ends), DATA[2:3], CONFIG, tmp_path / "theirs")
    ours = capture(ends, DATA[2:3], CONFIG, tmp_path / "ours")
    same_signals(theirs, ours)
    (artifact,) = by_text(theirs).values()
    assert artifact.x_ids[-1] == ends.tokenizer.eos_token_id and len(artifact.targets) == 3


def test_our_own_server_teaches_too(shipped: Model, tmp_path: Path) -> None:
    data = [
        Example(({"role": "user", "content": "What is the opposite of hot?"},)),
        Example(ASK, answer="I don't know."),
    ]
    with served.serving(tmp_path / "home", shipped, served.CONFIG) as running:
        teacher = open_endpoint(EndpointClient(f"{running.url}/v1"), f"{shipped.ref}:base", "tiny")
        theirs = capture(teacher, data, replace(CONFIG, max_new_tokens=8), tmp_path / "theirs")
    left, right = by_text(theirs), by_text(capture(shipped, data, replace(CONFIG, max_new_tokens=8), tmp_path / "ours"))
    assert set(left) == set(right)
    for ids, artifact in left.items():
        own = {t.position: t for t in right[ids].targets}
        for t in artifact.targets:  # what it would have ended is not told: OpenAI's format has no token for it
            assert t.ids[0] == own[t.position].ids[0] and abs(t.logprobs[0] - own[t.position].logprobs[0]) < 0.13


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_servers_with_prompt_logprobs_are_asked_once_an_answer(
    dialect: str, temperature: float, model: Model, tmp_path: Path
) -> None:
    said = Speaking(model, dialect)
    config = replace(CONFIG, temperature=temperature)
    with speaking.serving(said) as url:
        theirs = capture(opened(url, model), DATA, config, tmp_path / "theirs")
    same_signals(theirs, capture(model, DATA, replace(CONFIG, temperature=0.0), tmp_path / "ours"))
    assert said.asked == (6 if dialect == "sglang" and temperature else 4)


def test_positions_are_chosen_and_entropy_is_known_from_what_is_told(model: Model, tmp_path: Path) -> None:
    chosen = Positions(spans=("mutable",))
    with speaking.serving(Speaking(model, "vllm")) as url:
        teacher = opened(url, model)
        some = capture(teacher, DATA[:1], replace(CONFIG, positions=chosen), tmp_path / "a")
        flat = capture(teacher, DATA[:1], replace(CONFIG, positions=Positions(entropy=0.5)), tmp_path / "b")
        with pytest.raises(InputError, match="chooses no position of any answer"):
            capture(teacher, DATA[:1], replace(CONFIG, positions=Positions(entropy=99.0)), tmp_path / "c")
    (artifact,) = by_text(some).values()
    touched = b"".join(model.token_bytes[artifact.x_ids[t.position]] for t in artifact.targets)
    assert b"mutable" in touched and len(touched) < 12
    assert flat.positions > some.positions


def test_a_killed_run_asks_nothing_twice(model: Model, tmp_path: Path) -> None:
    """The server goes away for good after two replies; another one, elsewhere, is asked for the rest alone."""
    gone = Speaking(model, "vllm", lambda n, path, reply: None if n < 3 else (0, {}, b""))
    with (
        speaking.serving(gone) as url,
        pytest.raises(ModelError, match=r"after 4 tries; what was answered before is kept"),
    ):
        capture(opened(url, model, concurrency=1), DATA, CONFIG, tmp_path / "a")
    (kept,) = (tmp_path / "a").glob("asked-*")
    assert len([line for line in kept.read_bytes().splitlines() if line]) == 2
    with kept.open("ab") as file:
        file.write(b'{"key": "cut o')
    back = Speaking(model, "vllm")
    with speaking.serving(back) as url:
        again = capture(opened(url, model), DATA, CONFIG, tmp_path / "a")
        whole = capture(opened(url, model), DATA, CONFIG, tmp_path / "b")
    assert back.asked == 2 + 4 and not kept.exists()
    assert [(tmp_path / "a" / n).read_bytes() for n in again.shards] == [
        (tmp_path / "b" / n).read_bytes() for n in whole.shards
    ]


@pytest.mark.parametrize(
    "trouble",
    [(429, {"Retry-After": "0.3"}, b""), (503, {}, b"busy"), (0, {}, b""), (200, {}, b"<html>"), (200, {}, b'{"cut')],
)
def test_what_passes_is_asked_again(trouble: speaking.Reply, model: Model, tmp_path: Path) -> None:
    said = Speaking(model, "vllm", lambda n, path, reply: trouble if n == 1 and "completions" in path else None)
    begun = time.monotonic()
    with speaking.serving(said) as url:
        captured = capture(opened(url, model, concurrency=1), DATA[2:3], CONFIG, tmp_path)
    assert captured.examples == 1 and said.asked == 2
    if trouble[0] == 429:
        assert time.monotonic() - begun >= 0.3


def test_one_that_is_too_slow_or_away_is_one_clear_line(model: Model, tmp_path: Path) -> None:
    def slow(n: int, path: str, reply: dict[str, Any]) -> None:
        time.sleep(0.3 if "completions" in path else 0)

    with speaking.serving(Speaking(model, "vllm", slow)) as url:
        teacher = opened(url, model, timeout=0.1, retries=1)
        with pytest.raises(ModelError, match=r"no answer within 0.1 s, after 2 tries"):
            capture(teacher, DATA[2:3], CONFIG, tmp_path)
    with pytest.raises(ModelError, match="after 2 tries"):
        opened(url, model, retries=1)


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "refused with status 400: max_tokens is wrong"), (401, "environment variable that teacher.key names"),
     (404, "ends where /completions begins")],
)  # fmt: skip
def test_a_refusal_is_not_asked_again(status: int, message: str, model: Model, tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "max_tokens\nis wrong"}}).encode()
    said = Speaking(model, "vllm", lambda n, path, reply: (status, {}, body) if "completions" in path else None)
    with speaking.serving(said) as url, pytest.raises(InputError, match=message):
        capture(opened(url, model), DATA[2:3], CONFIG, tmp_path)
    assert said.asked == 1


def choice(change: Callable[[dict[str, Any]], object]) -> Amiss:
    """The honest reply with its first choice changed."""

    def amiss(n: int, path: str, reply: dict[str, Any]) -> dict[str, Any]:
        if "choices" in reply:
            change(reply["choices"][0])
        return reply

    return amiss


def shout(told: dict[str, Any]) -> None:
    told["top_logprobs"] = [dict.fromkeys(top, -0.1) for top in told["top_logprobs"]]
    told["token_logprobs"] = [-0.1] * len(told["tokens"])


def doubt(said: dict[str, Any]) -> None:
    """Special tokens, which have no text, where others are likelier."""
    said["logprobs"].update(tokens=["token_id:1"] * 5, token_logprobs=[-30.0] * 5)
    said["text"] = ""


LIES: list[tuple[Amiss, str]] = [
    (choice(lambda c: c.pop("logprobs")), "gave no logprobs"),
    (choice(lambda c: c.update(logprobs={"surprise": 1})), "a form that is not OpenAI's"),
    (choice(lambda c: c.update(text="other words")), "its tokens join to .*, its text is 'other words'"),
    (choice(lambda c: shout(c["logprobs"])), "sum to a mass of 5.429, more than 1"),
    (choice(lambda c: c["logprobs"].update(token_logprobs=[0.5] * 5)), "a log-probability is 0.5"),
    (choice(lambda c: c["logprobs"].update(token_logprobs=[None] * 5)), "a log-probability is None"),
    (choice(lambda c: c["logprobs"]["token_logprobs"].pop()), "gave 5 tokens with 4 log-probabilities"),
    (choice(lambda c: c["logprobs"].update(top_logprobs=None)), "gave no alternatives beside the token itself"),
    (choice(lambda c: c["logprobs"]["tokens"].__setitem__(0, "token_id:99999")), "token id 99999 is not in the named"),
    (choice(lambda c: c["logprobs"]["tokens"].__setitem__(0, "zzqzz")), "its token 'zzqzz' is not in the named"),
    (choice(lambda c: c["logprobs"].update(token_logprobs=[-9.0] * 5)), "two log-probabilities, -9.000 and"),
    (choice(doubt), "does not take the likeliest token"),
    (lambda n, path, reply: {"choices": []} if "choices" in reply else None, "gave 0 choices where 1 were asked for"),
    (lambda n, path, reply: {"detail": "?"} if "choices" in reply else None, "answered with no choices"),
    (lambda n, path, reply: {"object": "list"} if "data" in reply else None, "not an OpenAI-compatible endpoint"),
]  # fmt: skip


@pytest.mark.parametrize(("amiss", "message"), LIES, ids=[m[:24] for _, m in LIES])
def test_a_server_that_lies_is_one_clear_line(amiss: Amiss, message: str, model: Model, tmp_path: Path) -> None:
    with speaking.serving(Speaking(model, "vllm", amiss)) as url, pytest.raises(ModelError, match=message) as raised:
        capture(opened(url, model), DATA[2:3], CONFIG, tmp_path)
    assert "\n" not in str(raised.value) and url in str(raised.value)
    assert not list(tmp_path.glob("signals-*"))


def other_tokens(said: dict[str, Any]) -> None:
    said["prompt_logprobs"] = said["prompt_logprobs"][:1] + [
        dict(list(entries.items())[:1]) for entries in said["prompt_logprobs"][1:]
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [(other_tokens, "of other tokens than were sent"), (lambda c: c["prompt_logprobs"].pop(), "for a prompt of"),
     (lambda c: c.pop("prompt_logprobs"), "prompt_logprobs of no tokens"),
     (lambda c: c["prompt_logprobs"].__setitem__(-1, {"x": 1}), "another form than vLLM's")],
)  # fmt: skip
def test_scores_of_other_tokens_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, model: Model, tmp_path: Path
) -> None:
    said = Speaking(model, "vllm", choice(change))
    with speaking.serving(said) as url, pytest.raises(ModelError, match=message):
        capture(opened(url, model), DATA[:1], CONFIG, tmp_path)


def test_an_answer_longer_than_asked_is_refused(model: Model, tmp_path: Path) -> None:
    said = Speaking(model, "vllm")
    said.longer = 4
    with speaking.serving(said) as url, pytest.raises(ModelError, match="gave 9 tokens where at most 5 were asked for"):
        capture(opened(url, model), DATA[2:3], CONFIG, tmp_path)


def test_another_tokenizer_than_is_served_is_noticed(llama: str, shipped: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="in the named tokenizer: name the one it serves with"):
        capture(opened(llama, shipped), DATA[2:3], CONFIG, tmp_path)


def test_settings_of_an_endpoint_are_checked(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'localhost:1' is not an address"):
        EndpointClient("localhost:1")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InputError, match="no environment variable NO_SUCH_KEY"):
        secret("NO_SUCH_KEY")
    monkeypatch.setenv("SUCH_A_KEY", "hush")
    assert secret("SUCH_A_KEY") == "hush" and "hush" not in repr(EndpointClient("http://x", "hush"))
    with speaking.serving(Speaking(model, "openai")) as url:
        wire = EndpointClient(url, **QUICK)
        with pytest.raises(InputError, match="does not serve 'small'; it serves big"):
            open_endpoint(wire, "small", str(model.path))
        with pytest.raises(InputError, match=r"teacher.tokenizer: missing"):
            open_endpoint(wire, "big", "")
        with pytest.raises(ModelError, match="no tokenizer there"):
            open_endpoint(wire, "big", str(tmp_path))
        assert open_endpoint(wire, "big", str(model.path)).dialect == "openai"
        found = wire.ask([EndpointRequest("completions", {"prompt": [5, 6], "max_tokens": 1, "logprobs": 2})])
        assert np.isfinite(found[0]["choices"][0]["logprobs"]["token_logprobs"][0])
