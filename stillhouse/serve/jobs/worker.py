"""The worker: takes queued jobs, many users at once, and has a child process consolidate them.

In: the queue of a home. Out: jobs that ended, versions in the store, events. A batch runs in a process of its own, so
that cancelling, a time limit, a crash or a lack of memory never touches more than that batch; the next attempt goes on
with what is in the store. The child is low in priority, and ends when this process does; work, reports and results go
through `processes.py`. It does not know the pipeline: the child is a command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import StillhouseError
from ...processes import Process, ProcessDied
from ...progress import Report
from ...records import from_mapping
from .. import policy
from ..log.event_types import AliasMoved, Consolidated, JobChanged, ServerChanged, VersionSaved
from ..sessions import memory_of, stated
from .queue import Job, JobQueue

NICE: Mapping[str, int] = {"low": 19, "normal": 10, "high": 0}
BEAT_SECONDS = 1.0
NOTHING = "nothing was stated: a memory needs a sentence of three words or more that is no question and no order"

BATCH = (sys.executable, "-m", "stillhouse.cli", "jobs", "batch")

_TICK = 0.05


@dataclass(frozen=True)
class Config:
    """How a worker works."""

    most: int = 16
    """Users in one batch, at least 1: they train together, and together they need the memory."""
    threads: int = 0
    """Threads of the child; 0: as many as torch chooses."""
    poll: float = 0.5
    """Seconds between two looks at an empty queue; a job waits at most so long for an idle worker."""
    command: tuple[str, ...] = BATCH
    """The command of the child; `--home DIR` is added."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: with a row per user, with an error, or stopped."""

    rows: tuple[dict[str, Any], ...] = ()
    kind: str = ""
    """Class of the error, or "crash"."""
    error: str = ""
    stopped: str = ""
    """Why it was stopped: late, closing, cancelled; empty: it was not."""


