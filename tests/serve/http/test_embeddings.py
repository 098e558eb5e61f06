"""Embeddings, by OpenAI's own client and by plain HTTP: the base's hidden states, pooled, whoever else is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from stillhouse.models import Model, TextModel
from stillhouse.store import Store
from tests.serve.served import CONFIG, Served, chat, refused, save, serving

TEXTS = ["My dog is called Biscuit.", "Rain.", "The harbour opens at six, and closes when the last boat is in."]


@pytest.fixture(scope="module")
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("qwen3")


@pytest.fixture(scope="module")
def served(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("embeddings") / "home"
    save(Store(home), model, "alice", 1)
    with serving(home, model, CONFIG) as running:
        yield running


@torch.inference_mode()
def expected(model: TextModel, text: str, last: bool = False) -> Tensor:
    assert isinstance(model, Model)
    states_TH = model.network.base_model(torch.tensor([model.text_ids(text)])).last_hidden_state[0]
    return torch.nn.functional.normalize(states_TH[-1] if last else states_TH.mean(0), dim=-1)


def test_openais_client_gets_the_mean_hidden_states(served: Served) -> None:
    reply = served.openai().embeddings.create(model=served.model.ref, input=TEXTS)  # it asks for base64
    assert [d.index for d in reply.data] == [0, 1, 2]
    for text, found in zip(TEXTS, reply.data, strict=True):
        torch.testing.assert_close(torch.tensor(found.embedding), expected(served.model, text), atol=1e-5, rtol=1e-4)
    tokens = sum(len(served.model.text_ids(text)) for text in TEXTS)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == tokens


def test_numbers_token_ids_and_the_last_state(served: Served) -> None:
    ids = served.model.text_ids(TEXTS[0])
    with served.http() as http:
        for given, count in ((TEXTS[0], 1), (ids, 1), ([ids, ids], 2)):
            body = {"model": f"{served.model.ref}:base", "input": given, "pooling": "last"}
            data = http.post("/v1/embeddings", json=body).raise_for_status().json()["data"]
            assert len(data) == count
            found_H = torch.tensor(data[-1]["embedding"])
            torch.testing.assert_close(found_H, expected(served.model, TEXTS[0], last=True), atol=1e-5, rtol=1e-4)


def test_answers_beside_them_are_not_disturbed(served: Served) -> None:
    alone = chat(served, user="alice")["choices"]
    client, over = served.openai(), threading.Event()

    def ask() -> None:
        while not over.is_set():
            client.embeddings.create(model=served.model.ref, input=TEXTS * 4)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert all(chat(served, user="alice")["choices"] == alone for _ in range(5))
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"input": ""}, 400, "input 0 has 0 tokens"),
        ({"input": []}, 400, "input"),
        ({"input": ["fine", ""]}, 400, "input 1 has 0 tokens"),
        ({"input": "word " * 5000}, 400, "the model's context is"),
        ({"input": [10**6]}, 400, "not in the vocabulary"),
        ({"dimensions": 8}, 400, "dimensions: 8 is not allowed"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"pooling": "max"}, 400, "pooling"),
        ({"model": "other"}, 404, "does not exist"),
    ],
)
def test_what_is_refused(served: Served, change: dict[str, object], status: int, words: str) -> None:
    with served.http() as http:
        refused(http.post("/v1/embeddings", json={"model": served.model.ref, "input": "word"} | change), status, words)


def test_a_users_weights_do_not_take_part(served: Served) -> None:
    with served.http() as http:
        body = {"model": f"{served.model.ref}:user/alice", "input": "word"}
        refused(http.post("/v1/embeddings", json=body), 400, "embeddings are the base's")
        width = len(expected(served.model, "word"))
        whole = {"model": served.model.ref, "input": "word", "user": "alice", "dimensions": width}
        found = http.post("/v1/embeddings", json=whole).raise_for_status().json()
    assert torch.allclose(torch.tensor(found["data"][0]["embedding"]), expected(served.model, "word"), atol=1e-5)
