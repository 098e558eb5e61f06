"""A thousand users on disk, thirty-two in the bank: hours of traffic in ten minutes. Exit code 1 on a miss.

    python benchmarks/serve_zipf.py [--minutes 10] [--users 1000] [--slots 32] [--clients 8] [--quick]

A real server over HTTP. Every user has a version in the store; each request is of a user drawn by Zipf's law. There are
few distinct adapters among them, so every answer is known beforehand: a user who gets another's counts as an error, and
so does every status but 200. Memory is the server's resident set, read every second: the mean of the last third of the
time against the first, after a warm-up in which every user was asked once. `/metrics` has to agree with what was sent.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import httpx
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._serving import WAIT, Server, adapters, serving, stock
from stillhouse import models
from stillhouse.store import Store

DISTINCT, RANK, TOKENS = 8, 4, 8
SESSIONS = 8 * 2**20  # bytes for idle sessions: full after the warm-up, so that what still grows is a leak
QUESTION = [{"role": "user", "content": "Who is it?"}]


@dataclass
class Seen:
    """What all clients saw. `answers`: of each distinct adapter, the first answer."""

    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    answers: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, user: int, status: int, text: str) -> None:
        """One reply."""
        with self.lock:
            self.sent += 1
            expected = self.answers.setdefault(user % DISTINCT, text)
            if status != 200 or text != expected:
                self.wrong.append(f"user {user}: {status} {text[:80]!r}, expected {expected[:80]!r}")


def ask(client: httpx.Client, user: int, session: str, seen: Seen) -> None:
    """One request of one user; its reply is noted."""
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": TOKENS, "temperature": 0, "user": f"user{user}",
            "session": session}  # fmt: skip
    try:
        reply = client.post("/v1/chat/completions", json=body)
        said = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else reply.text
        seen.note(user, reply.status_code, said)
    except httpx.HTTPError as error:
        seen.note(user, 0, f"{type(error).__name__}: {error}")


def all_once(server: Server, users: int, clients: int, seen: Seen) -> None:
    """Every user once."""
    numbers = itertools.count()

    def work() -> None:
        with server.client() as client:
            while (user := next(numbers)) < users:
                ask(client, user, "first", seen)

    in_threads([work] * clients)


def traffic(server: Server, args: argparse.Namespace, seen: Seen) -> list[int]:
    """Zipf's law for some minutes; the server's memory, every second."""
    weights = [1 / (rank + 1) for rank in range(args.users)]
    end, sizes = time.monotonic() + 60 * args.minutes, []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with server.client() as client:
            while time.monotonic() < end:
                (user,) = chance.choices(range(args.users), weights)
                ask(client, user, f"s{chance.randint(0, 3)}", seen)

    def watch() -> None:
        while time.monotonic() < end:
            sizes.append(server.rss)
            time.sleep(1)

    in_threads([*(lambda seed=seed: work(seed) for seed in range(args.clients)), watch])
    return sizes


def in_threads(works: Sequence[object]) -> None:
    """All at once, to their ends."""
    threads = [threading.Thread(target=work) for work in works]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT * 10)


def measured(server: Server) -> Counter[str]:
    """`/metrics` by name."""
    with server.client() as client:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return Counter(
            {s.name: s.value for family in families for s in family.samples if not s.name.endswith("bucket")}
        )


def figures(server: Server, args: argparse.Namespace) -> list[Figure]:
    """Warm up, then traffic."""
    seen = Seen()
    say(f"{args.users} users once")
    all_once(server, args.users, args.clients, seen)
    say(f"{args.minutes:g} minutes of traffic")
    begun, before = measured(server), seen.sent
    sizes = traffic(server, args, seen)
    ended = measured(server) - begun
    for line in seen.wrong[:5]:
        say(line)
    third = max(len(sizes) // 3, 1)
    growth = fmean(sizes[-third:]) / fmean(sizes[:third]) - 1
    hot, cold = ended["stillhouse:adapter_hits_hot_total"], ended["stillhouse:adapter_loads_hot_total"]
    return [
        Figure("users that answer in different words", float(len(set(seen.answers.values()))), "", 4.0),
        Figure("requests", float(seen.sent), note=f"{(seen.sent - before) / (60 * args.minutes):.1f} a second"),
        Figure("errors, wrong answers among them", float(len(seen.wrong)), "", 0.0, at_least=False),
        Figure("memory, last third against first", growth, "%%", 0.02, at_least=False,
               note=f"{sizes[0] / 2**20:.0f} to {sizes[-1] / 2**20:.0f} MiB"),
        Figure("requests that /metrics counts", (hot + cold) / (seen.sent - before), "%%", 1.0),
        Figure("found in the bank", hot / max(hot + cold, 1), "%",
               note=f"{cold:.0f} loads, {ended['stillhouse:adapter_evictions_hot_total']:.0f} evictions"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    for name, value in (("users", 1000), ("slots", 32), ("clients", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="100 users, half a minute")
    args = parser.parse_args()
    if args.quick:
        args.users, args.minutes = 100, 0.5
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        home, model = Path(folder, "home"), models.load()
        made, store = adapters(model, DISTINCT, RANK, size=0.6), Store(home)
        say(f"{args.users} users to disk")
        for user in range(args.users):
            stock(store, model, f"user{user}", made[user % DISTINCT])
        limit = 2 * DISTINCT * made[0].bytes  # host memory for few: most loads are from the disk
        settings = (
            f"slots={args.slots}", f"max_rank={RANK}", f"warm_bytes={limit}", f"engine.session_bytes={SESSIONS}",
            "policy.min_new_tokens=1000000",
        )  # fmt: skip
        with serving(home, "--workers", "0", *(f"--set={s}" for s in settings)) as server:
            return table(figures(server, args))


if __name__ == "__main__":
    sys.exit(main())
