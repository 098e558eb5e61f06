from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from stillhouse.errors import Busy, InputError, NotFound, Rejected, StoreError
from stillhouse.records import Candidate, Signals, Verdict, Version, digest
from stillhouse.store import Store
from tests.store.samples import make, save


def test_records_come_back_by_digest_and_by_prefix(store: Store) -> None:
    candidate, verdict, _ = make(store, "alice", "0")
    with pytest.raises(StoreError, match=r"adapter .* is not among the blobs; put the bytes first"):
        store.put(candidate)
    store.blobs.put(b"adapter 0 alice" * 20)
    for record in (candidate, verdict):
        key = store.put(record)
        assert store.put(record) == key == digest(record)
        assert store.get(type(record), key) == record
        assert store.find(key[:8]) == (type(record), key, record)
        assert list(store.records(type(record))) == [(key, record)]
    with pytest.raises(NotFound):
        store.get(Signals, digest(candidate))
    with pytest.raises(InputError, match="6 to 64"):
        store.find("abc")
    with pytest.raises(NotFound, match="none begins so"):
        store.find("000000")
    with pytest.raises(InputError, match="not a record the store keeps"):
        store.put(verdict.results[0])
    assert store.verify() == []


def test_an_ambiguous_prefix_lists_what_begins_so(store: Store) -> None:
    for name in ("a", "b"):
        (store.home / "manifests" / "verdict" / f"{'0' * 63}{name}.json").touch()
    with pytest.raises(NotFound, match=r"2 records begin so: verdict 0{16}, verdict 0{16}"):
        store.find("000000")


def test_versions_are_numbered_and_the_last_approved_is_champion(store: Store) -> None:
    assert store.champion("alice") is None
    made = [save(store, seed=str(i), passed=i != 2) for i in range(3)]
    assert [v.number for v in made] == [1, 2, 3]
    assert [v.approved for v in made] == [True, True, False]
    assert store.versions("alice") == made
    assert store.champion("alice") == made[1]
    assert store.users() == ["alice"]
    folder = store.version_dir("alice", 2)
    assert folder == store.home / "adapters" / "alice" / "v2"
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "version.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    with pytest.raises(NotFound, match="no version 9; there are: 1, 2, 3"):
        store.version_dir("alice", 9)
    assert Store(store.home).champion("alice") == made[1]
    assert store.verify() == []


def test_rollback_undoes_and_promote_adds(store: Store) -> None:
    with pytest.raises(StoreError, match="no earlier champion"):
        store.rollback("alice")
    for i in range(4):
        save(store, seed=str(i), passed=i != 3)
    assert store.rollback("alice").number == 2
    assert store.rollback("alice").number == 1
    with pytest.raises(StoreError, match="no earlier champion"):
        store.rollback("alice")
    assert store.promote("alice", 3, "better after all").number == 3
    assert store.rollback("alice").number == 1
    assert store.rollback("alice", to=2).number == 2
    with pytest.raises(Rejected, match="rejected by its gates"):
        store.promote("alice", 4, "please")
    with pytest.raises(Rejected, match="rejected by its gates"):
        store.rollback("alice", to=4)
    with pytest.raises(NotFound):
        store.promote("alice", 9, "none")
    assert [m["to"] for m in store.moves("alice")] == [1, 2, 3, 2, 1, 3, 1, 2]
    assert store.moves("alice")[5]["why"] == "better after all"
    assert store.query("SELECT user_id, number FROM aliases") == [("alice", 2)]
    assert save(store, seed="5").number == 5
    champion = store.champion("alice")
    assert champion is not None
    assert champion.number == 5


def test_only_what_belongs_together_is_saved(store: Store) -> None:
    candidate, verdict, files = make(store, "alice", "0")
    other, _, _ = make(store, "alice", "1")
    with pytest.raises(StoreError, match="judges candidate"):
        store.save_version(other, verdict, files, "tiny", ())
    with pytest.raises(StoreError, match="not the adapter"):
        store.save_version(candidate, verdict, files | {"adapter_model.safetensors": b"other"}, "tiny", ())
    with pytest.raises(InputError, match=r"\.\./x"):
        store.save_version(candidate, verdict, files | {"../x": b""}, "tiny", ())
    with pytest.raises(InputError, match=r"version\.json"):
        store.save_version(candidate, verdict, files | {"version.json": b""}, "tiny", ())
    assert store.versions("alice") == []
    assert list((store.home / "adapters" / "alice").iterdir()) == []


@pytest.mark.parametrize("user", ["../../etc", "a/b", ".", "🦊 fox", "é" * 128])
def test_strange_users_stay_inside_the_home(store: Store, user: str) -> None:
    version = save(store, user)
    assert store.version_dir(user, 1).is_relative_to(store.home / "adapters")
    assert store.users() == [user]
    assert store.versions(user) == [version]
    assert store.verify() == []


