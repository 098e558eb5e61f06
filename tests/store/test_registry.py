from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from stillhouse.errors import StoreError
from stillhouse.store import Store
from stillhouse.store.migrations import STEPS
from tests.store.samples import save


def damaged(path: Path) -> None:
    path.write_bytes(b"no index" * 1000)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10_000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def from_the_future(path: Path) -> None:
    with duckdb.connect(str(path)) as db:
        db.execute("INSERT INTO migrations (number) VALUES (99)")


def with_a_strange_log(path: Path) -> None:
    path.with_name(path.name + ".wal").write_bytes(b"strange" * 100)


@pytest.mark.parametrize("damage", [damaged, cut_off, from_the_future])
def test_a_broken_index_says_rebuild_and_rebuild_works(store: Store, damage: object) -> None:
    version = save(store)
    rows = store.rebuild()
    assert callable(damage)
    damage(store.home / "registry.duckdb")
    again = Store(store.home)  # opening and serving need no index
    assert again.champion("alice") == version
    with pytest.raises(StoreError, match="run `stillhouse store rebuild`"):
        again.query("SELECT 1")
    with pytest.raises(StoreError, match="run `stillhouse store rebuild`"):
        save(again, seed="1")
    assert again.rebuild() >= rows
    assert again.verify() == []
    assert again.query("SELECT count(*) FROM versions") == [(len(again.versions("alice")),)]


@pytest.mark.parametrize("damage", [empty, with_a_strange_log, Path.unlink])
def test_rebuild_does_not_read_what_it_replaces(store: Store, damage: object) -> None:
    save(store)
    rows = store.rebuild()
    assert callable(damage)
    damage(store.home / "registry.duckdb")
    assert store.rebuild() == rows
    assert store.verify() == []
    assert not list(store.home.glob(".partial-*"))


def test_migrations_are_numbered_and_run_once(store: Store) -> None:
    save(store)
    assert store.query("SELECT number FROM migrations") == [(n + 1,) for n in range(len(STEPS))]


def test_an_index_held_by_another_program_is_waited_for(store: Store) -> None:
    save(store)
    script = """
import duckdb, sys, time
db = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(0.6)
db.close()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(store.home / "registry.duckdb")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        assert save(store, seed="1").number == 2
        assert time.monotonic() - begun > 0.2
    assert store.query("SELECT count(*) FROM versions") == [(2,)]


def test_the_index_is_only_an_index(store: Store, tmp_path: Path) -> None:
    save(store)
    shutil.copytree(store.home, tmp_path / "copy", ignore=shutil.ignore_patterns("registry.duckdb", "pending"))
    copy = Store(tmp_path / "copy")
    assert copy.verify() == []
    tables = ("signals", "candidates", "verdicts", "gate_results", "versions", "lineage", "aliases")
    for table in tables:
        assert copy.query(f"FROM {table} ORDER BY ALL") == store.query(f"FROM {table} ORDER BY ALL")
