"""The same request alone and in any company: are the tokens the same, and what does that cost? Exit code 1 on a miss.

    python benchmarks/serve_determinism.py [--model tiny|dense|REF] [--mixes 1000] [--tokens 8] [--most 6] [--quick]

Requests of several users with their own adapters, half greedy, half sampled with a seed. Each is answered alone; then
come random mixes of them, in random order, all asked at once. With `--deterministic` every token has to be the same;
without it the share of differing tokens is printed. The cost is the time of the same mixes with and without, in turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, seconds, table
from benchmarks._serving import adapters, answers, load, prompts
from stillhouse.generate import Sampling
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.serve.engine.adapters import Adapter
from stillhouse.serve.engine.engine import Config, Engine, Request

ROUND = 25  # mixes between two changes from one way to the other


@dataclass
class Count:
    """What the mixes of one way came to."""

    differing: int = 0
    total: int = 0
    mixes: int = 0  # with a token that differs
    seconds: float = 0.0

    def add(self, found: Sequence[list[int]], alone: Sequence[list[int]]) -> None:
        """One mix: tokens that are not what they were alone, place by place."""
        wrong = sum(
            sum(a != b for a, b in zip(x, y, strict=False)) + abs(len(x) - len(y))
            for x, y in zip(found, alone, strict=True)
        )
        self.differing += wrong
        self.mixes += bool(wrong)
        self.total += sum(map(len, alone))


class Way:
    """An engine, with `--deterministic` or without, and what each request is answered alone."""

    def __init__(self, model: Model, bank: AdapterBank, asked: Sequence[Request], exact: bool) -> None:
        self.asked, self.count = asked, Count()
        runner = TorchRunner(model, bank, packed_bytes=Config().packed_bytes, deterministic=exact)
        self.engine = Engine(runner, Config(deterministic=exact)).start()
        self.alone = [answers(self.engine, [request])[0] for request in asked]

    def run(self, mixes: Sequence[Sequence[int]]) -> float:
        """All of them; seconds."""

        def work() -> None:
            for mix in mixes:
                found = answers(self.engine, [self.asked[i] for i in mix])
                self.count.add(found, [self.alone[i] for i in mix])

        took = seconds(work)
        self.count.seconds += took
        self.engine.sessions.drop_where(lambda key: True)
        return took


def requests(model: Model, made: Sequence[Adapter], tokens: int) -> list[Request]:
    """Two per user: greedy, and drawn by a seed. Every third is longer than the others."""
    texts = [p * (3 if i % 3 == 0 else 1) for i, p in enumerate(prompts(model, 2 * len(made)))]
    return [
        Request(tuple(p), Sampling(tokens, float(i % 2), seed=i, top_p=0.95), made[i // 2].key.user, made[i // 2])
        for i, p in enumerate(texts)
    ]


def figures(exact: Way, free: Way, mixes: Sequence[Sequence[int]]) -> list[Figure]:
    """Both ways in turns, `ROUND` mixes at a time."""
    ratios = []
    for start in range(0, len(mixes), ROUND):
        part = mixes[start : start + ROUND]
        order = (exact, free) if start // ROUND % 2 == 0 else (free, exact)
        took = {way: way.run(part) for way in order}
        ratios.append(took[exact] / took[free])
        say(f"{start + len(part)}/{len(mixes)} mixes")
    a, b = exact.count, free.count
    note = f"{a.total} tokens in {len(mixes)} mixes"
    return [
        Figure("tokens that differ in a mix, --deterministic", a.differing / a.total, "%%", 0.0, False, note=note),
        Figure("tokens that differ in a mix, without", b.differing / b.total, "%%"),
        Figure("mixes with a differing token, without", b.mixes / len(mixes), "%%"),
        Figure("what --deterministic costs", statistics.median(ratios), "x", note=f"{len(ratios)} turns"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, dense, or any model reference")
    for name, value in (("mixes", 1000), ("tokens", 8), ("most", 6), ("users", 4), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="50 mixes of 6 tokens")
    args = parser.parse_args()
    if args.quick:
        args.mixes, args.tokens = 50, 6
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        model = load(args.model, Path(folder))
        made = adapters(model, args.users, args.rank, size=0.05)
        bank = AdapterBank(model.network, args.users, LoraConfig(rank=args.rank, alpha=2.0 * args.rank))
        asked, chance = requests(model, made, args.tokens), random.Random(0)
        mixes = [chance.sample(range(len(asked)), chance.randint(2, args.most)) for _ in range(args.mixes)]
        exact, free = (Way(model, bank, asked, exact) for exact in (True, False))
        found = figures(exact, free, mixes)
        for way in (exact, free):
            way.engine.close()
    return table(found)


if __name__ == "__main__":
    sys.exit(main())
