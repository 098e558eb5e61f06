"""Every way a home can be wrong is one line of `verify`; what a killed process leaves is none."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.errors import NotFound, StoreError
from stillhouse.records import Candidate, digest
from stillhouse.store import Store
from tests.store.samples import save


def first(store: Store, kind: str) -> Path:
    return min((store.home / "manifests" / kind).glob("*.json"))


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    raw = json.loads(path.read_bytes())
    change(raw)
    path.write_text(json.dumps(raw))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def champion_of(store: Store, number: int) -> None:
    edit(store.home / "adapters" / "alice" / "champion.json", lambda raw: raw.update(number=number))


def without_folder(store: Store) -> None:
    shutil.rmtree(store.version_dir("alice", 1))


def swapped_adapter(store: Store) -> None:
    (store.version_dir("alice", 1) / "adapter_model.safetensors").write_bytes(b"other")


def approved_by_hand(store: Store) -> None:
    path = store.version_dir("alice", 2) / "version.json"
    edit(path, lambda raw: raw["record"].update(approved=True))  # type: ignore[attr-defined]


def row_by_hand(store: Store) -> None:
    store.query("UPDATE versions SET approved = true WHERE number = 2")


DAMAGE: dict[str, tuple[Callable[[Store], object], str]] = {
    "manifest cut off": (lambda s: cut(first(s, "signals")), "is cut off or not JSON"),
    "manifest of another version": (lambda s: edit(first(s, "verdict"), lambda r: r.update(format=9)), "has format 9"),
    "manifest of another kind": (lambda s: edit(first(s, "verdict"), lambda r: r.update(kind="x")), "says it is a 'x'"),
    "manifest without record": (lambda s: first(s, "verdict").write_text("{}"), "has no record in it"),
    "manifest changed": (
        lambda s: edit(first(s, "signals"), lambda r: r["record"].update(examples=99)),  # type: ignore[attr-defined]
        "content does not match its digest",
    ),
    "manifest with an unknown field": (
        lambda s: edit(first(s, "signals"), lambda r: r["record"].update(mood=1)),  # type: ignore[attr-defined]
        "unknown fields",
    ),
    "manifest gone": (lambda s: first(s, "signals").unlink(), "its parent"),
    "blob gone": (lambda s: s.blobs.remove(next(iter(s.records(Candidate)))[1].adapter), "not among the blobs"),
    "blob changed": (lambda s: s.blobs.path(next(iter(s.blobs))).write_bytes(b""), "content does not match its digest"),
    "adapter swapped": (swapped_adapter, "is not the adapter of its candidate"),
    "file gone": (
        lambda s: (s.version_dir("alice", 1) / "adapter_config.json").unlink(),
        "adapter_config.json missing",
    ),
    "version folder gone": (without_folder, "its folder is gone"),
    "version cut off": (lambda s: cut(s.version_dir("alice", 1) / "version.json"), "is cut off"),
    "version approved by hand": (approved_by_hand, "says otherwise"),
    "champion rejected": (lambda s: champion_of(s, 2), "is version 2, which is not an approved version"),
    "champion nobody": (lambda s: champion_of(s, 7), "is version 7, which is not an approved version"),
    "champion cut off": (lambda s: cut(s.home / "adapters" / "alice" / "champion.json"), "champion.json' is damaged"),
    "champion of another version": (
        lambda s: edit(s.home / "adapters" / "alice" / "champion.json", lambda r: r.update(format=2)),
        "has format 2",
    ),
    "stranger's folder": (lambda s: (s.home / "adapters" / "a b" / "v1").mkdir(parents=True), "not a user's folder"),
    "index row changed": (row_by_hand, "agrees with no manifest"),
    "index not DuckDB": (lambda s: (s.home / "registry.duckdb").write_bytes(b"x" * 5000), "stillhouse store rebuild"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an approved and a rejected version; copied, never touched."""
    store = Store(tmp_path_factory.mktemp("sound") / "home")
    save(store, seed="1")
    save(store, seed="2", passed=False)
    assert store.verify() == []
    return store.home


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(sound: Path, tmp_path: Path, name: str) -> None:
    store = Store(shutil.copytree(sound, tmp_path / "home"))
    damage, line = DAMAGE[name]
    damage(store)
    problems = store.verify()
    assert any(line in p for p in problems), problems
    assert all("\n" not in p for p in problems)


def test_damaged_manifests_are_errors_when_read(store: Store) -> None:
    version = save(store)
    path = store.home / "manifests" / "candidate" / f"{version.candidate}.json"
    sound = path.read_bytes()
    edit(path, lambda raw: raw["record"].update(steps=99))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="holds another record"):
        store.get(Candidate, version.candidate)
    path.write_bytes(sound[:-9])
    with pytest.raises(StoreError, match="cut off"):
        store.get(Candidate, version.candidate)
    path.unlink()
    with pytest.raises(NotFound):
        store.get(Candidate, version.candidate)


def test_what_a_killed_process_leaves_is_put_right_in_silence(store: Store) -> None:
    version = save(store)
    old, young = (store.home / "adapters" / "alice" / f".partial-{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "adapter_model.safetensors").touch()
    note = store.home / "pending" / "old.json"
    note.write_text(json.dumps({"kind": "version", "digest": "0" * 64}))
    long_ago = time.time() - 4000
    for path in (old, note):
        os.utime(path, (long_ago, long_ago))
    (store.home / "manifests" / "version" / f"{digest(version)}.json").unlink()
    store.query("DELETE FROM candidates")
    store.query("DELETE FROM aliases")
    assert store.verify() == []
    assert (old.exists(), young.exists(), note.exists()) == (False, True, False)
    assert store.get(type(version), digest(version)) == version
    assert store.query("SELECT count(*) FROM candidates") == [(1,)]
    assert store.query("SELECT number FROM aliases") == [(1,)]
