"""The worker: takes queued jobs, many users at once, and has a child process consolidate them.

In: the queue of a home. Out: jobs that ended, versions in the store, events. A batch runs in a process of its own, so
that cancelling, a time limit, a crash or an empty memory never touches more than that batch; what it had done is found
again by the next attempt. The child is low in priority, gets its work on stdin, says its progress on stderr and its
result on stdout, and ends when this process does. It does not know the pipeline: the child is a command.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import StillhouseError
from .. import policy
from ..log.facts import AliasMoved, Consolidated, JobChanged, ServerChanged, VersionSaved
from ..sessions import remembered, stated
from .queue import Job, Jobs

NICE: Mapping[str, int] = {"low": 19, "normal": 10, "high": 0}
BEAT_SECONDS = 1.0
NOTHING = "nothing was stated: a memory needs a sentence of three words or more that is no question and no order"

BATCH = (sys.executable, "-m", "stillhouse.cli", "jobs", "batch")

_TICK = 0.05
_LINE = re.compile(r"(?P<stage>[a-z]+)(?: (?P<about>.+))?: (?:started|at|done,|stopped at)(?P<rest>.*)")
_COUNT = re.compile(r" (\d+)/(\d+)|, (\d+) steps")
_LAST_LINES = 20


@dataclass(frozen=True)
class Config:
    """`most` users in one batch; `threads` of a child (0: as many as torch likes); `poll` seconds between looks at an
    empty queue; `command` starts a child."""

    most: int = 16
    threads: int = 0
    poll: float = 0.5
    command: tuple[str, ...] = BATCH


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `rows` per user, or an error by the name of its class, and why it was stopped, if it was."""

    rows: tuple[dict[str, Any], ...] = ()
    kind: str = ""
    error: str = ""
    stopped: str = ""  # "", cancelled, late, closing