def test_lineage_leads_back_to_the_memory(store: Store) -> None:
    version = save(store)
    steps = store.lineage(digest(version))
    assert [kind for kind, _, _ in steps] == ["version", "verdict", "candidate", "signals", "memory"]
    assert steps[0][2].startswith("version 1 of 'alice' on tiny, approved")
    assert steps[-1][2] == "21 bytes"
    assert [kind for kind, _, _ in store.lineage(version.candidate)] == ["candidate", "signals", "memory"]
    edges = store.query("SELECT count(*) FROM lineage WHERE child = ?", [digest(version)])
    assert edges == [(4,)]
    with pytest.raises(NotFound):
        store.lineage("0" * 64)


def test_work_is_a_folder_that_stays(store: Store) -> None:
    folder = store.work("ab" * 32)
    (folder / "checkpoint").write_bytes(b"1")
    assert store.work("ab" * 32) == folder
    assert (folder / "checkpoint").exists()
    for name in ("", "..", "a/b", "x" * 200):
        with pytest.raises(InputError, match="cannot name work"):
            store.work(name)


def hold(home: Path, ready: Event) -> None:
    with Store(home).lock("alice"):
        ready.set()
        time.sleep(60)


def test_a_second_consolidation_is_told_who_holds_the_user(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(store.home, ready))
    holder.start()
    try:
        assert ready.wait(20)
        line = rf"user 'alice' is being consolidated by process {holder.pid} since 20\S+; wait or try again"
        with pytest.raises(Busy, match=line), store.lock("alice"):
            raise AssertionError("got a lock somebody holds")
        with pytest.raises(Busy):
            store.forget("alice")
        with store.lock("bob"):
            pass
    finally:
        holder.kill()
        holder.join()
    with store.lock("alice", wait=5):  # a killed holder holds nothing
        pass


def test_the_lock_is_waited_for(store: Store) -> None:
    order: list[str] = []

    def release() -> None:
        time.sleep(0.2)
        order.append("released")
        held.close()

    held = contextlib.ExitStack()
    held.enter_context(store.lock("alice"))
    thread = threading.Thread(target=release)
    thread.start()
    with store.lock("alice", wait=10):
        order.append("entered")
        thread.join()
    assert order == ["released", "entered"]


def test_a_home_from_another_version_is_refused(store: Store) -> None:
    (store.home / "FORMAT").write_text('{"format": 7}')
    with pytest.raises(StoreError, match="format 7, this program reads 1; use the program that wrote it"):
        Store(store.home)
    (store.home / "FORMAT").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Store(store.home)


def test_a_home_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file; a home is a folder"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot write"):
        Store(Path("/proc/stillhouse"))


def test_a_full_disk_loses_the_new_and_keeps_the_old(store: Store) -> None:
    save(store)
    script = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stillhouse.errors import StoreError
from stillhouse.records import Candidate, Verdict, digest
from stillhouse.store import Store
store = Store(Path(sys.argv[1]))
adapter = bytes(400_000)
candidate = Candidate("adapter", "alice", "base", store.blobs.put(adapter), {}, {}, 1, ())
verdict = Verdict(digest(candidate), True, (), {})
files = {"adapter_config.json": b"{}", "adapter_model.safetensors": adapter}
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    store.save_version(candidate, verdict, files, "tiny", ())
except StoreError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(store.home), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"disk is full: '.*' could not be written; free some space and run the command again\n", done.stdout
    )
    assert [v.number for v in store.versions("alice")] == [1]
    assert sorted(p.name for p in (store.home / "adapters" / "alice").iterdir()) == ["champion.json", "v1"]
    assert store.verify() == []


def test_version_numbers_survive_damage_of_one(store: Store) -> None:
    save(store)
    path = store.version_dir("alice", 1) / "version.json"
    raw = json.loads(path.read_bytes())
    raw["record"]["user"] = "bob"
    path.write_text(json.dumps(raw))
    with pytest.raises(StoreError, match="is version 1 of 'bob'"):
        store.versions("alice")
    assert save(store, seed="1").number == 2


def test_every_kind_of_record_is_indexed(store: Store) -> None:
    save(store)
    counts = {
        t: store.query(f"SELECT count(*) FROM {t}")[0][0] for t in ("signals", "candidates", "verdicts", "versions")
    }
    assert counts == {"signals": 1, "candidates": 1, "verdicts": 1, "versions": 1}
    found = store.query("SELECT gate, value, low FROM gate_results JOIN versions USING (verdict)")
    assert found == [("recall", 1.0, 0.05)]
    assert {Candidate, Verdict, Version, Signals} == {store.find(d)[0] for (d,) in store.query(
        "SELECT digest FROM signals UNION ALL SELECT digest FROM candidates"
        " UNION ALL SELECT digest FROM verdicts UNION ALL SELECT digest FROM versions")}  # fmt: skip
