"""Serving while a consolidation trains: what becomes of the time between two tokens? Exit code 1 on a miss.

    python benchmarks/serve_training.py [--rows 4] [--rounds 6] [--seconds 2] [--quick]

A real server with one worker. Clients stream answers all the time. Its time between two tokens is measured at the
client, in turns: while nothing else happens, and while the worker trains a user's memory (low priority, as by default).
In between the job is stopped and resumed as a whole by signals, so that both are measured on the same machine at the
same time. All clients ask one greedy question; how many different answers they got is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._serving import Server, percentile, serving

MEMORY = Path(__file__).parents[1] / "examples" / "alice.md"
PROMPT = "In the morning we went to the harbour and"


class Clients:
    """Streams that are read all the time; when each token came, per stream."""

    def __init__(self, server: Server, rows: int) -> None:
        self.times: list[list[float]] = []
        self.texts: set[str] = set()
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(row,), daemon=True) for row in range(rows)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        yield
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def gaps(self, start: float, end: float) -> list[float]:
        """Seconds between two tokens within a span."""
        pairs = [pair for times in self.times for pair in itertools.pairwise(times)]
        return [b - a for a, b in pairs if a >= start and b <= end]

    def _read(self, row: int) -> None:
        body = {"model": "tiny:base", "prompt": PROMPT, "max_tokens": 64, "temperature": 0, "stream": True,
                "user": f"reader{row}"}  # fmt: skip
        with self._server.client() as client:
            while not self._stop.is_set():
                times: list[float] = []
                self.times.append(times)
                with client.stream("POST", "/v1/completions", json=body) as reply:
                    self.texts.add("".join(self._pieces(reply.raise_for_status().iter_lines(), times)))

    @staticmethod
    def _pieces(lines: Iterator[str], times: list[float]) -> Iterator[str]:
        for line in lines:
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and (piece := choices[0]["text"]):
                    times.append(time.monotonic())
                    yield piece


def trainers(server: Server) -> list[int]:
    """Process ids of the job's own processes: children of the server's worker."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    return [child for worker in parents.get(server.process.pid, []) for child in parents.get(worker, [])]


def training(server: Server, job: str) -> str:
    """Wait until the job trains; its stage and state then."""
    with server.client() as client:
        while True:
            found = client.get(f"/v1/jobs/{job}").json()
            stage = (found.get("progress") or {}).get("stage", "")
            if stage == "train" or found["state"] not in ("queued", "running"):
                return f"{found['state']} {stage}"
            time.sleep(0.2)


def figures(server: Server, rows: int, rounds: int, span: float) -> list[Figure]:
    """Spans in turns: the job stopped, the job going on."""
    body = {"text": MEMORY.read_text(encoding="utf-8"), "consolidate": True}
    clients, idle, busy = Clients(server, rows), [], []
    with clients.running(), server.client() as client:
        job = client.post("/v1/users/alice/memory", json=body).raise_for_status().json()["job"]
        say(f"the job is {training(server, job)}")
        processes = trainers(server)
        assert processes, "a job that runs has a process"
        for turn in range(2 * rounds):
            stopped = turn % 2 == 0
            for process in processes:
                os.kill(process, signal.SIGSTOP if stopped else signal.SIGCONT)
            time.sleep(0.5)
            start = time.monotonic()
            time.sleep(span)
            (idle if stopped else busy).extend(clients.gaps(start, time.monotonic()))
        state = client.get(f"/v1/jobs/{job}").json()["state"]
        client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    a, b = percentile(idle, 0.95), percentile(busy, 0.95)
    return [
        Figure(
            "different answers to one question",
            float(len(clients.texts)),
            note="batches of other sizes round differently",
        ),
        Figure("the job still ran at the end", float(state == "running"), "%", 1.0),
        Figure("token p95, nothing else", a, "s", note=f"{len(idle)} tokens, median {percentile(idle, 0.5):.4f} s"),
        Figure("token p95, while a consolidation trains", b, "s", note=f"median {percentile(busy, 0.5):.4f} s"),
        Figure("token p95, training against nothing else", b / a, "x", 2.0, at_least=False),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4, help="streams at once")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each span: all of them while one job trains")
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    print(machine())
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder, "home"), "--workers", "1") as server:
        return table(figures(server, args.rows, args.rounds, args.seconds))


if __name__ == "__main__":
    sys.exit(main())
