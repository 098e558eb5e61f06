"""Conversations of every shape, sent to models whose templates demand one: answered, or refused in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stillhouse.models import Model
from tests import tokenizers
from tests.serve.served import CONFIG, QUESTION, Served, refused, serving

SYSTEM, ASSISTANT = {"role": "system", "content": "You are kind."}, {"role": "assistant", "content": "Hello."}


@pytest.fixture(scope="module", params=[tokenizers.GEMMA, tokenizers.MISTRAL, tokenizers.STRICT, None])
def served(
    request: pytest.FixtureRequest, random_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    model = random_model("llama", request.param, bos=request.param in (tokenizers.GEMMA, tokenizers.MISTRAL))
    with serving(tmp_path_factory.mktemp("served") / "home", model, CONFIG) as running:
        yield running


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM],
        [{"role": "system", "content": ""}, *QUESTION],
        [*QUESTION, *QUESTION],
        [ASSISTANT, *QUESTION],
        [SYSTEM, ASSISTANT, *QUESTION, ASSISTANT],
        [*QUESTION, SYSTEM, *QUESTION],
        [ASSISTANT],
        [{"role": "user", "content": ""}],
    ],
)
def test_a_conversation_of_any_shape_is_answered(served: Served, messages: list[dict[str, str]]) -> None:
    with served.http() as http:
        reply = http.post("/v1/chat/completions", json={"model": served.model.ref, "messages": messages})
    assert reply.status_code == 200, reply.text


def test_a_conversation_without_a_word_is_one_line(served: Served) -> None:
    with served.http() as http:
        empty = [{"role": "system", "content": " "}]
        reply = http.post("/v1/chat/completions", json={"model": served.model.ref, "messages": empty})
    refused(reply, 400, "the conversation is empty")


def test_a_raw_prompt_begins_as_the_tokenizer_begins_it(served: Served) -> None:
    with served.http() as http:
        body = {"model": served.model.ref, "prompt": "Once upon", "max_tokens": 1}
        reply = http.post("/v1/completions", json=body)
    assert reply.json()["usage"]["prompt_tokens"] == len(served.model.tokenizer("Once upon")["input_ids"])
