"""The API, spoken to by OpenAI's own client and by plain HTTP, over a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from stillhouse.generate import Sampling, generate
from stillhouse.models import Model
from stillhouse.serve import policy
from stillhouse.serve.log.journal_records import Exchange, Feedback
from stillhouse.serve.service import Config
from stillhouse.store import Store
from tests.serve.served import CONFIG, LAZY, QUESTION, Served, chat, expected, refused, save, serving


@pytest.fixture(scope="module")
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("qwen3")


@pytest.fixture(scope="module")
def served(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Alice has two versions, bob one; nobody needs a key."""
    home = tmp_path_factory.mktemp("served") / "home"
    store = Store(home)
    for user, seed in (("alice", 1), ("alice", 2), ("bob", 3)):
        save(store, model, user, seed)
    with serving(home, model, CONFIG) as running:
        yield running


def test_each_user_is_answered_by_their_own_weights(served: Served) -> None:
    client = served.openai()
    for user, seed, version in (("alice", 2, 2), ("bob", 3, 1), ("carol", None, None)):
        reply = client.chat.completions.create(model=served.model.ref, messages=QUESTION, user=user)  # type: ignore[arg-type]
        assert reply.choices[0].message.content == expected(served.model, seed, QUESTION)
        about = reply.model_extra["stillhouse"]  # type: ignore[index]
        assert (about["version"], about["user"]) == (version, user)
        assert about["path"] == ("adapted" if version else "base")
        assert reply.usage is not None
        assert reply.usage.completion_tokens <= 12
        assert reply.id.startswith("chatcmpl-")


@pytest.mark.parametrize(
    ("suffix", "seed", "path"),
    [("", None, "base"), (":base", None, "base"), (":user/alice", 2, "adapted"), (":user/alice/v1", 1, "adapted")],
)
def test_the_model_picks_whose_weights_answer(served: Served, suffix: str, seed: int | None, path: str) -> None:
    user = {"user": "alice"} if suffix == ":base" else {}
    body = chat(served, model=f"{served.model.ref}{suffix}", **user)
    assert body["choices"][0]["message"]["content"] == expected(served.model, seed, QUESTION)  # type: ignore[index]
    assert body["stillhouse"]["path"] == path  # type: ignore[index]


def test_a_stream_says_the_same(served: Served) -> None:
    client = served.openai()
    settings = {"model": served.model.ref, "messages": QUESTION, "user": "bob"}
    whole = client.chat.completions.create(**settings)  # type: ignore[call-overload]
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].model_extra["stillhouse"]["version"] == 1


def test_choices_seeds_and_logprobs(served: Served) -> None:
    client = served.openai()
    draw = {"model": served.model.ref, "messages": QUESTION, "temperature": 1.0, "seed": 7, "n": 3, "logprobs": True}
    first, again = (client.chat.completions.create(**draw, top_logprobs=2) for _ in range(2))  # type: ignore[call-overload]
    said = [c.message.content for c in first.choices]
    assert said == [c.message.content for c in again.choices]
    assert len(set(said)) > 1
    assert [c.index for c in first.choices] == [0, 1, 2]
    for token in first.choices[0].logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert bytes(token.bytes).decode(errors="replace") == token.token


