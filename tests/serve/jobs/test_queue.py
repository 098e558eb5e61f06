"""The queue and its worker: nothing is lost, nothing is done twice at once, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import InputError, NotFound, StoreError
from stillhouse.serve import policy
from stillhouse.serve.forgetting import forget
from stillhouse.serve.jobs import worker
from stillhouse.serve.jobs.queue import Job, JobQueue, check_settings
from stillhouse.serve.jobs.worker import Config
from stillhouse.serve.log.event_types import Consolidated, JobChanged
from stillhouse.serve.log.journal import Journal
from stillhouse.store import Store
from tests.serve.typed import typed
from tests.serve.writer import exchange

ROOT = Path(__file__).parents[3]
CHILD = Config(poll=0.02, command=(sys.executable, "-m", "tests.serve.child"))


@pytest.fixture
def jobs(tmp_path: Path) -> JobQueue:
    return JobQueue(tmp_path)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobQueue]:
    """`home(alice="My dog is a fox.")`: a home in which users said things, and its queue."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.1)

    def make(**said: str) -> JobQueue:
        with Journal(tmp_path) as journal:
            for user, text in said.items():
                journal.append(exchange(user, said=text))
        return JobQueue(tmp_path)

    return make


def started(jobs: JobQueue) -> list[dict[str, Any]]:
    """The children that ran: pid, users, nice."""
    path = jobs.home / "started"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(met: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_user_has_one_queued_and_one_running_job(jobs: JobQueue) -> None:
    first = jobs.enqueue("alice", "tiny", why="3 sessions")
    assert jobs.enqueue("alice", "other") == first
    with jobs.register_worker() as me:
        assert [j.id for j in jobs.claim(me)] == [first.id]
        second = jobs.enqueue("alice", "tiny")
        assert second.id > first.id
        assert jobs.claim(me) == []
        jobs.finish(jobs.get(first.id), "succeeded", result={"version": 1})
        assert [j.id for j in jobs.claim(me)] == [second.id]
    assert jobs.get(first.id).result == {"version": 1}
    assert [j.state for j in jobs.all("alice")] == ["succeeded", "running"]


def test_what_may_be_trained_together_is_claimed_together_the_urgent_first(jobs: JobQueue) -> None:
    for user in ("a", "b", "c"):
        jobs.enqueue(user, "tiny")
    jobs.enqueue("d", "tiny", ["train.rank=8"])
    jobs.enqueue("e", "tiny", rules=policy.Policy(priority="high"))
    with jobs.register_worker() as me:
        assert [[j.user for j in jobs.claim(me, most=2)] for _ in range(5)] == [["e"], ["a", "b"], ["c"], ["d"], []]


def test_claims_of_many_workers_do_not_meet(jobs: JobQueue) -> None:
    for i in range(12):
        jobs.enqueue(f"user{i}", "tiny")
    with ThreadPoolExecutor(4) as pool:
        taken = [j.id for batch in pool.map(lambda i: JobQueue(jobs.home).claim(f"w{i}", 3), range(8)) for j in batch]
    assert len(taken) == len(set(taken)) == 12


def test_retries_wait_longer_each_time_and_end(jobs: JobQueue) -> None:
    jobs.enqueue("alice", "tiny")
    waits = []
    with jobs.register_worker() as me:
        for _ in range(3):
            (job,) = _claim_now(jobs, me)
            job = jobs.retry(job, "no luck")
            waits.append(job.due - time.time())
            assert jobs.claim(me) == []
        (job,) = _claim_now(jobs, me)
        assert jobs.retry(job, "no luck").state == "failed"
    assert [4 <= w < 6.5 for w in waits[:1]] + [8 <= w < 12.5 for w in waits[1:2]] + [16 <= w < 25 for w in waits[2:]]
    assert "gave up after 4 attempts: no luck" in [e.fact.note for e in jobs.events.tail(0).next()
                                                   if isinstance(e.fact, JobChanged)]  # fmt: skip


def _claim_now(jobs: JobQueue, me: str) -> list[Job]:
    """Claim as if the wait were over."""
    for path in jobs.folder.glob("job-*.json"):
        raw = json.loads(path.read_bytes())
        raw["job"]["due"] = 0.0
        path.write_text(json.dumps(raw))
    return jobs.claim(me)


def test_a_clock_that_was_set_back_keeps_no_job_waiting(jobs: JobQueue) -> None:
    """A time further off than any delay was written before the clock moved."""
    jobs.enqueue("alice", "tiny")
    (job,) = jobs.claim("w")
    assert jobs.retry(job, "no memory left", delay=500.0).state == "queued"
    assert jobs.claim("w") == []
    jobs.retry(job, "no memory left", delay=86_400.0)
    assert [j.user for j in jobs.claim("w")] == ["alice"]


def test_cancelling(jobs: JobQueue) -> None:
    job = jobs.enqueue("alice", "tiny")
    assert jobs.cancel(job.id).state == "cancelled"
    assert jobs.cancel(job.id).state == "cancelled"
    other = jobs.enqueue("alice", "tiny")
    with jobs.register_worker() as me:
        (running,) = jobs.claim(me)
        assert jobs.cancel(other.id).cancel == "cancel"
        assert jobs.retry(running, "stopped", counted=False).state == "cancelled"
    with pytest.raises(NotFound, match=r"no job '\.\./keys'"):
        jobs.cancel("../keys")


def test_the_oldest_of_very_many_ended_jobs_go(jobs: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.serve.jobs.queue.KEPT", 3)
    names = []
    for _ in range(6):
        names.append(jobs.enqueue("alice", "tiny").id)
        jobs.cancel(names[-1])
    assert [job.id for job in jobs.all("alice")] == names[-3:]
    with pytest.raises(NotFound):
        jobs.get(names[0])
    assert jobs.enqueue("alice", "tiny").id > names[-1], "numbers are never used again"


def test_the_jobs_of_a_dead_worker_are_taken_up_again(jobs: JobQueue) -> None:
    script = (
        "import sys; from pathlib import Path; from stillhouse.serve.jobs.queue import JobQueue\n"
        "j = JobQueue(Path(sys.argv[1]))\n"
        "with j.register_worker() as me: j.claim(me); print(me, flush=True); sys.stdin.read()"
    )
    jobs.enqueue("alice", "tiny")
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(jobs.home)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    name = child.stdout.readline().strip()
    assert jobs.alive(name)
    assert jobs.recover() == []
    child.kill()
    child.communicate()
    assert not jobs.alive(name)
    (job,) = jobs.recover()
    assert (job.state, job.attempts, job.deaths) == ("queued", 0, 1)
    assert "died" in job.error


def test_a_server_killed_again_and_again_does_not_fail_a_job_but_a_job_that_kills_it_ends(jobs: JobQueue) -> None:
    queued = jobs.enqueue("alice", "tiny")
    for death in range(1, 65):
        assert jobs.claim("nobody-alive", 1)
        (job,) = jobs.recover()
        assert (job.deaths, job.attempts) == (death, min(3, death // 16))
        assert job.state == ("queued" if death < 64 else "failed")
    assert jobs.get(queued.id).error == "its worker nobody-alive died"


def test_a_job_file_that_is_damaged_is_said(jobs: JobQueue) -> None:
    job = jobs.enqueue("alice", "tiny")
    path = jobs.folder / f"{job.id}.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"damaged; delete it"):
        jobs.all()
    path.write_text('{"format": 7, "job": {}}')
    with pytest.raises(StoreError, match=r"format 7"):
        jobs.get(job.id)


@pytest.mark.parametrize("word", ["rank=8", "train.rank", ""])
def test_settings_have_a_stage_and_a_value(word: str) -> None:
    assert check_settings(["train.rank=8"]) == ("train.rank=8",)
    with pytest.raises(InputError, match=r"expected stage\.key=value"):
        check_settings([word])


def test_a_batch_of_users_from_queue_to_result(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="My dog is called Rex.", bob="I refuse to eat fish.", carol="What is it?")
    for user in ("alice", "bob", "carol"):
        jobs.enqueue(user, "tiny")
    assert worker.run(jobs.home, CHILD, once=True) == 3
    assert [(j.user, j.state) for j in jobs.all()] == [("alice", "succeeded"), ("bob", "rejected"), ("carol", "failed")]
    assert [s["users"] for s in started(jobs)] == [["alice", "bob"]]
    assert started(jobs)[0]["nice"] == 19
    facts = [e.fact for e in jobs.events.tail(0).next()]
    assert [(f.user, f.approved) for f in facts if isinstance(f, Consolidated)] == [("alice", True), ("bob", False)]
    assert ("running", "train", 200) in [(f.state, f.stage, f.total) for f in facts if isinstance(f, JobChanged)]
    assert not list(jobs.folder.glob("*.progress"))


def test_a_refused_memory_is_tried_at_lower_ranks(home: Callable[..., JobQueue]) -> None:
    jobs = home(bob="I refuse to eat fish.")
    jobs.enqueue("bob", "tiny", ["train.steps=3"], policy.Policy(on_validation_fail="retry_lower_rank"))
    assert worker.run(jobs.home, CHILD, once=True) == 3
    assert [j.settings for j in jobs.all()] == [
        ("train.steps=3",), ("train.steps=3", "train.rank=8"), ("train.steps=3", "train.rank=4"),
    ]  # fmt: skip


def test_one_bad_memory_does_not_harm_the_others(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="My dog is called Rex.", bob="I always fail at chess.")
    for user in ("alice", "bob"):
        jobs.enqueue(user, "tiny")
    assert worker.run(jobs.home, CHILD, once=True) == 2
    assert {j.user: j.state for j in jobs.all()} == {"alice": "succeeded", "bob": "failed"}
    assert [s["users"] for s in started(jobs)] == [["alice", "bob"], ["alice"], ["bob"]]


def test_a_child_that_crashes_or_is_shut_out_is_tried_again_later(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="They crash all the time.", bob="I am busy on Mondays.")
    jobs.enqueue("alice", "tiny")
    jobs.enqueue("bob", "tiny", rules=policy.Policy(priority="high"))
    assert worker.run(jobs.home, CHILD, once=True) == 0
    alice, bob = jobs.all("alice")[0], jobs.all("bob")[0]
    assert (alice.state, alice.attempts, bob.state, bob.attempts) == ("queued", 1, "queued", 0)
    assert alice.error == "the consolidation ended with signal 9: out of memory"


def test_what_a_child_prints_is_taken_for_nothing(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="They talk rubbish all the time.")
    jobs.enqueue("alice", "tiny")
    assert worker.run(jobs.home, CHILD, once=True) == 1
    assert [(j.state, j.result["version"]) for j in jobs.all()] == [("succeeded", 1)]


@pytest.mark.parametrize(
    ("code", "how"),
    [("print('no\\nway'); raise SystemExit(3)", "exit code 3: way"), ("", "exit code 0: no word")],
)
def test_a_child_that_speaks_no_protocol_is_tried_again(home: Callable[..., JobQueue], code: str, how: str) -> None:
    jobs = home(alice="My dog is called Rex.")
    job = jobs.enqueue("alice", "tiny")
    assert worker.run(jobs.home, Config(command=(sys.executable, "-c", code)), once=True) == 0
    assert (jobs.get(job.id).state, jobs.get(job.id).attempts) == ("queued", 1)
    assert jobs.get(job.id).error == f"the consolidation ended with {how}"


def test_a_child_that_takes_no_work_is_ended(home: Callable[..., JobQueue]) -> None:
    """More work than a pipe holds, for a child that never reads."""
    jobs = home(alice="My dog is called Rex. " * 10_000)
    job = jobs.enqueue("alice", "tiny", rules=policy.Policy(max_consolidation_time=0.3))
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    assert worker.run(jobs.home, Config(command=command), once=True) == 1
    assert jobs.get(job.id).error == "took longer than 0.3 s"


def test_a_running_job_is_cancelled_and_its_companions_go_on(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="The train was slow today.", bob="My cat is called Tom.")
    mine = jobs.enqueue("alice", "tiny")
    jobs.enqueue("bob", "tiny")
    thread = threading.Thread(target=worker.run, args=(jobs.home, CHILD), kwargs={"once": True})
    thread.start()
    until(lambda: started(jobs) and jobs.progress(mine.id).stage == "train")
    assert jobs.progress(mine.id).total == 200
    assert time.time() - jobs.progress(mine.id).beat < 5
    jobs.cancel(mine.id)
    thread.join()
    assert {j.user: j.state for j in jobs.all()} == {"alice": "cancelled", "bob": "succeeded"}
    assert not _running(started(jobs)[0]["pid"])


def test_what_takes_too_long_is_ended(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="The train was slow today.")
    job = jobs.enqueue("alice", "tiny", rules=policy.Policy(max_consolidation_time=0.3))
    assert worker.run(jobs.home, CHILD, once=True) == 1
    assert jobs.get(job.id).error == "took longer than 0.3 s"


def test_a_killed_worker_takes_its_child_along_and_another_goes_on(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="The train was slow today.")
    job = jobs.enqueue("alice", "tiny")
    script = (
        "import sys; from pathlib import Path; from stillhouse.serve.jobs import worker;"
        "worker.run(Path(sys.argv[1]), worker.Config(command=(sys.executable, '-m', 'tests.serve.child')))"
    )
    first = subprocess.Popen([sys.executable, "-c", script, str(jobs.home)], cwd=ROOT)
    until(lambda: started(jobs))
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: not _running(started(jobs)[0]["pid"]))
    over = threading.Event()
    second = threading.Thread(target=worker.run, args=(jobs.home, CHILD), kwargs={"stop": over.is_set})
    second.start()
    until(lambda: len(started(jobs)) == 2)
    assert (jobs.get(job.id).state, jobs.get(job.id).deaths) == ("running", 1)
    over.set()
    second.join()
    assert (jobs.get(job.id).state, jobs.get(job.id).deaths) == ("queued", 1)


def test_a_user_is_forgotten_while_the_job_runs(home: Callable[..., JobQueue]) -> None:
    jobs = home(alice="The train was slow today.", bob="My cat is called Tom.")
    jobs.enqueue("alice", "tiny")
    jobs.enqueue("bob", "tiny")
    thread = threading.Thread(target=worker.run, args=(jobs.home, CHILD), kwargs={"once": True})
    thread.start()
    until(lambda: started(jobs))
    counts = forget(jobs.home, "alice")
    thread.join()
    assert (counts["jobs"], counts["records"], counts["remaining"]) == (1, 1, 0)
    assert [(j.user, j.state) for j in jobs.all()] == [("bob", "succeeded")]
    (jobs.home / "started").unlink()  # the stand-in's own note
    holding = [p for p in jobs.home.rglob("*") if p.is_file() and b"alice" in p.read_bytes()]
    assert holding == []
    assert Store(jobs.home).users() == []


def test_the_commands(home: Callable[..., JobQueue], capsys: pytest.CaptureFixture[str]) -> None:
    jobs = home(alice="My dog is called Rex.")
    job = jobs.enqueue("alice", "tiny", why="asked")
    where = ("--home", jobs.home)
    assert "alice  queued  asked" in typed(capsys, "jobs", "list", *where).out
    assert typed(capsys, "jobs", "show", job.id, *where, "--json").json["user"] == "alice"
    assert "is cancelled" in typed(capsys, "jobs", "cancel", job.id, *where).out
    assert typed(capsys, "jobs", "list", "--user", "bob", "--json", *where).json == []
    assert "there is no job 'x'" in typed(capsys, "jobs", "show", "x", *where).line


def test_a_worker_process_ends_with_the_server_that_started_it(jobs: JobQueue) -> None:
    process = worker.start(jobs.home)
    until(lambda: list((jobs.folder / "workers").iterdir()))
    assert process.stdin
    process.stdin.close()
    assert process.wait(timeout=60) == 1


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
