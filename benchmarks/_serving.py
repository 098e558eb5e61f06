"""What the benchmarks of serving share: models, adapters, users in a store, an engine that is asked, a running server.

In: sizes. Out: `Adapter`s (also as PEFT's folders), versions in a real store, tokens with their times, a server in a
process of its own. It does not know what is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks._machine import Figure, in_turns, say
from stillhouse import models
from stillhouse.export import peft
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model, silence
from stillhouse.records import Candidate, GateResult, Signals, Verdict, digest
from stillhouse.serve.engine.adapters import Adapter, Key
from stillhouse.serve.engine.engine import Engine, Event, Failed, Piece, Request
from stillhouse.store import Store
from stillhouse.text.prompts import without_memory

WAIT = 600.0


def load(ref: str, folder: Path) -> Model:
    """A model whose answers are as long as asked. `dense`: of the shape that most small models have, random weights, 12
    layers of width 512; `dense:16x768`: another shape of that kind."""
    layers, _, width = (ref.partition(":")[2] or "12x512").partition("x")
    model = models.load(_dense(folder / "dense", int(layers), int(width)) if ref.startswith("dense") else ref)
    return dataclasses.replace(model, stop_ids=frozenset())


def _dense(folder: Path, layers: int, width: int) -> str:
    shipped = models.locate(models.DEFAULT)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=2048, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped / name, folder / name)
    return str(folder)


def adapters(
    model: Model, count: int, rank: int, folder: Path | None = None, size: float = 0.02, version: int = 1,
    half: bool = True,
) -> list[Adapter]:  # fmt: skip
    """Random adapters small enough to leave the base's language alone; with `folder`, also for PEFT. `half`: of values
    that bfloat16 holds, as training here leaves them."""
    bank = AdapterBank(model.network, 1, LoraConfig(rank=rank, alpha=2.0 * rank))
    about = bank.adapter_config(str(model.path))
    made = []
    for number in range(count):
        bank.reset(0, seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for b in bank.parameters()[1::2]:
                b.copy_(torch.randn(b.shape, generator=generator) * size)
        tensors = {name: t.bfloat16().float() if half else t for name, t in bank.export(0).items()}
        if folder is not None:
            peft.write(folder / str(number), tensors, about)
        made.append(Adapter(Key(f"user{number}", version), tensors, about))
    bank.detach()
    return made


def stock(store: Store, model: Model, user: str, adapter: Adapter) -> int:
    """Save `adapter` as an approved version of `user`, as the pipeline would; its number."""
    parts = [store.blobs.put(f"{part} of {user}".encode()) for part in ("memory", "shard", "study")]
    signals = Signals(user, parts[0], model.fingerprint, parts[1], parts[2], {"k": 8}, 12, 34, 56, (parts[0],))
    store.put(signals)
    content, rank = peft.to_bytes(adapter.tensors), int(adapter.config["r"])
    shape = {"rank": rank, "alpha": 2.0 * rank, "targets": "all", "experts": True}
    candidate = Candidate(
        "adapter", user, model.fingerprint, digest(content), dict(adapter.config), shape, 1, (1.0,), (digest(signals),)
    )
    recall = GateResult("recall", 1.0, 0.9, True, True, 10, (0.7, 1.0))
    verdict = Verdict(digest(candidate), True, (recall,), {"n": 1}, (digest(candidate),))
    files = {peft.CONFIG: json.dumps(dict(adapter.config)).encode(), peft.WEIGHTS: content}
    parents = (digest(candidate), digest(verdict), digest(signals), parts[0])
    return store.save_version(candidate, verdict, files, str(model.path), parents).number


def prompts(model: Model, count: int) -> list[list[int]]:
    """Questions of about one length, as token ids."""
    questions = [f"What is the name of the dog that lives at number {i} of our street?" for i in range(count)]
    return [model.chat_ids(without_memory(question)) for question in questions]


@dataclass
class Told:
    """One answer as it came: `tokens`, when each came (`time.monotonic`), how much CPU the engine's thread had had by
    then, and when it was asked for."""

    asked: float
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def take(self, event: Event) -> None:
        """For `Engine.submit`."""
        if isinstance(event, Piece):
            self.tokens.append(event.choice.token)
            self.times.append(event.at)
            self.cpu.append(time.thread_time())  # the engine's own thread calls this
            return
        self.error = event.error if isinstance(event, Failed) else None
        self.over.set()

    def wait(self) -> Told:
        """Until the answer has ended; raises what it ended with."""
        if not self.over.wait(WAIT):
            raise TimeoutError(f"no end of an answer within {WAIT:g} s")
        if self.error is not None:
            raise self.error
        return self

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked

    def gaps(self, start: float = 0.0, end: float = float("inf"), *, cpu: bool = False) -> list[float]:
        """Seconds between two tokens, of those that overlap this time; `cpu`: of the engine's thread."""
        pairs = zip(itertools.pairwise(list(self.times)), itertools.pairwise(list(self.cpu)), strict=False)
        return [d - c if cpu else b - a for (a, b), (c, d) in pairs if b > start and a < end]


