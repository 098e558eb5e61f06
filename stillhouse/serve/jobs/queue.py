"""The queue of consolidations: one file per job, so that it survives the processes that use it.

In: a user whose memory is to become weights. Out: `<home>/jobs/<id>.json` while the job is queued or running, and
`<home>/jobs/ended/<id>.json` after. A user has at most one queued and one running job; a request for another returns
the queued one. A worker holds a lock for as long as it lives, so the jobs of a killed worker are known at once and
queued again. It does not know what a consolidation does, and starts no process (`worker.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ...config import as_dict
from ...errors import InputError, NotFound, StoreError
from ...records import canonical, from_mapping
from ...storage.files import discard, make_folder, sync_folder, write_atomic, writing
from ...storage.locks import locked
from ...store.names import check_user
from ..log.event_types import Fact, JobChanged
from ..log.events import EventLog
from ..log.journal_records import now
from ..policy import DEFAULTS, Policy

JobState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
LIVE = ("queued", "running")
KEPT = 10_000  # ended jobs; older ones are in the event log alone
FORMAT = 1

_ORDER: Mapping[str, int] = {"high": 0, "normal": 1, "low": 2}
_LONGEST_DELAY = 600.0
_DEATHS_AN_ATTEMPT = 16


@dataclass(frozen=True)
class Job:
    """One consolidation of one user, as it is on disk. `created`, `started`, `ended`: ISO 8601, UTC."""

    id: str
    user: str
    state: JobState
    model: str
    settings: tuple[str, ...] = ()
    """`stage.key=value` words, as for `stillhouse consolidate --set`."""
    why: str = ""
    """Why it was queued."""
    policy: dict[str, Any] = field(default_factory=lambda: as_dict(DEFAULTS))
    """Fields of the policy under which it was queued."""
    created: str = ""
    started: str = ""
    ended: str = ""
    due: float = 0.0
    """The time before which it is not begun, in seconds since 1970."""
    attempts: int = 0
    """Attempts that failed so far."""
    most_attempts: int = 4
    """Failed attempts after which the job has failed."""
    deaths: int = 0
    """Workers that died with it."""
    worker: str = ""
    """Id of the worker that runs it."""
    cancel: Literal["", "cancel", "forget"] = ""
    """A cancellation or a forgetting that was requested while the job runs."""
    alone: bool = False
    """Whether it is never in a batch with others."""
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    """The user's row of the result of `stillhouse jobs batch`."""

    @property
    def rules(self) -> Policy:
        """The policy under which it was queued."""
        return Policy(**self.policy)

    @property
    def batch(self) -> tuple[str, tuple[str, ...], str]:
        """Jobs for which this is the same may be trained together."""
        return self.model, self.settings, self.rules.priority


@dataclass(frozen=True)
class JobProgress:
    """How far a running job is."""

    stage: str = ""
    done: int = 0
    total: int | None = None
    note: str = ""
    """Whose turn it is in the batch."""
    beat: float = 0.0
    """When its worker last reported, in seconds since 1970."""


