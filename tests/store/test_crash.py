"""Killed between any two steps on disk, nothing acknowledged is lost and nothing half done is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.store import Store
from tests.store.samples import save

ROOT = Path(__file__).parents[2]


def crashed(home: Path, out: Path, action: str) -> list[Path]:
    """Homes in which `action` was killed before its 1st, 2nd, … step; in the last one it came to its end."""
    out.mkdir()
    subprocess.run([sys.executable, "-m", "tests.store.crash", str(home), str(out), action], cwd=ROOT, check=True)
    return sorted(out.iterdir(), key=lambda p: int(p.name))


@pytest.mark.slow
def test_a_save_killed_anywhere(store: Store, tmp_path: Path) -> None:
    before = [save(store, seed=str(i)) for i in range(2)]
    homes = crashed(store.home, tmp_path / "out", "save")
    assert len(homes) > 20
    seen = set()
    for home in homes:
        again = Store(home)
        versions = again.versions("alice")
        assert versions[:2] == before
        champion = again.champion("alice")
        assert champion is not None
        seen.add((len(versions), champion.number))
    assert seen == {(2, 2), (3, 2), (3, 3)}
    finished = Store(homes[-1])
    assert finished.champion("alice") == finished.versions("alice")[-1]
    for home in homes[::8]:
        again = Store(home)
        number = len(again.versions("alice")) + 1
        assert again.query("SELECT count(*) FROM versions") == [(number - 1,)]
        assert save(again, seed="next").number == number
        assert again.verify() == []


def test_a_rollback_killed_anywhere(store: Store, tmp_path: Path) -> None:
    for i in range(2):
        save(store, seed=str(i))
    homes = crashed(store.home, tmp_path / "out", "rollback")
    numbers = []
    for home in homes:
        again = Store(home)
        champion = again.champion("alice")
        assert champion is not None
        numbers.append(champion.number)
        assert again.query("SELECT number FROM aliases") == [(champion.number,)]
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers) == {1, 2}


@pytest.mark.slow
def test_a_forgetting_killed_anywhere_is_finished(store: Store, tmp_path: Path) -> None:
    save(store, "bob", seed="b")
    save(store, seed="a")
    homes = crashed(store.home, tmp_path / "out", "forget")
    assert len(homes) > 20
    outcomes = set()
    for home in homes:
        again = Store(home)  # finishes what had begun
        outcomes.add(tuple(again.users()))
    for home in homes[::12]:
        again = Store(home)
        assert again.verify() == [], home
        assert save(again, seed="new").number == 2
    assert outcomes == {("alice", "bob"), ("bob",)}


def test_processes_that_save_at_once_and_are_killed(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "store_concurrency.py"
    command = [sys.executable, str(script), "--processes", "3", "--versions", "6", "--kills", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("PASS\n")
