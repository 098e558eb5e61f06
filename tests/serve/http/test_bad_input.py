"""What a server has to bear, over real sockets: clients that dawdle or leave, names that are no names, damaged files, a
clock that was set back, a disk without room."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from stillhouse.models import Model
from stillhouse.serve.http import body
from stillhouse.serve.log.journal_records import new_id
from stillhouse.store import Store
from tests.serve.disk import no_file_larger_than
from tests.serve.served import CONFIG, QUESTION, Served, chat, expected, refused, save, serving
from tests.serve.writer import exchange

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("qwen3")


@pytest.fixture(scope="module")
def served(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("bad") / "inside" / "home"
    save(Store(home), model, "alice", 1)
    save(Store(home), model, "alice", 2, passed=False)
    with serving(home, model, CONFIG) as running:
        yield running


@contextlib.contextmanager
def raw(served: Served, *sent: bytes) -> Iterator[socket.socket]:
    """A connection that has sent so much."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"".join(sent))
        yield connection


def head(length: int, path: str = CHAT) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_body_that_does_not_come_is_408(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    with raw(served, head(1000), b'{"model"') as slow:
        reply = slow.recv(65536)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"timeout_error" in reply or b"timeout_error" in slow.recv(65536)


def test_clients_that_dawdle_hold_up_nobody(served: Served) -> None:
    """Half a request line, half a body, a stream that is never read."""
    body = json.dumps({"model": served.model.ref, "messages": QUESTION, "max_tokens": 1900, "stream": True}).encode()
    with contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(raw(served, b"POST /v1/chat/comp"))
            held.enter_context(raw(served, head(1000), b"{"))
        held.enter_context(raw(served, head(len(body)), body))
        assert chat(served, user="alice")["object"] == "chat.completion"


@pytest.mark.parametrize("name", ["../../etc", "..", "/etc/passwd", "a/../../b", "~root", "%2e%2e%2f", "con\\..\\x"])
def test_no_name_leads_out_of_the_home(served: Served, name: str) -> None:
    """As a user, a session, a tenant's user, a job, a model: an answer or a refusal, and no file outside."""
    root = served.service.home.parents[1]
    with served.http() as http:
        chat(served, user=name, session=name)
        told = http.post(f"/v1/users/{quote(name, safe='')}/memory", json={"text": "I am here."})
        assert told.status_code in (200, 404), told.text
        refused(http.get(f"/v1/jobs/{quote(name, safe='')}"), 404)
        refused(http.post(CHAT, json={"model": f"{served.model.ref}:user/{name}/v1", "messages": QUESTION}), 404)
    strangers = {p for p in root.rglob("*") if served.service.home not in (p, *p.parents)}
    assert strangers == {root / "inside"}


def test_nul_bytes_are_text_or_refused(served: Served) -> None:
    with served.http() as http:
        about = chat(served, user="alice", session="a\0b", messages=[{"role": "user", "content": "Who\0 is it?"}])
        assert about["stillhouse"]["session"] == "a\0b"  # type: ignore[index]
        refused(http.get("/v1/users/a%00b"), 400, "U+0000")
        refused(http.get("/v1/jobs/a%00b"), 404)
        refused(http.post(CHAT, json={"model": f"{served.model.ref}:user/a\0b", "messages": QUESTION}), 400, "U+0000")
        refused(http.post("/v1/users/alice/memory", json={"text": "My cat\0 is called Miro."}), 400)
        refused(http.post("/v1/feedback", json={"response_id": "a\0b", "score": 1}), 404)


def test_unknown_users_and_versions(served: Served) -> None:
    with served.http() as http:
        assert http.get("/v1/users/nobody").json()["version"] is None
        assert http.get("/v1/users/nobody/adapters").json()["data"] == []
        refused(http.get("/v1/users/nobody/adapters/1/report"), 404, "no version 1")
        refused(http.get(f"/v1/users/alice/adapters/{10**30}/report"), 404, "no version")
        refused(http.get("/v1/users/alice/adapters/-1/report"), 404)
        refused(http.get("/v1/users/alice/adapters/one/report"), 400, "number")
        refused(http.post("/v1/users/alice/rollback"), 404, "no earlier champion")
        refused(http.post("/v1/users/alice/rollback", json={"version": 2}), 422, "rejected by its gates")


def test_a_long_prompt_names_the_limit(served: Served) -> None:
    long = [{"role": "user", "content": "word " * 100_000}]
    with served.http() as http:
        error = refused(http.post(CHAT, json={"model": served.model.ref, "messages": long}), 400, "context is")
    assert error["code"] == "context_length_exceeded"


def flip(file: Path) -> None:
    """One bit, in the middle of the weights."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("user", "damage", "word"),
    [("tim", flip, "is not the adapter that was gated"), ("tom", None, "was made for base")],
)
def test_the_version_before_serves_on(
    served: Served, model: Model, user: str, damage: Callable[[Path], None] | None, word: str
) -> None:
    """A champion that was tampered with, or made for another base."""
    store = served.service.store
    save(store, model, user, 6)
    save(store, model, user, 7, base=None if damage else "f" * 64)
    if damage:
        damage(store.version_dir(user, 2) / "adapter_model.safetensors")
    body = chat(served, user=user)
    assert body["choices"][0]["message"]["content"] == expected(model, 6, QUESTION)  # type: ignore[index]
    assert body["stillhouse"]["version"] == 1  # type: ignore[index]
    assert word in body["stillhouse"]["refused"][0]  # type: ignore[index]


def test_a_clock_that_was_set_back_reorders_nothing(served: Served) -> None:
    """Order is that of the journal, never of the times in it."""
    journal = served.service.journal
    for time, said in (("2026-05-01", "My boat is called Osprey."), ("1999-01-01", "My boat is called Heron now.")):
        told = exchange("uma", "talk", said)
        journal.append(replace(told, id=new_id("chatcmpl"), time=f"{time}T12:00:00.000+00:00"))
    with served.http() as http:
        text = http.get("/v1/users/uma/memory").json()["text"]
        assert text.index("Osprey") < text.index("Heron")
        (session,) = http.get("/v1/users/uma/sessions").json()["data"]
        assert (session["exchanges"], session["ended"]) == (2, False)
        assert chat(served, user="uma")["stillhouse"]["path"] == "retrieval"  # type: ignore[index]


READS = [
    "/healthz", "/metrics", "/", "/v1/models", "/v1/users", "/v1/users/alice", "/v1/users/alice/memory",
    "/v1/users/alice/adapters", "/v1/users/alice/sessions", "/v1/jobs", "/v1/stats", "/v1/keys",
]  # fmt: skip


def writes(response: str) -> list[tuple[str, str, object]]:
    return [
        ("POST", "/v1/users/vera/memory", {"text": "My cat is called Miro."}),
        ("POST", "/v1/users/vera/consolidate", None),
        ("POST", "/v1/users/vera/sessions/talk/end", None),
        ("POST", "/v1/users/vera/rollback", {"version": 1}),
        ("POST", "/v1/users/vera/forget", None),
        ("POST", "/v1/feedback", {"response_id": response, "score": 1}),
        ("POST", "/v1/keys", {"scope": "admin"}),
    ]


def test_a_full_disk_answers_507_and_reads_go_on(served: Served, model: Model) -> None:
    """No file of this process may hold a byte more: reads are answered, writes are refused, and nothing is lost."""
    save(served.service.store, model, "vera", 1)
    save(served.service.store, model, "vera", 2)
    told = [{"role": "user", "content": "My bird is called Pip."}]
    name = chat(served, user="vera", session="talk", messages=told)["id"]
    with served.http() as http:
        with no_file_larger_than(0):
            read = {path: http.get(path).status_code for path in READS}
            answer = chat(served, user="vera", session="talk")
            wrote = [http.request(method, path, json=body) for method, path, body in writes(str(name))]
        assert read == dict.fromkeys(READS, 200)
        assert answer["stillhouse"]["recorded"] is False  # type: ignore[index]
        for reply in wrote:
            assert refused(reply, 507, "disk is full")["type"] == "storage_error"
        assert "Pip" in http.get("/v1/users/vera/memory").json()["text"]
        assert http.post("/v1/feedback", json={"response_id": name, "score": 1}).status_code == 200
        assert chat(served, user="vera")["stillhouse"]["version"] == 2  # type: ignore[index]
    assert [line for line in served.service.store.verify() if "vera" in line] == []
