"""Consolidations on a Ray cluster: a local one, with the node's part played by a command that takes no time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from stillhouse.errors import InputError
from stillhouse.progress import show_line
from stillhouse.records import Signals
from stillhouse.serve.jobs import ray, worker
from stillhouse.serve.jobs.queue import JobQueue
from stillhouse.serve.log.event_types import JobChanged
from stillhouse.serve.log.journal import Journal
from stillhouse.store import Store
from tests.serve.writer import exchange
from tests.store.samples import save

ROOT = Path(__file__).parents[3]
DRIVER = (sys.executable, "-m", "tests.serve.driver")


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """Alice has a version already; carol and dora are others with champions; the base is calibrated."""
    store = Store(tmp_path / "home")
    for user in ("alice", "carol", "dora"):
        save(store, user=user, seed=f"first of {user}")
    (store.home / "calibration").mkdir()
    (store.home / "calibration" / "abc.json").write_text("{}")
    return store


@pytest.mark.slow
def test_jobs_run_on_a_cluster_as_they_do_here(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the queue to versions in this home, under its own numbers, with all they came from."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = JobQueue(home.home)
    with Journal(home.home) as journal:
        for user in ("alice", "bob"):
            journal.append(exchange(user, said=f"My dog is called {user.upper()}."))
            jobs.enqueue(user, "tiny")
    deadline = time.monotonic() + 300  # a busy machine may need a second attempt to start Ray

    def over() -> bool:
        return not jobs.all(ended=0) or time.monotonic() > deadline

    worker.run(home.home, worker.Config(poll=0.02, command=DRIVER), stop=over)
    done = {job.user: job for job in jobs.all()}
    assert [(job.state, job.result["version"]) for job in done.values()] == [("succeeded", 2), ("succeeded", 1)]
    facts = [event.fact for event in jobs.events.tail(0).next()]
    assert ("running", "train", 200) in [(f.state, f.stage, f.total) for f in facts if isinstance(f, JobChanged)]
    for user, job in done.items():
        assert {"carol", "dora"} <= set(job.result["others"]) <= {"alice", "bob", "carol", "dora"} - {user}
        assert job.result["calibrated"] == ["abc.json"]
        champion = home.champion(user)
        assert champion is not None
        assert job.result["folder"] == str(home.version_dir(user, champion.number))
    assert home.verify() == []


def test_a_version_is_carried_once_with_all_it_came_from(home: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    (version,) = home.versions("carol")
    save(other, user="carol", seed="something before")
    assert [ray.copy_version(version, home, other, whole=True).number for _ in range(2)] == [2, 2]
    signals = other.get(Signals, version.parents[2])
    assert other.blobs.get(signals.memory) == b"the memory first of carol of carol"
    assert [step[0] for step in other.lineage(version.candidate)] == ["candidate", "signals", "memory"]
    assert other.verify() == []


def test_what_goes_wrong_on_a_node_is_its_answer(home: Store) -> None:
    work = {"model": "tiny", "memories": {"bob": "x"}, "settings": [], "nice": 0}
    broken = [sys.executable, "-c", "import sys; sys.stderr.write('out of memory\\n'); sys.exit(3)"]
    ((answer, made),) = ray.run_packed(ray.packed_home(home, "tiny", ["bob"]), work, broken)
    assert answer == {
        "kind": "StoreError", "error": "the batch ended on its node with exit code 3: out of memory",
    }  # fmt: skip
    assert made
    code = (
        "from stillhouse import errors, processes\n"
        "def work(piece, report): report({'stage': 'load'}); raise errors.ModelError('no such model')\n"
        "processes.serve(work)"
    )
    reported, (answer, _) = ray.run_packed(ray.packed_home(home, "tiny", ["bob"]), work, [sys.executable, "-c", code])
    assert reported == {"stage": "load"}
    assert answer == {"kind": "ModelError", "error": "no such model"}


def test_a_cluster_that_is_not_there_is_one_line(home: Store) -> None:
    work = {"model": "tiny", "memories": {"bob": "x"}, "settings": [], "nice": 0}
    with pytest.raises(InputError, match="no Ray cluster at"):
        ray.consolidate(home.home, work, "127.0.0.1:1", show_line)


def test_the_worker_starts_a_driver_as_it_starts_a_child() -> None:
    assert worker.batch_command("local") == worker.BATCH
    asked = worker.batch_command("ray", "auto", 0.5)[len(worker.BATCH) :]
    assert asked == ("--executor", "ray", "--ray-gpus", "0.5", "--ray-address", "auto")
