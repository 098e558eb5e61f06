"""Versions with random adapters in a real store, and a real server on a free port: what tests of serving share."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import torch
import uvicorn

from stillhouse.export import peft
from stillhouse.generate import Sampling, generate
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model, TextModel
from stillhouse.records import Candidate, GateResult, Signals, Verdict, Version, digest
from stillhouse.runners import open_runner
from stillhouse.serve import policy
from stillhouse.serve.http.app import create_app
from stillhouse.serve.run import bound, url_of
from stillhouse.serve.service import Config, OpenRunner, Service
from stillhouse.store import Store

RANK = 4
DEFAULTS = Config()
LAZY = policy.Policy(min_new_tokens=10**6, min_session_count=100)  # nothing is consolidated
CONFIG = Config(policy=LAZY, slots=4, default_tokens=12)
QUESTION = [{"role": "user", "content": "Who is it?"}]


def save(
    store: Store, model: TextModel, user: str, seed: int = 0, *, memory: str = "", passed: bool = True,
    rank: int = RANK, base: str | None = None, made: tuple[dict[str, torch.Tensor], dict[str, object]] | None = None,
) -> Version:  # fmt: skip
    """One version, as the pipeline would have saved it, with the adapter that was `made`, or a random one."""
    tensors, about = made or adapter(model, seed, rank)
    text = store.blobs.put((memory or f"memory {seed} of {user}").encode())
    parts = [store.blobs.put(f"{part} {seed} {user}".encode()) for part in ("shard", "study")]
    made_for = base or model.fingerprint
    signals = Signals(user, text, made_for, parts[0], parts[1], {"k": 8}, 12, 34, 56, (text,))
    store.put(signals)
    content = peft.to_bytes(tensors)
    shape = {"rank": rank, "alpha": 2.0 * rank, "targets": "all", "experts": True}
    candidate = Candidate(
        "adapter", user, made_for, digest(content), about, shape | {"seed": seed}, 3, (1.0,), (digest(signals),)
    )
    recall = GateResult("recall", 1.0 if passed else 0.1, 0.9, True, passed, 10, (0.05, 1.0))
    verdict = Verdict(digest(candidate), passed, (recall,), {"n": 1}, (digest(candidate),))
    files = {
        peft.CONFIG: json.dumps(about).encode(),
        peft.WEIGHTS: content,
        "gate_report.html": f"<!doctype html><title>v of {seed}</title>".encode(),
    }
    parents = (digest(candidate), digest(verdict), digest(signals), text)
    return store.save_version(candidate, verdict, files, str(model.path), parents)


def adapter(
    model: TextModel, seed: int, rank: int = RANK, size: float = 0.05
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """A random adapter that changes what the base says, for a network of transformers."""
    assert isinstance(model, Model), "another engine's adapter is made by whoever knows it"
    bank = AdapterBank(model.network, 1, LoraConfig(rank=rank, alpha=2.0 * rank))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    made = bank.export(0), bank.adapter_config(str(model.path))
    bank.detach()
    return made


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    service: Service
    model: TextModel

    def http(self, secret: str = "", **settings: object) -> httpx.Client:
        """A client for plain requests."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0)

    def openai(self, secret: str = "none") -> openai.OpenAI:
        """OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0, timeout=60.0)


@contextmanager
def serving(
    home: Path, model: TextModel, config: Config = DEFAULTS, *, local: bool = True, engine: OpenRunner = open_runner
) -> Iterator[Served]:
    """A real uvicorn server in a thread, for as long as the block runs."""
    service = Service(Store(home), model, config, engine)
    with bound("127.0.0.1", 0) as listening:
        app = create_app(service, local=local)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            with httpx.Client() as client:
                client.get(f"{url_of(listening)}/healthz", timeout=30.0).raise_for_status()
            yield Served(url_of(listening), service, model)
        finally:
            server.should_exit = True
            thread.join(timeout=30.0)
            assert not thread.is_alive(), "the server stops when it is told to"


def expected(model: TextModel, seed: int | None, messages: list[dict[str, str]], tokens: int = 12) -> str:
    """What `generate` says with that adapter."""
    assert isinstance(model, Model), "for networks of transformers"
    bank = AdapterBank(model.network, 1, LoraConfig(rank=4, alpha=8.0))
    try:
        if seed is not None:
            bank.load(0, *adapter(model, seed))
        slot = -1 if seed is None else 0
        (ids,) = generate(model, [model.chat_ids(messages)], Sampling(tokens), bank=bank, slots=[slot])
        return str(model.tokenizer.decode(ids, skip_special_tokens=True))
    finally:
        bank.detach()


def chat(served: Served, **settings: object) -> dict[str, object]:
    with served.http() as http:
        found = http.post("/v1/chat/completions", json={"model": served.model.ref, "messages": QUESTION} | settings)
    assert found.status_code == 200, found.text
    body: dict[str, object] = found.json()
    return body


def refused(reply: httpx.Response, status: int, *words: str) -> dict[str, object]:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    error: dict[str, object] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for word in words:
        assert word in str(error["message"]), error
    return error
