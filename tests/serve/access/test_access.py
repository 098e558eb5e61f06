"""Who may ask: keys keep users apart, pages of somewhere else are refused, too much is told to wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stillhouse.models import Model
from stillhouse.serve.access import limits
from stillhouse.serve.engine import engine
from stillhouse.serve.http.auth import host_of, is_this_machine
from stillhouse.serve.service import Config
from stillhouse.store import Store
from tests.serve.served import CONFIG, LAZY, QUESTION, Served, expected, refused, save, serving


@pytest.fixture
def model(random_model: Callable[..., Model]) -> Model:
    return random_model("qwen3")


def test_keys_keep_users_apart(model: Model, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for user, seed in (("acme/ann", 1), ("acme/ben", 2), ("zeta/ann", 3)):
        save(Store(home), model, user, seed)
    with serving(home, model, CONFIG) as served:
        ring = served.service.keyring
        admin, _ = ring.create("admin")
        ann, _ = ring.create("user", tenant="acme", user="ann")
        acme, _ = ring.create("tenant", tenant="acme")
        with served.http() as nobody:
            refused(nobody.get("/v1/models"), 401, "API key")
            assert nobody.get("/healthz").status_code == 200
        ask = {"model": model.ref, "messages": QUESTION}
        with served.http(ann) as http:
            mine = http.post("/v1/chat/completions", json=ask).json()
            assert mine["choices"][0]["message"]["content"] == expected(model, 1, QUESTION)
            assert mine["stillhouse"]["user"] == "acme/ann"
            for other in ("ben", "zeta/ann", "nobody"):
                body = refused(http.post("/v1/chat/completions", json=ask | {"user": other}), 403)
                assert "may not ask" in str(body["message"])
            refused(http.get("/v1/users/ben/memory"), 403)
            refused(http.get("/v1/users/nobody/memory"), 403)
            refused(http.post("/v1/chat/completions", json=ask | {"model": f"{model.ref}:user/acme/ben"}), 403)
            assert len(http.get("/v1/models").json()["data"]) == 3
            for path in ("/metrics", "/v1/stats", "/v1/keys"):
                refused(http.get(path), 403)
            assert [u["id"] for u in http.get("/v1/users").json()["data"]] == ["acme/ann"]
        with served.http(acme) as http:
            assert [u["id"] for u in http.get("/v1/users").json()["data"]] == ["acme/ann", "acme/ben"]
            assert http.get("/v1/users/ben").json()["version"] == 1
            refused(http.post("/v1/chat/completions", json=ask), 400, "name the user")
            refused(http.post("/v1/feedback", json={"response_id": mine["id"] + "0", "score": 1}), 404)
            assert http.post("/v1/feedback", json={"response_id": mine["id"], "score": 1}).status_code == 200
        with served.http(admin) as http:
            made = http.post("/v1/keys", json={"scope": "user", "tenant": "zeta", "user": "ann"}).json()
            with served.http(made["secret"]) as zeta:
                refused(zeta.post("/v1/feedback", json={"response_id": mine["id"], "score": 0}), 404)
            http.delete(f"/v1/keys/{made['id']}")
            with served.http(made["secret"]) as zeta:
                refused(zeta.get("/v1/models"), 401)
            assert "sha256" not in http.get("/v1/keys").text


def test_a_page_of_somewhere_else_cannot_ask(model: Model, tmp_path: Path) -> None:
    with serving(tmp_path / "home", model, CONFIG) as served, served.http() as http:
        refused(http.get("/v1/models", headers={"Origin": "https://evil.example"}), 403, "evil.example")
        refused(http.get("/v1/models", headers={"Host": "evil.example"}), 403)
        assert http.get("/v1/models", headers={"Origin": served.url}).status_code == 200
        plain = json.dumps({"model": served.model.ref, "messages": QUESTION})
        assert (
            http.post("/v1/chat/completions", content=plain, headers={"Content-Type": "text/plain"}).status_code == 400
        )


@pytest.mark.parametrize(
    ("header", "host", "here"),
    [
        ("localhost", "localhost", True), ("LocalHost:8000", "localhost", True), ("localhost:", "localhost", True),
        ("127.0.0.1:8000", "127.0.0.1", True), ("127.8.9.1", "127.8.9.1", True), ("[::1]", "::1", True),
        ("[::1]:8000", "::1", True), ("10.0.0.7:8000", "10.0.0.7", False), ("0.0.0.0", "0.0.0.0", False),
        ("[2001:db8::1]:80", "2001:db8::1", False), ("evil.example:8000", "evil.example", False),
        ("localhost.evil.example", "localhost.evil.example", False), ("testserver", "testserver", False),
        ("evil.example@localhost", "", False), ("::1", "", False), ("", "", False), ("localhost:80:80", "", False),
        ("localhost/x", "", False), ("[localhost]", "", False), ("local host", "", False),
    ],
)  # fmt: skip
def test_a_host_is_this_machine_or_not(header: str, host: str, here: bool) -> None:
    assert host_of(header) == host
    assert is_this_machine(host) is here


@pytest.mark.parametrize(("host", "status"), [("localhost:80", 200), ("[::1]", 200), ("testserver", 403), ("::1", 403)])
def test_without_keys_only_names_of_this_machine_are_answered(
    model: Model, tmp_path: Path, host: str, status: int
) -> None:
    with serving(tmp_path / "home", model, CONFIG) as served, served.http() as http:
        assert http.get("/v1/models", headers={"Host": host}).status_code == status


def test_too_much_is_429_with_a_time_to_wait(model: Model, tmp_path: Path) -> None:
    busy = Config(
        engine=engine.Config(rows=1, queue=1), limits=limits.Config(requests_per_minute=60.0, burst_seconds=5.0),
        policy=LAZY, slots=1,
    )  # fmt: skip
    with serving(tmp_path / "home", model, busy) as served, served.http() as http:
        body = {"model": model.ref, "messages": QUESTION, "max_tokens": 1900}

        def ask() -> None:
            with served.http() as other, other.stream("POST", "/v1/chat/completions", json=body | {"stream": True}):
                stop.wait(30)

        stop = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(partial(holding, served, number))
        reply = http.post("/v1/chat/completions", json=body)
        refused(reply, 429, "are waiting already")
        assert int(reply.headers["Retry-After"]) >= 1
        stop.set()
        for thread in threads:
            thread.join()
        replies = [http.get("/v1/models") for _ in range(8)]
        assert {r.status_code for r in replies} == {200, 429}
        refused(replies[-1], 429, "too many requests")


def holding(served: Served, number: int) -> bool:
    stats = served.service.engine.stats()
    return stats.running + stats.waiting == number


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "in time"
        time.sleep(0.02)