def start(home: Path, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a worker process for a server. It ends when the server does, whose end closes its stdin."""
    command = [sys.executable, "-m", "stillhouse.cli", "jobs", "run", "--home", str(home), "--until-eof", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def batch_command(executor: str, address: str | None = None, gpus: float = 0.0) -> tuple[str, ...]:
    """The command that runs a batch: here, or as the driver of a Ray task, which is watched the same way."""
    if executor == "local":
        return BATCH
    where = ("--ray-address", address) if address else ()
    return (*BATCH, "--executor", executor, "--ray-gpus", f"{gpus:g}", *where)


def run(home: Path, config: Config = Config(), *, once: bool = False, stop: Callable[[], bool] = lambda: False) -> int:
    """Work until `stop()`, or with `once` until no job is due; returns how many jobs were ended."""
    jobs, ended = JobQueue(home), 0
    with jobs.register_worker() as worker:
        jobs.log(ServerChanged("worker started", os.getpid()))
        while not stop():
            jobs.recover()
            batch = jobs.claim(worker, config.most)
            if batch:
                ended += sum(job.state not in ("queued", "running") for job in _batch(jobs, batch, config, stop))
            elif once:
                break
            else:
                time.sleep(config.poll)
        jobs.log(ServerChanged("worker stopped", os.getpid()))
    return ended


def _batch(jobs: JobQueue, batch: Sequence[Job], config: Config, stop: Callable[[], bool]) -> list[Job]:
    """Run a batch to its end; returns the jobs as they are then."""
    try:
        memories = {job.user: memory_of(jobs.home, job.user) for job in batch}
    except StillhouseError as error:
        return [jobs.retry(job, str(error)) for job in batch]
    empty = [jobs.finish(job, "failed", NOTHING) for job in batch if not stated(memories[job.user])]
    batch = [job for job in batch if stated(memories[job.user])]
    if not batch:
        return empty
    outcome = _Batch(jobs, batch, config, stop).run({job.user: memories[job.user] for job in batch})
    if outcome.rows:
        by_user = {row["user"]: row for row in outcome.rows}
        return empty + [_judged(jobs, job, by_user[job.user]) for job in batch]
    return empty + [_without_result(jobs, job, outcome, len(batch)) for job in batch]


def _judged(jobs: JobQueue, job: Job, row: dict[str, Any]) -> Job:
    """End a job whose candidate the gates have judged; a refused one may be queued again at a lower rank."""
    number, user = int(row["version"]), job.user
    seconds = float(sum(row["seconds"].values()))
    facts = (row["memory_tokens"], row["tokens_saved"], row["coverage"], seconds)
    jobs.log(VersionSaved(user, number, row["approved"], tuple(row["failed"])))
    if row["approved"]:
        jobs.log(Consolidated(user, number, True, *facts), AliasMoved(user, number, by="consolidation"))
        return jobs.finish(job, "succeeded", f"v{number} is served", row)
    jobs.log(Consolidated(user, number, False, *facts))
    retry = policy.after_refusal(job.rules, int(row["rank"]))
    ended = jobs.finish(job, "rejected", f"v{number} refused by {', '.join(row['failed'])}: {retry.why}", row)
    if retry.rank is not None:
        settings = [s for s in job.settings if not s.replace(" ", "").startswith("train.rank=")]
        jobs.enqueue(user, job.model, [*settings, f"train.rank={retry.rank}"], job.rules, retry.why)
    return ended


def _without_result(jobs: JobQueue, job: Job, outcome: Outcome, together: int) -> Job:
    """End a job of a batch of `together` jobs, or queue it again, by how the child ended."""
    if outcome.stopped == "late":
        return jobs.finish(job, "failed", f"took longer than {job.rules.max_consolidation_time:g} s")
    if outcome.stopped:
        return jobs.retry(job, outcome.stopped, counted=False, delay=0.0)
    if outcome.kind == "Busy":
        return jobs.retry(job, outcome.error, counted=False, delay=10.0)
    if together > 1:  # one of them may be at fault: each by itself
        return jobs.retry(job, outcome.error, counted=False, delay=0.0, alone=True)
    if outcome.kind in ("InputError", "ModelError", "NotFound"):
        return jobs.finish(job, "failed", outcome.error)
    return jobs.retry(job, outcome.error)


class _Stopped(Exception):
    """The child has to be stopped: late, closing or cancelled."""


class _Batch:
    """One batch in its child process, watched."""

    def __init__(self, jobs: JobQueue, batch: Sequence[Job], config: Config, stop: Callable[[], bool]) -> None:
        self.jobs, self.batch, self.config, self.stop = jobs, batch, config, stop
        self.progress = Report("loading", "", 0, None, "")
        self.deadline = time.monotonic() + min(job.rules.max_consolidation_time for job in batch)
        self.beat = 0.0

    def run(self, memories: Mapping[str, str]) -> Outcome:
        """From the child's start to its end, or until it has to be stopped."""
        first = self.batch[0]
        work = {
            "model": first.model, "settings": list(first.settings), "memories": dict(memories),
            "nice": NICE[first.rules.priority],
        }  # fmt: skip
        command = [*self.config.command, "--home", str(self.jobs.home)]
        environment = {"OMP_NUM_THREADS": str(self.config.threads)} if self.config.threads else {}
        try:
            with Process(command, environment, apart=True) as child:
                child.send(work)
                for report in child.reports(every=_TICK):
                    if report is not None:
                        self._note(from_mapping(Report, report))
                    self._look()
                return Outcome(tuple(child.result["rows"]))
        except _Stopped as stopped:
            return Outcome(stopped=str(stopped))
        except ProcessDied as death:
            last = death.last[:200] or "no word"
            return Outcome(kind="crash", error=f"the consolidation ended with {death.how}: {last}")
        except StillhouseError as error:
            return Outcome(kind=type(error).__name__, error=str(error))

    def _look(self) -> None:
        """Once a second: say that the worker lives. `_Stopped` when the child has to be."""
        if (now := time.monotonic()) - self.beat < BEAT_SECONDS:
            return
        self.beat = now
        for job in self.batch:
            self.jobs.report(job, *_columns(self.progress))
        if now > self.deadline:
            raise _Stopped("late")
        if self.stop():
            raise _Stopped("closing")
        if any(self.jobs.get(job.id).cancel for job in self.batch):
            raise _Stopped("cancelled")

    def _note(self, report: Report) -> None:
        self.progress = report
        facts = [JobChanged(job.id, job.user, "running", *_columns(report)) for job in self.batch]
        self.jobs.log(*facts, sync=False)


def _columns(report: Report) -> tuple[str, int, int | None, str]:
    """Stage, done, total and whose turn it is: how a job's progress is kept."""
    return report.stage, report.done, report.total, report.user