def ask(engine: Engine, request: Request) -> Told:
    """Ask; do not wait."""
    told = Told(time.monotonic())
    engine.submit(request, told.take)
    return told


def answers(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of all requests, asked at once."""
    return [told.wait().tokens for told in [ask(engine, request) for request in requests]]


def generated(network: Any, model: Model, batch: Sequence[list[int]], tokens: int, **more: Any) -> list[list[int]]:
    """transformers' own `generate`, greedy, never ending early: no token is -1."""
    width, pad = max(map(len, batch)), model.tokenizer.pad_token_id or 0
    ids_BT = torch.tensor([[pad] * (width - len(p)) + p for p in batch], device=model.device)
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
    with torch.inference_mode(), silence():  # it says at every call that -1 is no token
        out_BT: Tensor = network.generate(
            input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=tokens, do_sample=False, pad_token_id=pad,
            eos_token_id=-1, **more,
        )  # fmt: skip
    rows: list[list[int]] = out_BT[:, width:].tolist()
    return rows


def against(what: str, a: Callable[[], object], b: Callable[[], object], rounds: int, target: float | None) -> Figure:
    """How many times as long `b` takes as `a`: medians of alternated runs, after one of each. Noted: the same in CPU
    seconds of this process, which others on the machine do not change."""
    a(), b()
    spent: dict[Callable[[], object], list[float]] = {a: [], b: []}

    def counted(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            work()
            spent[work].append(time.process_time() - start)

        return run

    took_a, took_b = in_turns(counted(a), counted(b), rounds)
    cpu = statistics.median(spent[b]) / statistics.median(spent[a])
    ratio = statistics.median(took_b) / statistics.median(took_a)
    say(f"{what}: {ratio:.2f}x, {cpu:.2f}x in CPU seconds")
    return Figure(what, ratio, "x", target, note=f"{cpu:.2f}x in CPU seconds")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)] if ordered else float("nan")


@dataclass
class Server:
    """`stillhouse serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    seconds: float  # from its start to the first answer of /healthz

    def client(self, **settings: Any) -> httpx.Client:
        """For plain requests."""
        return httpx.Client(base_url=self.url, timeout=WAIT, **settings)

    @property
    def cpu(self) -> float:
        """Seconds of CPU it has had (Linux): what others on the machine do not change."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss(self) -> int:
        """Bytes of memory the process has (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """SIGKILL: nothing is put in order."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Server]:
    """A server on a free port, once it answers; told to stop at the end if it still runs."""
    home.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "stillhouse.cli", "serve", "--home", str(home), "--port", "0"]
    command += ["--set=limits.requests_per_minute=1e9", *arguments]
    log = home / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            url = _address(process, log)
            httpx.get(f"{url}/healthz", timeout=WAIT).raise_for_status()
            yield Server(process, url, time.monotonic() - start)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("stillhouse: http"):
                return line.split()[1]
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8')[-500:]}")
