"""`stillhouse jobs`: the queue of consolidations, and the worker that empties it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cli.shell import command, show
from ..errors import InputError, StillhouseError
from ..inputs import home_folder
from ..processes import connected, end_with_stdin, error_fields, serve
from ..progress import Audience, show_line


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("jobs", help="The queue of consolidations: list, show, cancel, run.")
    verbs = parser.add_subparsers(required=True, metavar="list|show|cancel|run")
    list_parser = command(verbs, "list", list_all, "Jobs, oldest first; what runs with its progress.")
    list_parser.add_argument("--user", help="default: every user")
    list_parser.add_argument("--ended", type=int, default=20, help="how many ended jobs to show (default 20)")
    show_parser = command(verbs, "show", show_one, "One job with all that is known of it.")
    show_parser.add_argument("id", metavar="ID")
    cancel_parser = command(verbs, "cancel", cancel, "Cancel a job; a running one ends within seconds.")
    cancel_parser.add_argument("id", metavar="ID")
    worker = command(verbs, "run", run, "Be a worker: take queued jobs, users together, until interrupted.")
    worker.add_argument("--once", action="store_true", help="end when nothing is queued that is due")
    worker.add_argument("--most", type=int, default=16, help="users in one batch (default 16)")
    worker.add_argument("--threads", type=int, default=0, help="threads of a consolidation (default: torch's choice)")
    add_executor(worker)
    worker.add_argument("--until-eof", action="store_true", help="end when stdin closes: for a server that started it")
    add_executor(command(verbs, "batch", batch, "One batch, as a worker starts it: work on stdin, result on stdout."))


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Where consolidations run; `serve` has the same arguments."""
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="where consolidations run")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="of the Ray cluster (default: the one Ray finds)")
    parser.add_argument(
        "--ray-gpus", type=float, default=0.0, metavar="N", help="GPUs that a batch reserves on its node"
    )


def list_all(args: argparse.Namespace) -> None:
    """`stillhouse jobs list`."""
    from ..serve.jobs.queue import JobQueue

    jobs = JobQueue(home_folder(args.home))
    rows = [(job, jobs.progress(job.id)) for job in jobs.all(args.user, max(0, args.ended))]

    def lines() -> None:
        for job, progress in rows:
            print(f"{job.id}  {job.user}  {job.state}  {_note(job, progress)}".rstrip())

    show([asdict(job) | {"progress": asdict(progress)} for job, progress in rows], args.json, lines)


def show_one(args: argparse.Namespace) -> None:
    """`stillhouse jobs show`."""
    from ..serve.jobs.queue import JobQueue

    jobs = JobQueue(home_folder(args.home))
    job = jobs.get(args.id)
    row = asdict(job) | {"progress": asdict(jobs.progress(job.id))}
    show(row, args.json, lambda: print(json.dumps(row, indent=2, ensure_ascii=False)))


def cancel(args: argparse.Namespace) -> None:
    """`stillhouse jobs cancel`."""
    from ..serve.jobs.queue import JobQueue

    job = JobQueue(home_folder(args.home)).cancel(args.id)
    state = "is being cancelled" if job.state == "running" else f"is {job.state}"
    show(asdict(job), args.json, lambda: print(f"{job.id} {state}"))


def run(args: argparse.Namespace) -> None:
    """`stillhouse jobs run`: until interrupted, or with `--once` until the queue is empty."""
    from ..serve.jobs import worker

    if args.until_eof:
        end_with_stdin()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())  # the batch goes back to the queue and loses nothing it has done
    command = worker.batch_command(args.executor, args.ray_address, args.ray_gpus)
    settings = worker.Config(most=max(1, args.most), threads=max(0, args.threads), command=command)
    ended = worker.run(home_folder(args.home), settings, once=args.once, stop=stop.is_set)
    show({"ended": ended}, args.json, lambda: print(f"{ended} jobs ended"))


def batch(args: argparse.Namespace) -> None:
    """`stillhouse jobs batch`: {"model", "settings", "memories", "nice"} in, {"rows"} or {"kind", "error"} out.

    A worker talks to it through `processes.py`. By hand the work is a line on stdin, which has to stay open.
    """
    if connected():
        serve(lambda work, report: _consolidated(args, work, lambda at: report(asdict(at))))
    line = sys.stdin.readline()
    try:
        work = json.loads(line)
    except ValueError as error:
        raise InputError(f"standard input: a line of JSON was expected, not {line[:60]!r}") from error
    end_with_stdin()
    try:
        answer = _consolidated(args, work, True)
    except StillhouseError as error:
        answer = error_fields(error)
    print(json.dumps(answer, ensure_ascii=False))


def _consolidated(args: argparse.Namespace, work: dict[str, Any], show: Audience) -> dict[str, Any]:
    """{"rows"}: one per user, as `stillhouse consolidate --json` prints it, with the rank it was trained at."""
    os.nice(work["nice"])
    with contextlib.suppress(OSError):  # where Linux shares out time by session, nice counts only within one
        Path("/proc/self/autogroup").write_text(str(work["nice"]))
    if args.executor == "ray":
        from ..serve.jobs import ray

        report = show if callable(show) else show_line
        return ray.consolidate(home_folder(args.home), work, args.ray_address, report, gpus=args.ray_gpus)
    from .. import consolidation

    settings = consolidation.read_settings(None, work["settings"])
    results = consolidation.consolidate_all(
        work["memories"], model=work["model"], home=home_folder(args.home), settings=settings, show=show
    )
    return {"rows": [result.as_dict() | {"rank": settings.train.rank} for result in results]}


def _note(job: Any, progress: Any) -> str:
    """What there is to say of a job in a line."""
    if job.state == "running":
        count = f" {progress.done}/{progress.total}" if progress.total else ""
        return f"{progress.stage}{count} {progress.note}"
    if job.state in ("succeeded", "rejected"):
        failed = ", ".join(job.result["failed"])
        return f"v{job.result['version']}" + (f" refused by {failed}" if failed else "")
    return str(job.error or job.why)
