from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.errors import StoreError
from stillhouse.records import Signals, digest
from stillhouse.store import Store
from tests.store.samples import make, save

USER = "zoë/the 4th"
NOTHING = {
    "versions": 0,
    "signals": 0,
    "candidates": 0,
    "verdicts": 0,
    "blobs": 0,
    "work": 0,
    "rows": 0,
    "remaining": 0,
}


def mentions(home: Path, *texts: bytes) -> list[Path]:
    files = [p for p in home.rglob("*") if p.is_file()]
    named = [p for p in home.rglob("*") if any(t.decode() in str(p.relative_to(home)) for t in texts)]
    return [p for p in files if any(t in p.read_bytes() for t in texts)] + named


def test_nothing_of_a_forgotten_user_is_left(store: Store) -> None:
    for i in range(2):
        save(store, USER, seed=str(i), passed=i == 0)
    kept = save(store, "bob", seed="0")
    shared = store.blobs.put(b"bytes both name")
    for user in (USER, "bob"):
        store.put(Signals(user, digest(b"m"), "base", shared, shared, {}, 1, 1, 1))
    store.put(make(store, USER, "unfinished")[0].__class__(**{**vars(make(store, USER, "x")[0]), "adapter": shared}))
    (store.work("ab" * 32, [USER, "bob"]) / "checkpoint").write_bytes(b"weights")
    of_bob = store.work("cd" * 32, ["bob"])
    noted = store.work("ef" * 32)
    (noted / "result.json").write_text(json.dumps({"digest": digest(next(store.records(Signals))[1])}))
    of_zoe = [d for d, s in store.records(Signals) if s.user == USER]
    (noted / "result.json").write_text(json.dumps({"digest": of_zoe[0]}))
    with store.lock(USER):
        pass
    assert mentions(store.home, USER.encode())

    counts = store.forget(USER)

    assert counts["remaining"] == 0
    assert (counts["versions"], counts["signals"], counts["candidates"], counts["verdicts"]) == (2, 5, 3, 2)
    assert counts["work"] == 2
    assert min(counts["blobs"], counts["rows"]) > 0
    assert mentions(store.home, USER.encode(), b"zo%C3%AB", *(d.encode() for d in of_zoe)) == []
    assert of_bob.exists()
    assert store.blobs.get(shared) == b"bytes both name"
    assert store.champion("bob") == kept
    assert store.users() == ["bob"]
    assert store.verify() == []
    assert store.forget(USER) == NOTHING


def test_a_forgotten_path_is_never_used_again(store: Store) -> None:
    for i in range(2):
        save(store, seed=str(i))
    store.forget("alice")
    assert store.versions("alice") == []
    assert store.champion("alice") is None
    assert save(store, seed="0").number == 3
    store.forget("alice")
    assert save(store, seed="0").number == 4
    assert store.verify() == []


def test_forgetting_that_was_cut_off_is_finished_by_the_next_opening(store: Store) -> None:
    version = save(store)
    (store.home / "forgetting" / "alice").write_text("alice")
    (store.home / "manifests" / "verdict" / f"{version.verdict}.json").unlink()
    assert any("not wholly forgotten" in line for line in store.verify())
    again = Store(store.home)
    assert again.verify() == []
    assert again.users() == []
    assert mentions(store.home, b"alice") == []


def test_a_broken_index_does_not_stop_forgetting_but_a_broken_manifest_does(store: Store) -> None:
    save(store)
    save(store, "bob", seed="1")
    (store.home / "registry.duckdb").write_bytes(b"alice" * 1000)
    assert store.forget("alice")["remaining"] == 0
    assert mentions(store.home, b"alice") == []
    next((store.home / "manifests" / "candidate").iterdir()).write_text("{")
    with pytest.raises(StoreError, match="cut off"):
        store.forget("bob")