class JobQueue:
    """The queue of one home. Any number of processes may use it."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home).expanduser()
        self.folder, self._ended = self.home / "jobs", self.home / "jobs" / "ended"
        self._workers = self.home / "jobs" / "workers"
        for folder in (self._ended, self._workers, self.home / "locks"):
            make_folder(folder)
        self.events = EventLog(self.home)

    def enqueue(
        self, user: str, model: str, settings: Sequence[str] = (), rules: Policy = DEFAULTS, why: str = ""
    ) -> Job:
        """Queue a consolidation of all that `user` stated, or return the user's job that is queued already.

        `settings` are `stage.key=value` words, as for `stillhouse consolidate --set`.
        """
        check_user(user)
        with self._changing():
            for job in self._live():
                if job.user == user and job.state == "queued":
                    return job
            name = f"job-{self._number():08d}-{uuid.uuid4().hex[:8]}"
            job = Job(name, user, "queued", model, tuple(settings), why, as_dict(rules), now())
            self._write(job, f"queued: {why}" if why else "queued")
        return job

    def get(self, name: str) -> Job:
        """A job by its id. `NotFound`."""
        for folder in (self.folder, self._ended):
            path = folder / f"{name}.json"
            if name.replace("-", "").isalnum() and name.isascii() and path.is_file():
                return _read(path)
        raise NotFound(f"there is no job {name[:80]!r}; `stillhouse jobs list` shows them")

    def all(self, user: str | None = None, ended: int = 100) -> list[Job]:
        """Jobs, oldest first: all that are queued or running, and the newest `ended` others."""
        paths = sorted(self._ended.glob("job-*.json"))
        jobs = [*_existing(paths if user is not None else paths[-ended:] if ended else []), *self._live()]
        mine = [job for job in jobs if user is None or job.user == user]
        live = [job for job in mine if job.state in LIVE]
        past = [job for job in mine if job.state not in LIVE]
        return [*(past[-ended:] if ended else []), *live]

    def progress(self, name: str) -> JobProgress:
        """How far a running job is; the defaults before it began."""
        with contextlib.suppress(FileNotFoundError, ValueError, StoreError):
            return from_mapping(JobProgress, json.loads(self._progress(name).read_bytes()))
        return JobProgress()

    def report(self, job: Job, stage: str, done: int = 0, total: int | None = None, note: str = "") -> None:
        """Write how far a running job is, and that its worker lives. Not synced: a power cut may lose it."""
        path = self._progress(job.id)
        with writing(path):
            partial = path.with_suffix(".partial")
            partial.write_bytes(canonical(JobProgress(stage, done, total, note, time.time())))
            partial.replace(path)

    def cancel(self, name: str) -> Job:
        """Cancel a queued job at once, a running one as soon as its worker sees it; an ended one stays as it is."""
        with self._changing():
            job = self.get(name)
            if job.state == "queued":
                return self._end(job, "cancelled", "cancelled before it began")
            if job.state == "running":
                job = replace(job, cancel="cancel")
                self._write(job, "cancelling")
        return job

    def claim(self, worker: str, most: int = 16) -> list[Job]:
        """Take the most urgent job that is due, with those of other users that may be trained with it."""
        with self._changing():
            live = self._live()
            busy = {job.user for job in live if job.state == "running"}
            ready = [job for job in live if job.state == "queued" and _is_due(job) and job.user not in busy]
            ready.sort(key=lambda job: (_ORDER[job.rules.priority], job.id))
            if not ready:
                return []
            first = ready[0]
            together = [job for job in ready if job.batch == first.batch and not job.alone]
            batch = [first] if first.alone else together[:most]
            claimed = [replace(job, state="running", worker=worker, started=now(), error="") for job in batch]
            for job in claimed:
                self.report(job, "waiting")
                self._write(job, "started")
        return claimed

    def finish(self, job: Job, state: JobState, note: str = "", result: Mapping[str, Any] | None = None) -> Job:
        """End a job with its result."""
        with self._changing():
            error = note if state == "failed" else ""
            job = replace(job, result=dict(result or {}), error=error, cancel=self._cancel_requested(job))
            return self._end(job, state, note)

    def retry(
        self, job: Job, why: str, *, counted: bool = True, delay: float | None = None, alone: bool = False
    ) -> Job:
        """Queue a job again, due later each time (5, 10, 20 … s). After `most_attempts` counted attempts it has failed.

        `delay`: seconds in place of those; `alone`: no longer in a batch with others.
        """
        with self._changing():
            job = replace(job, cancel=self._cancel_requested(job))
            if job.cancel:
                return self._end(job, "cancelled", "cancelled while it ran")
            attempts = job.attempts + counted
            if attempts >= job.most_attempts:
                return self._end(replace(job, error=why), "failed", f"gave up after {attempts} attempts: {why}")
            wait = min(_LONGEST_DELAY, 5.0 * 2 ** (attempts - 1)) * random.uniform(0.8, 1.2) if delay is None else delay
            alone = alone or job.alone
            job = replace(job, attempts=attempts, due=time.time() + wait, alone=alone, error=why)
            return self._requeue(job, why)

    def recover(self) -> list[Job]:
        """Queue the jobs of dead workers again; returns them.

        A worker trains in a child, and counts that child's death as a failed attempt. It dies itself with its server or
        machine, which is rarely the job's fault: only every 16th such death counts.
        """
        orphans = [job for job in self._live() if job.state == "running" and not self.alive(job.worker)]
        return [self._orphaned(replace(job, deaths=job.deaths + 1)) for job in orphans]

    def _orphaned(self, job: Job) -> Job:
        why = f"its worker {job.worker} died"
        return self.retry(job, why, counted=job.deaths % _DEATHS_AN_ATTEMPT == 0, delay=0.0)

    @contextlib.contextmanager
    def register_worker(self) -> Iterator[str]:
        """Hold the lock of a new worker for as long as the block runs; yields the worker's id."""
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        path = self._workers / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield name
        finally:
            discard(path)
            os.close(fd)

    def alive(self, worker: str) -> bool:
        """Whether a worker's process lives."""
        try:
            fd = os.open(self._workers / worker, os.O_RDWR)
        except (FileNotFoundError, IsADirectoryError):
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        discard(self._workers / worker)
        return False

    def forget(self, user: str) -> int:
        """Cancel and remove every job of a user; returns how many. A running job goes when its worker has ended it."""
        with self._changing():
            mine = [job for job in [*_existing(self._ended.glob("job-*.json")), *self._live()] if job.user == user]
            for job in mine:
                if job.state == "running" and self.alive(job.worker):
                    self._write(replace(job, cancel="forget"), "cancelling")
                    continue
                discard((self.folder if job.state in LIVE else self._ended) / f"{job.id}.json")
                discard(self._progress(job.id))
            for folder in (self.folder, self._ended):
                sync_folder(folder)
        return len(mine)

    def log(self, *facts: Fact, sync: bool = True) -> None:
        """Log facts. The queue works on if the log cannot be written."""
        with contextlib.suppress(StoreError):
            self.events.append(*facts, sync=sync)

    def _live(self) -> list[Job]:
        return list(_existing(sorted(self.folder.glob("job-*.json"))))

    def _cancel_requested(self, job: Job) -> Literal["", "cancel", "forget"]:
        """Whether a job was cancelled or its user forgotten since its worker read it."""
        try:
            return self.get(job.id).cancel
        except NotFound:
            return "forget"

    def _number(self) -> int:
        names = [path.name for folder in (self.folder, self._ended) for path in folder.glob("job-*.json")]
        return 1 + max((int(name.split("-")[1]) for name in names), default=0)

    def _progress(self, name: str) -> Path:
        return self.folder / f"{name}.progress"

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with locked(self.home / "locks" / ".jobs", "the queue is being changed"):
            yield

    def _requeue(self, job: Job, note: str) -> Job:
        """Put a job back into the queue, unless the user has another in it meanwhile: then that one does the work."""
        others = [j for j in self._live() if j.user == job.user and j.state == "queued" and j.id != job.id]
        if others:
            return self._end(job, "cancelled", f"{others[0].id} takes its place ({note})")
        job = replace(job, state="queued", worker="", started="")
        self._write(job, note)
        return job

    def _end(self, job: Job, state: JobState, note: str) -> Job:
        job = replace(job, state=state, ended=now(), worker="")
        if job.cancel != "forget":
            self._write(job, note)
        discard(self.folder / f"{job.id}.json")
        discard(self._progress(job.id))
        self._drop_old()
        return job

    def _drop_old(self) -> None:
        past = sorted(self._ended.glob("job-*.json"))
        if len(past) > KEPT + KEPT // 100:  # now and then some, instead of one every time
            for path in past[:-KEPT]:
                discard(path)

    def _write(self, job: Job, note: str) -> None:
        folder = self.folder if job.state in LIVE else self._ended
        write_atomic(folder / f"{job.id}.json", canonical({"format": FORMAT, "job": asdict(job)}))
        self.log(JobChanged(job.id, job.user, job.state, note=note))


def _is_due(job: Job) -> bool:
    """Whether its time has come. A time further off than any delay was written before the clock was set back."""
    return not 0.0 < job.due - time.time() <= 2 * _LONGEST_DELAY


def _existing(paths: Iterable[Path]) -> Iterator[Job]:
    """The jobs of files that are still there when they are read."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield _read(path)


def _read(path: Path) -> Job:
    data = path.read_bytes()
    try:
        raw = json.loads(data)
        version, fields = raw["format"], raw["job"]
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"{str(path)!r} is damaged; delete it and queue the job again") from None
    if version != FORMAT:
        raise StoreError(
            f"{str(path)!r} has format {version!r}, this program reads {FORMAT}; use the one that wrote it"
        )
    return from_mapping(Job, fields)


def check_settings(settings: Sequence[str]) -> tuple[str, ...]:
    """The same settings. `InputError`: one is no `stage.key=value`."""
    for word in settings:
        if "=" not in word or "." not in word.split("=")[0]:
            raise InputError(f"setting {word[:80]!r}: expected stage.key=value, for example train.rank=8")
    return tuple(settings)