def test_drawn_choices_are_those_of_generate(served: Served) -> None:
    client, model = served.openai(), served.model
    prompt = model.text_ids("Once upon")
    extra = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.3}
    settings = {"temperature": 1.2, "seed": 11, "top_p": 0.95, "max_tokens": 8}
    reply = client.completions.create(model=f"{model.ref}:base", prompt=prompt, n=3, extra_body=extra, **settings)  # type: ignore[call-overload]
    answers = generate(model, [prompt] * 3, Sampling(8, 1.2, 11, top_p=0.95, **extra))  # type: ignore[arg-type]
    assert [c.text for c in reply.choices] == [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    off = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
    first, second = (
        client.completions.create(model=f"{model.ref}:base", prompt=prompt, extra_body=body, **settings)  # type: ignore[call-overload]
        for body in ({}, off)
    )
    assert first.choices[0].text == second.choices[0].text


def test_raw_prompts(served: Served) -> None:
    client = served.openai()
    model = served.model
    texts = ["Once upon", "Why not"]
    reply = client.completions.create(model=model.ref, prompt=texts, max_tokens=5, logprobs=1, n=2, temperature=0.5)
    assert len(reply.choices) == 4
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == sum(len(model.text_ids(t)) for t in texts)
    greedy = client.completions.create(model=model.ref, prompt=texts[0], max_tokens=5, temperature=0)
    ids = client.completions.create(model=model.ref, prompt=model.text_ids(texts[0]), max_tokens=5, temperature=0)
    assert greedy.choices[0].text == ids.choices[0].text
    streamed = client.completions.create(model=model.ref, prompt=texts[0], max_tokens=5, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == greedy.choices[0].text


def test_models_are_listed(served: Served) -> None:
    client = served.openai()
    names = [m.id for m in client.models.list()]
    ref = served.model.ref
    assert names[:4] == [ref, f"{ref}:base", f"{ref}:user/alice", f"{ref}:user/bob"]
    assert client.models.retrieve(f"{ref}:user/alice").id == f"{ref}:user/alice"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


BAD: list[tuple[dict[str, object], int, str]] = [
    ({"messages": []}, 400, "messages"),
    ({"messages": "hello"}, 400, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "content"),
    ({"temperature": 3}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"top_k": -2}, 400, "top_k"),
    ({"top_k": 2.5}, 400, "top_k"),
    ({"min_p": 1.5}, 400, "min_p"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty"),
    ({"n": 100}, 400, "n"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 10**6}, 400, "do not fit"),
    ({"tools": []}, 400, "unknown field 'tools'"),
    ({"top_logprobs": 3}, 400, "top_logprobs needs logprobs"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty"),
    ({"stop": ""}, 400, "stop"),
    ({"model": "gpt-9"}, 404, "does not exist"),
    ({"model": "MODEL:user/alice/v9"}, 404, "no version 9"),
    ({"model": "MODEL:user/alice", "user": "bob"}, 400, "two users"),
    ({"user": "a\0b"}, 400, "U+0000"),
    ({"user": "x" * 200}, 400, "200 characters"),
    ({"user": ""}, 400, "user"),
    ({"messages": [{"role": "user", "content": "word " * 20_000}]}, 400, "context is"),
]


@pytest.mark.parametrize(("settings", "status", "word"), BAD)
def test_what_cannot_be_asked(served: Served, settings: dict[str, object], status: int, word: str) -> None:
    settings = {k: v.replace("MODEL", served.model.ref) if isinstance(v, str) else v for k, v in settings.items()}
    with served.http() as http:
        reply = http.post("/v1/chat/completions", json={"model": served.model.ref, "messages": QUESTION} | settings)
    refused(reply, status, word)


def test_bodies_that_are_none(served: Served) -> None:
    with served.http() as http:
        json_type = {"Content-Type": "application/json"}
        refused(http.post("/v1/chat/completions", content=b'{"model": ', headers=json_type), 400, "not JSON")
        refused(http.post("/v1/chat/completions", content=b"\xff\xfe", headers=json_type), 400)
        refused(http.post("/v1/chat/completions", content=b"[1]", headers=json_type), 400)
        surrogate = b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'
        refused(http.post("/v1/chat/completions", content=surrogate, headers=json_type), 400, "Unicode")
        too_large = b'{"model":"' + b"x" * (2 << 20) + b'"}'
        refused(http.post("/v1/chat/completions", content=too_large, headers=json_type), 413, "larger than")
        refused(http.get("/v1/nothing"), 404)
        refused(http.put("/v1/models"), 405)
        refused(http.get("/v1/jobs/../../etc/passwd"), 404)
        refused(http.get("/v1/users/..%2F..%2Fetc/adapters/1/report"), 404)


def test_a_half_sent_body_leaves_no_trace(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    assert chat(served)["object"] == "chat.completion"


def test_a_client_that_leaves_is_not_answered_on(served: Served) -> None:
    for stream in (True, False):
        body = {"model": served.model.ref, "messages": QUESTION, "max_tokens": 1900, "stream": stream}
        with served.http() as http, contextlib.nullcontext() if stream else pytest.raises(httpx.ReadTimeout):
            if stream:
                with http.stream("POST", "/v1/chat/completions", json=body) as reply:
                    next(reply.iter_lines())
            else:
                http.post("/v1/chat/completions", json=body, timeout=0.3)
        deadline = time.monotonic() + 20
        while served.service.engine.stats().running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not served.service.engine.stats().running


def test_feedback_is_kept_once(served: Served) -> None:
    name = chat(served, user="bob")["id"]
    with served.http() as http:
        for _ in range(2):
            given = http.post("/v1/feedback", json={"response_id": name, "score": 1, "id": "once"})
            assert given.json() == {"object": "feedback", "id": "once", "response_id": name}
        http.post("/v1/feedback", json={"response_id": name, "key": "tone", "value": "warm", "correction": "Hi."})
        refused(http.post("/v1/feedback", json={"response_id": "chatcmpl-none", "score": 1}), 404)
        refused(http.post("/v1/feedback", json={"response_id": name}), 400, "says nothing")
        refused(http.post("/v1/feedback", json={"response_id": name, "score": 5}), 400, "score")
    kept = list(served.service.journal.records("feedback", user="bob"))
    assert [(f.key, f.value) for f in kept if isinstance(f, Feedback)] == [("score", 1.0), ("tone", "warm")]


def test_every_exchange_is_on_disk_before_its_answer(served: Served) -> None:
    turns = [*QUESTION, {"role": "assistant", "content": "Me."}, {"role": "user", "content": "Which me?"}]
    first = chat(served, user="dora", session="s1")
    second = chat(served, user="dora", session="s1", messages=turns)
    kept = [e for e in served.service.journal.records("exchange", user="dora") if isinstance(e, Exchange)]
    assert [e.id for e in kept] == [first["id"], second["id"]]
    assert [[t.content for t in e.turns] for e in kept] == [["Who is it?"], ["Which me?"]]
    assert kept[1].cached_tokens > 0, "the second turn was read on from the first"


def test_what_was_said_is_answered_from_retrieval_at_once(served: Served) -> None:
    with served.http() as http:
        given = http.post("/v1/users/erin/memory", json={"text": "My cat is called Miro. The moon is far away."})
        assert given.json()["statements"] == 2
        about = chat(served, user="erin")["stillhouse"]
        assert about["path"] == "retrieval"  # type: ignore[index]
        assert about["passages"] == 2  # type: ignore[index]
        assert "Miro" in http.get("/v1/users/erin/memory").json()["text"]
        assert http.post("/v1/users/bob/memory", json={"text": "My dog is called Rex now."}).status_code == 200
        assert chat(served, user="bob")["stillhouse"]["path"] == "both"  # type: ignore[index]
        said = [{"role": "user", "content": "You know that my dog is called Rex now. Right?"}]
        refused(http.post("/v1/users/erin/memory", json={"text": " "}), 400, "empty")
    assert chat(served, user="erin", messages=said)["stillhouse"]["passages"] == 2  # type: ignore[index]


def test_rolling_back_takes_effect_at_once(served: Served, model: Model) -> None:
    store = served.service.store
    save(store, model, "fay", 4)
    save(store, model, "fay", 5)
    with served.http() as http:
        assert chat(served, user="fay")["stillhouse"]["version"] == 2  # type: ignore[index]
        moved = http.post("/v1/users/fay/rollback").json()
        assert (moved["version"], moved["before"]) == (1, 2)
        assert chat(served, user="fay")["choices"][0]["message"]["content"] == expected(model, 4, QUESTION)  # type: ignore[index]
        listed = http.get("/v1/users/fay/adapters").json()["data"]
        assert [(v["version"], v["champion"]) for v in listed] == [(1, True), (2, False)]
        assert "<title>v of 4</title>" in http.get(listed[0]["report"]).text
        assert http.post("/v1/users/fay/rollback", json={"version": 2}).json()["version"] == 2
        refused(http.post("/v1/users/nobody/rollback"), 404, "nothing to roll back")
        refused(http.post("/v1/users/fay/rollback", json={"version": 9}), 404, "no version 9")


def test_a_damaged_champion_leaves_the_one_before_serving(served: Served, model: Model) -> None:
    store = served.service.store
    save(store, model, "gus", 6)
    save(store, model, "gus", 7)
    file = store.version_dir("gus", 2) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    body = chat(served, user="gus")
    assert body["stillhouse"]["version"] == 1  # type: ignore[index]
    assert "is not the adapter that was gated" in body["stillhouse"]["refused"][0]  # type: ignore[index]
    assert body["choices"][0]["message"]["content"] == expected(model, 6, QUESTION)  # type: ignore[index]


def test_sessions_end_and_become_jobs(model: Model, tmp_path: Path) -> None:
    config = Config(policy=policy.Policy(min_session_count=1, min_new_tokens=10**6), slots=1, default_tokens=2)
    with serving(tmp_path / "home", model, config) as served, served.http() as http:
        told = [{"role": "user", "content": "My boat is called Osprey. I live in Turku."}]
        chat(served, user="hana", session="talk", messages=told)
        listed = http.get("/v1/users/hana/sessions").json()["data"]
        assert [(s["id"], s["ended"]) for s in listed] == [("talk", False)]
        ended = http.post("/v1/users/hana/sessions/talk/end").json()
        assert ended["decision"] == "1 ended sessions (>= 1)"
        refused(http.post("/v1/users/hana/sessions/talk/end"), 404, "no open session")
        job = http.get(f"/v1/jobs/{ended['job']}").json()
        assert (job["user"], job["state"], job["model"]) == ("hana", "queued", model.ref)
        again = http.post("/v1/users/hana/consolidate")
        assert (again.status_code, again.json()["id"]) == (202, job["id"])
        refused(http.post("/v1/users/ivan/consolidate"), 400, "has said nothing")
        assert [j["id"] for j in http.get("/v1/jobs", params={"user": "hana"}).json()["data"]] == [job["id"]]
        assert http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
        with http.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            list(stream.iter_lines())  # an ended job's events end


def test_silence_ends_a_session(model: Model, tmp_path: Path) -> None:
    config = Config(policy=LAZY, slots=1, default_tokens=2, session_idle=0.2)
    with serving(tmp_path / "home", model, config) as served, served.http() as http:
        chat(served, user="kim", session="short")
        deadline = time.monotonic() + 20
        while served.service.open_sessions("kim") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert http.get("/v1/users/kim/sessions").json()["data"][0]["ended"]


def test_forgetting_leaves_nothing(served: Served, model: Model) -> None:
    save(served.service.store, model, "jon", 8)
    chat(served, user="jon", session="s")
    with served.http() as http:
        removed = http.post("/v1/users/jon/forget").json()["removed"]
        assert removed["remaining"] == 0
        assert removed["records"] == 1
        assert chat(served, user="jon")["stillhouse"]["path"] == "base"  # type: ignore[index]
        http.post("/v1/users/jon/forget")
    assert "jon" not in served.service.store.users()


def test_metrics_and_pages(served: Served) -> None:
    chat(served, user="alice")
    with served.http() as http:
        text = http.get("/metrics").text
        for name in (
            "vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket", "vllm:generation_tokens_total",
            "vllm:request_success_total", "stillhouse:requests_total", "stillhouse:adapter_loads_hot_total",
            "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total",
        ):  # fmt: skip
            assert f"\n{name}{{" in text, name
        assert "alice" not in text, "no user's name is ever a label"
        assert http.get("/v1/stats").json()["paths"]["adapted"] > 0
        assert http.get("/").status_code == 200
        assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]
        assert http.get("/healthz").json()["status"] == "ok"
        assert {u["id"] for u in http.get("/v1/users").json()["data"]} >= {"alice", "bob"}


def test_events_can_be_followed(served: Served, model: Model) -> None:
    before = served.service.events.last()
    save(served.service.store, model, "lea", 9)
    chat(served, user="lea")
    with served.http() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": str(before)}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and json.loads(line[5:]).get("user") == "lea":
                assert json.loads(line[5:])["type"] in ("routing", "adapter")
                break
