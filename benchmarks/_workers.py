"""Work shared by processes of one thread each: on a CPU, two students train side by side faster than one on two cores.

In: a command that starts a worker, and tasks as JSON. Out: each task's answer and its seconds, as they come, and an
estimate of what is left. A worker ends with whoever started it, however that one ends; a task that fails ends the run.
It does not know what the tasks are.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from benchmarks._machine import say

AGAIN = 2.0  # seconds; a task that took less had been done before and says nothing about the others


class Worker:
    """One process that answers a line of JSON with a line of JSON."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def do(self, task: Any) -> float:
        """Seconds that the task took. `SystemExit` when the worker died; what it said is on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise SystemExit(f"a worker ended with {self._process.wait()} on {task}; run again to go on")
        return time.monotonic() - began

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(command: Sequence[str], n: int) -> Iterator[list[Worker]]:
    """`n` of them while the block runs."""
    started = [Worker(command) for _ in range(n)]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


def tasks() -> Iterator[Any]:
    """In a worker: the tasks that come on stdin; each is answered when the next one is asked for. The process ends at
    once when stdin does: whoever started it is gone."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr
    while True:
        yield json.loads(waiting.get())
        print("{}", file=out, flush=True)


class Remaining:
    """How long it will still take, by the weight of tasks: done ones of this run tell the time of one unit."""

    def __init__(self, weight: float, workers: int) -> None:
        self._left, self._workers, self._done, self._seconds = weight, workers, 0.0, 0.0

    def done(self, weight: float, seconds: float) -> str:
        """In words, after a task of this weight."""
        self._left -= weight
        if seconds > AGAIN:
            self._done += weight
            self._seconds += seconds
        if not self._done:
            return "done before"
        minutes = self._left * self._seconds / self._done / self._workers / 60
        return f"{seconds:.0f} s; about {minutes:.0f} min left" if self._left > 0 else f"{seconds:.0f} s; the last one"


def share(pool: Sequence[Worker], work: Sequence[tuple[Any, float, str]], remaining: Remaining) -> None:
    """Have all `(task, weight, name)` done, whoever is free next; one line for each when it is done."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in pool:
        idle.put(worker)

    def one(task: Any) -> float:
        worker = idle.get()
        try:
            return worker.do(task)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(pool)) as threads:
        running = {threads.submit(one, task): (weight, name) for task, weight, name in work}
        try:
            for number, done in enumerate(as_completed(running), 1):
                weight, name = running[done]
                say(f"{number}/{len(work)}  {name}: {remaining.done(weight, done.result())}")
        except BaseException:
            threads.shutdown(cancel_futures=True, wait=False)
            raise