def start(home: Path, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """A worker process for a server: it ends when the server does, however that ends (its stdin is then closed)."""
    command = [sys.executable, "-m", "stillhouse.cli", "jobs", "run", "--home", str(home), "--until-eof", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def batch_command(executor: str, address: str | None = None, gpus: float = 0.0) -> tuple[str, ...]:
    """How a batch is started: here, or as the driver of a Ray task, which is watched the same way."""
    if executor == "local":
        return BATCH
    where = ("--ray-address", address) if address else ()
    return (*BATCH, "--executor", executor, "--ray-gpus", f"{gpus:g}", *where)


def run(home: Path, config: Config = Config(), *, once: bool = False, stop: Callable[[], bool] = lambda: False) -> int:
    """Work until `stop()`, or with `once` until nothing is queued that is due; returns how many jobs were ended."""
    jobs, ended = Jobs(home), 0
    with jobs.working() as worker:
        jobs.tell(ServerChanged("worker started", os.getpid()))
        while not stop():
            jobs.recover()
            batch = jobs.claim(worker, config.most)
            if batch:
                ended += sum(job.state not in ("queued", "running") for job in _batch(jobs, batch, config, stop))
            elif once:
                break
            else:
                time.sleep(config.poll)
        jobs.tell(ServerChanged("worker stopped", os.getpid()))
    return ended


def _batch(jobs: Jobs, batch: Sequence[Job], config: Config, stop: Callable[[], bool]) -> list[Job]:
    """Run a batch to its end; the jobs as they are then."""
    try:
        memories = {job.user: remembered(jobs.home, job.user) for job in batch}
    except StillhouseError as error:
        return [jobs.again(job, str(error)) for job in batch]
    silent = [jobs.finish(job, "failed", NOTHING) for job in batch if not stated(memories[job.user])]
    batch = [job for job in batch if stated(memories[job.user])]
    if not batch:
        return silent
    outcome = _Child(jobs, batch, config, stop).run({job.user: memories[job.user] for job in batch})
    if outcome.rows:
        by_user = {row["user"]: row for row in outcome.rows}
        return silent + [_settled(jobs, job, by_user[job.user]) for job in batch]
    return silent + [_unsettled(jobs, job, outcome, len(batch)) for job in batch]


def _settled(jobs: Jobs, job: Job, row: dict[str, Any]) -> Job:
    """The gates have spoken."""
    number, user = int(row["version"]), job.user
    seconds = float(sum(row["seconds"].values()))
    facts = (row["memory_tokens"], row["tokens_saved"], row["coverage"], seconds)
    jobs.tell(VersionSaved(user, number, row["approved"], tuple(row["failed"])))
    if row["approved"]:
        jobs.tell(Consolidated(user, number, True, *facts), AliasMoved(user, number, by="consolidation"))
        return jobs.finish(job, "succeeded", f"v{number} is served", row)
    jobs.tell(Consolidated(user, number, False, *facts))
    following = policy.after_refusal(job.rules, int(row["rank"]))
    done = jobs.finish(job, "rejected", f"v{number} refused by {', '.join(row['failed'])}: {following.why}", row)
    if following.rank is not None:
        kept = [s for s in job.settings if not s.replace(" ", "").startswith("train.rank=")]
        jobs.enqueue(user, job.model, [*kept, f"train.rank={following.rank}"], job.rules, following.why)
    return done


def _unsettled(jobs: Jobs, job: Job, outcome: Outcome, together: int) -> Job:
    """The child gave no result."""
    if outcome.stopped == "late":
        return jobs.finish(job, "failed", f"took longer than {job.rules.max_consolidation_time:g} s")
    if outcome.stopped:
        return jobs.again(job, outcome.stopped, counted=False, delay=0.0)
    if outcome.kind == "Busy":
        return jobs.again(job, outcome.error, counted=False, delay=10.0)
    if together > 1:  # one of them may be at fault: each by itself
        return jobs.again(job, outcome.error, counted=False, delay=0.0, alone=True)
    if outcome.kind in ("InputError", "ModelError", "NotFound"):
        return jobs.finish(job, "failed", outcome.error)
    return jobs.again(job, outcome.error)


class _Child:
    """One child process, watched."""

    def __init__(self, jobs: Jobs, batch: Sequence[Job], config: Config, stop: Callable[[], bool]) -> None:
        self.jobs, self.batch, self.config, self.stop = jobs, batch, config, stop
        self.stage = ("loading", 0, None, "")  # type: tuple[str, int, int | None, str]
        self.last: list[str] = []

    def run(self, memories: Mapping[str, str]) -> Outcome:
        """From its start to its end, or until it has to be stopped."""
        first = self.batch[0]
        work = {
            "model": first.model, "settings": list(first.settings), "memories": dict(memories),
            "nice": NICE[first.rules.priority],
        }  # fmt: skip
        environment = os.environ | ({"OMP_NUM_THREADS": str(self.config.threads)} if self.config.threads else {})
        pipe = subprocess.PIPE
        command = [*self.config.command, "--home", str(self.jobs.home)]
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        ) as child:
            assert child.stdin and child.stdout and child.stderr
            readers = [_reader(self._progress, child.stderr)]
            said: list[bytes] = []
            readers.append(_reader(said.append, child.stdout))
            _hand_over(child.stdin, work)
            stopped = self._watch(child)
            for reader in readers:
                reader.join()
        return self._outcome(child.returncode, b"".join(said), stopped)

    def _watch(self, child: subprocess.Popen[bytes]) -> str:
        """Wait for the child; kill it, and say why, when it has to be stopped."""
        deadline = time.monotonic() + min(job.rules.max_consolidation_time for job in self.batch)
        beat = 0.0
        while child.poll() is None:
            if time.monotonic() - beat >= BEAT_SECONDS:
                beat = time.monotonic()
                self._beat()
                late = beat > deadline
                why = "late" if late else "closing" if self.stop() else "cancelled" if self._cancelled() else ""
                if why:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
                    return why
            time.sleep(_TICK)
        return ""

    def _cancelled(self) -> bool:
        return any(self.jobs.get(job.id).cancel for job in self.batch)

    def _beat(self) -> None:
        for job in self.batch:
            self.jobs.report(job, *self.stage)

    def _progress(self, line: bytes) -> None:
        """A line of the child's stderr: progress, or something to quote if it fails."""
        text = line.decode(errors="replace").rstrip()
        self.last = [*self.last, text][-_LAST_LINES:]
        if (found := stage_of(text)) is not None:
            self.stage = found
            facts = [JobChanged(job.id, job.user, "running", *found) for job in self.batch]
            self.jobs.tell(*facts, sync=False)

    def _outcome(self, code: int, out: bytes, stopped: str) -> Outcome:
        if stopped:
            return Outcome(stopped=stopped)
        try:
            found = json.loads(out)
        except ValueError:
            last = next((line for line in reversed(self.last) if line.strip()), "no word")
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Outcome(kind="crash", error=f"the consolidation ended with {how}: {last[:200]}")
        if "error" in found:
            return Outcome(kind=found["kind"], error=found["error"])
        return Outcome(tuple(found["rows"]))


def stage_of(line: str) -> tuple[str, int, int | None, str] | None:
    """(stage, done, total, whom) of a progress line (`stillhouse/progress.py`), or None if it is none."""
    match = _LINE.match(line)
    if match is None:
        return None
    count = _COUNT.search(match["rest"])
    done = int(count[1]) if count and count[1] else 0
    total = int(count[2] or count[3]) if count else None
    return match["stage"], done, total, match["about"] or ""


def _hand_over(stdin: IO[bytes], work: Mapping[str, Any]) -> None:
    """The work as one line; stdin stays open, for the child ends when it closes."""
    try:
        stdin.write(json.dumps(work, ensure_ascii=False).encode() + b"\n")
        stdin.flush()
    except BrokenPipeError:  # it died at once: its exit code says so
        pass


def _reader(take: Callable[[bytes], object], stream: IO[bytes]) -> threading.Thread:
    def read() -> None:
        for line in stream:
            take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
