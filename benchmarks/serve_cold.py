"""A cold adapter: how much later than with a hot one does its first token come, and who else notices?

    python benchmarks/serve_cold.py [--model dense|REF] [--others 8] [--arrivals 40] [--prompt 24] [--stretch 1.4]

Some rows are being answered all the time. Requests arrive one by one, in turns with an adapter that is hot (in the
bank) and with one that is cold: in the store, in neither host memory nor the page cache (its pages are dropped where
the system does that). Measured: the time to the first token, cold less hot, in pairs; and the others' time between two
tokens while a cold request waits for its first, against the time when nobody arrives (noted: in CPU seconds of the
engine's thread, which others on the machine hardly change). `--prompt` tokens arrive; `--stretch` is the engine's.
Exit code 1 on a miss.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._serving import Told, adapters, answers, ask, load, percentile, prompts, stock
from stillhouse import runners
from stillhouse.generate import Sampling
from stillhouse.models import Model
from stillhouse.serve.engine.adapters import Adapter, Key, Library
from stillhouse.serve.engine.engine import Config, Engine, Request
from stillhouse.store import Store

LONG = 1500  # tokens of a row that is always there
Span = tuple[float, float]


def drop_pages(folder: Path) -> None:
    """Ask the system to forget the pages of a version's files."""
    for path in folder.iterdir():
        with path.open("rb") as file, contextlib.suppress(AttributeError, OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Others:
    """Rows that are answered all the time, each with an adapter of its own: one that ends is asked again."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.told: list[Told] = []
        self._engine, self._stop = engine, threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(r,), daemon=True) for r in requests]

    def _keep(self, request: Request) -> None:
        while not self._stop.is_set():
            told = ask(self._engine, request)
            self.told.append(told)
            while not told.over.wait(0.05) and not self._stop.is_set():
                pass

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """As long as the block runs, once each has had ten tokens."""
        for thread in self._threads:
            thread.start()
        while len(self.told) < len(self._threads) or any(len(told.times) < 10 for told in self.told):
            time.sleep(0.01)
        yield
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def p95(self, spans: Sequence[Span], *, cpu: bool = False) -> float:
        """Of the seconds between two of their tokens, of those that overlap one of the spans."""
        return percentile([gap for told in self.told for span in spans for gap in told.gaps(*span, cpu=cpu)], 0.95)


class Trial:
    """One engine with some rows that are always there; arrivals of hot and cold adapters."""

    def __init__(self, model: Model, store: Store, library: Library, engine: Engine, tokens: int, prompt: int) -> None:
        self.model, self.store, self.library, self.engine, self.tokens = model, store, library, engine, tokens
        asked = tuple(prompts(model, 1)[0])
        self.prompt = (asked * (prompt // len(asked) + 1))[-prompt:]
        self.spans: dict[str, list[Span]] = {"hot": [], "cold": [], "quiet": []}
        self.firsts: dict[str, list[float]] = {"hot": [], "cold": []}

    def arrive(self, kind: str, key: Key) -> Told:
        """One request from the store's adapter to its last token."""
        start = time.monotonic()
        adapter = self.library.load(key)
        told = ask(self.engine, Request(self.prompt, Sampling(self.tokens), key.user, adapter))
        told.asked = start
        told.wait()
        self.firsts[kind].append(told.first)
        self.spans[kind].append((start, told.times[0]))
        return told

    def cool(self, key: Key) -> None:
        """Out of host memory and the page cache; the bank has let go of it by itself."""
        self.library.forget(key.user)
        drop_pages(self.store.version_dir(key.user, key.number))

    def rest(self) -> None:
        """A while in which nobody arrives."""
        start = time.monotonic()
        time.sleep(0.25)
        self.spans["quiet"].append((start, time.monotonic()))


def right(trial: Trial, made: Sequence[Adapter], keys: Sequence[Key]) -> float:
    """Share of versions that answer, by way of store, host memory and bank, as their adapter handed over does."""
    draw = Sampling(trial.tokens)
    straight = [Request(trial.prompt, draw, "straight", Adapter(Key("straight", i), a.tensors, a.config))
                for i, a in enumerate(made)]  # fmt: skip
    stored = [Request(trial.prompt, draw, key.user, trial.library.load(key)) for key in keys]
    same = [answers(trial.engine, [a]) == answers(trial.engine, [b]) for a, b in zip(straight, stored, strict=True)]
    return sum(same) / len(same)


def figures(trial: Trial, others: Others, hot: Key, cold: Sequence[Key], arrivals: int) -> list[Figure]:
    """Arrivals in turns; `cold` has more keys than the bank has slots to spare, so each is out when it comes again."""
    with others.running():
        trial.arrive("hot", hot)  # into the bank
        for kind in ("hot", "cold"):
            trial.firsts[kind].clear()
            trial.spans[kind].clear()
        for i in range(arrivals):
            trial.rest()
            trial.arrive("hot", hot)
            trial.rest()
            key = cold[i % len(cold)]
            assert trial.engine.slots is not None and key not in trial.engine.slots, "it has left the bank"
            trial.cool(key)
            trial.arrive("cold", key)
    later = [c - h for h, c in zip(trial.firsts["hot"], trial.firsts["cold"], strict=True)]
    quiet, meanwhile, at_hot = (others.p95(trial.spans[k]) for k in ("quiet", "cold", "hot"))
    idle, cold_cpu, hot_cpu = (others.p95(trial.spans[k], cpu=True) for k in ("quiet", "cold", "hot"))
    note = f"hot {statistics.median(trial.firsts['hot']):.3f} s"
    return [
        Figure("first token, cold less hot (median)", statistics.median(later), "s", 0.1, False, note=note),
        Figure("first token, cold less hot (p95)", percentile(later, 0.95), "s"),
        Figure("others' token p95 meanwhile, against nobody arriving", meanwhile / quiet, "x", 1.5, False,
               note=f"{cold_cpu / idle:.2f}x in CPU seconds of the engine; {quiet * 1e3:.1f} ms when nobody arrives"),
        Figure("the same while a hot one arrives", at_hot / quiet, "x", note=f"{hot_cpu / idle:.2f}x in CPU seconds"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dense", help="dense, or any model reference")
    for name, value in (("others", 8), ("arrivals", 40), ("tokens", 8), ("rank", 16), ("prompt", 24)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--stretch", type=float, default=Config().stretch)
    parser.add_argument("--quick", action="store_true", help="8 arrivals")
    args = parser.parse_args()
    arrivals = 8 if args.quick else args.arrivals
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        model, store = load(args.model, Path(folder)), Store(Path(folder, "home"))
        made = adapters(model, args.others + 5, args.rank)
        keys = [Key(f"stored{i}", stock(store, model, f"stored{i}", a)) for i, a in enumerate(made)]
        slots = args.others + 3  # the others, the hot one, and two to spare
        runner = runners.open_runner(model, runners.Config(slots, args.rank, packed_bytes=Config().packed_bytes))
        engine = Engine(runner, Config(rows=args.others + 1, stretch=args.stretch)).start()
        trial = Trial(model, store, Library(store, runner, 2**40), engine, args.tokens, args.prompt)
        say("comparing outputs")
        found = [Figure("versions that answer as their adapter does", right(trial, made, keys), "%", 1.0)]
        say(f"{arrivals} cold arrivals")
        always = [Request(trial.prompt, Sampling(LONG), k.user, trial.library.load(k)) for k in keys[5:]]
        found += figures(trial, Others(engine, always), keys[0], keys[1:5], arrivals)
        engine.close()
        runner.close()
    return table(found)


if __name__ == "__main__":
    sys.exit(main())
