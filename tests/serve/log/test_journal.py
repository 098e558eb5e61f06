"""What is acknowledged is on disk: whatever is killed, torn, full, asked to forget, or done by many at once."""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import Busy, DiskFull, InputError, StoreError
from stillhouse.serve.log import jsonl
from stillhouse.serve.log.journal import Config, Journal
from stillhouse.serve.log.journal_records import (
    Exchange,
    Feedback,
    Forgotten,
    Memory,
    Record,
    SessionEnd,
    Turn,
    latest,
    new_id,
)
from tests.serve.disk import no_file_larger_than
from tests.serve.writer import exchange

ROOT = Path(__file__).parents[3]
NOON = "2026-01-01T12:00:00.000+00:00"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path) as journal:
        yield journal


def thumbs(identity: str = "f1", value: bool = True, user: str = "alice") -> Feedback:
    return Feedback(identity, user, NOON, "chatcmpl-1", "thumbs", value, "nice")


def ask(sql: str, home: Path) -> list[tuple[object, ...]]:
    """A query over the sealed segments, as anybody may ask it."""
    table = f"(FROM read_json('{home}/journal/*.jsonl', union_by_name = true))"
    with duckdb.connect() as db:
        return db.execute(f"WITH t AS {table} {sql}").fetchall()


def test_what_goes_in_comes_out(journal: Journal) -> None:
    odd = Exchange(
        "r", "b\"o'b\\", "s", NOON, (Turn("user", "ünïcode 🦊 \n\0"),), "ja", "m", "f", "adapted", 3, "length"
    )
    records: list[Record] = [
        exchange(),
        Exchange(
            "r", "b\"o'b\\", "s", NOON, (Turn("user", "ünïcode 🦊 \n\0"),), "ja", "m", "f", "adapted", 3, "length"
        ),
        thumbs(),
        Memory("m1", "alice", NOON, "My cat is Ann.\n" * 50, replace=True),
        SessionEnd("e1", "alice", "s1", NOON),
    ]
    for record in records:
        journal.append(record)
    assert list(journal.records()) == records
    assert list(journal.records("memory", "session_end")) == records[3:]
    assert list(journal.records(user=odd.user)) == [records[1]]
    journal.seal()
    journal.append(exchange("bob"))
    assert list(journal.records(user="alice")) == [records[0], *records[2:]]


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.none() | st.lists(st.text()), min_size=1))
def test_a_line_is_read_back_and_no_altered_one_is(fields: dict[str, object]) -> None:
    fields = {name: value for name, value in fields.items() if name != "crc32"} or {"a": 1}
    line = jsonl.encode(fields)
    assert jsonl.decode(line) == fields
    assert json.loads(line)
    assert line.count(b"\n") == 1
    for at in random.Random(0).sample(range(len(line) - 1), min(8, len(line) - 1)):
        assert jsonl.decode(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]) is None
        assert jsonl.decode(line[:at]) is None
        assert jsonl.intact_length(line + line[:at]) == len(line)


def test_a_lone_surrogate_is_refused_and_the_journal_goes_on(journal: Journal) -> None:
    with pytest.raises(InputError, match=r"no Unicode text"):
        journal.append(exchange(said="\ud800"))
    journal.append(exchange())
    assert len(list(journal.records())) == 1


def test_many_threads_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, real = [], os.fsync

    def counted(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", counted)
    with Journal(tmp_path) as journal:
        wait([journal.submit(exchange(f"user{i}")) for i in range(500)])
        assert len(list(journal.records())) == 500
    assert len(syncs) < 100


@pytest.mark.parametrize("round_", range(6))
def test_every_acknowledged_record_survives_a_kill(tmp_path: Path, round_: int) -> None:
    command = [sys.executable, "-m", "tests.serve.writer", str(tmp_path), "20"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    said = [child.stdout.readline().strip()]
    threading.Timer(random.Random(round_).uniform(0.0, 0.25), lambda: child.send_signal(signal.SIGKILL)).start()
    said += [line.strip() for line in child.stdout if line.endswith("\n")]
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    with Journal(tmp_path) as journal:
        journal.append(exchange("after"))
        found = {r.id for r in journal.records()}
    assert len(said) > 1
    assert set(said) <= found
    assert not list((tmp_path / "journal").glob("*.open"))
    assert ask("SELECT count(*) FROM t", tmp_path) == [(len(found),)]


def test_a_torn_end_is_cut_and_the_rest_stays(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    whole = jsonl.encode({"kind": "memory", "id": "m", "user": "alice", "time": NOON, "text": "a", "replace": False})
    for number, torn in enumerate((whole[:-1], whole[:30], b"\0" * 40 + b"\n", b"{}\n")):
        (folder / f"{number:08d}-aaaaaaaa.open").write_bytes(whole * 2 + torn)
    (folder / "00000009-aaaaaaaa.open").write_bytes(whole[:10])
    with Journal(tmp_path) as journal:
        assert len(list(journal.records())) == 8
    assert len(list(folder.iterdir())) == 4


def test_a_damaged_line_of_a_sealed_segment_is_said(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(exchange("alice"))
        journal.append(exchange("bob"))
    (sealed,) = (tmp_path / "journal").glob("*.jsonl")
    sealed.chmod(0o600)
    sealed.write_bytes(sealed.read_bytes().replace(b"Zorvik", b"Zorvij", 1))
    with Journal(tmp_path) as journal:
        with pytest.raises(StoreError, match=r"line 1 is damaged; restore the file"):
            list(journal.records())
        assert len(list(journal.records(user="bob"))) == 1


def test_a_record_of_another_version_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    line = jsonl.encode({"kind": "dream", "user": "alice"})
    (tmp_path / "journal" / "00000001-aaaaaaaa.jsonl").write_bytes(line)
    with Journal(tmp_path) as journal, pytest.raises(StoreError, match=r"kind 'dream'; this program reads exchange"):
        list(journal.records())


def test_segments_are_sealed_when_large_and_number_themselves(tmp_path: Path) -> None:
    with Journal(tmp_path, Config(segment_bytes=1000)) as journal:
        for _ in range(9):
            journal.append(exchange())
    names = sorted(p.name[:8] for p in (tmp_path / "journal").glob("*.jsonl"))
    assert names == [f"{n:08d}" for n in range(1, len(names) + 1)]
    assert len(names) > 2
    with Journal(tmp_path) as journal:
        assert len(list(journal.records())) == 9


@pytest.mark.parametrize("settings", [{"segment_bytes": 0}, {"keep_days": 0.0}])
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"is not allowed"):
        Config(**settings)  # type: ignore[arg-type]


def test_duckdb_reads_the_sealed_segments(journal: Journal, tmp_path: Path) -> None:
    for user, said in (("alice", "one"), ("alice", "two"), ("bob", "three")):
        journal.append(exchange(user, said=said))
    journal.append(thumbs())
    journal.seal()
    counts = ask('SELECT "user", count(*) FROM t GROUP BY 1 ORDER BY 1', tmp_path)
    assert counts == [("alice", 3), ("bob", 1)]
    query = "SELECT turns[1].content FROM t WHERE kind = 'exchange' AND \"user\" = 'bob'"
    assert ask(query, tmp_path) == [("three",)]


def test_feedback_with_a_known_id_is_written_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.submit(thumbs()) is journal.submit(thumbs(value=False))
        journal.append(thumbs(user="bob"))
    with Journal(tmp_path) as journal:
        journal.append(thumbs(value=False))
        journal.append(thumbs("f2", value=False))
        found = [r for r in journal.records("feedback") if isinstance(r, Feedback)]
    assert [(f.user, f.id, f.value) for f in found] == [
        ("alice", "f1", True),
        ("bob", "f1", True),
        ("alice", "f2", False),
    ]
    assert [(f.user, f.value) for f in latest(found)] == [("alice", False), ("bob", True)]


def test_an_exchange_is_found_by_its_response_id(tmp_path: Path) -> None:
    with Journal(tmp_path, Config(segment_bytes=400)) as journal:
        records = [exchange(said=f"{i} chatcmpl-x") for i in range(5)]
        for record in records:
            journal.append(record)
        assert [journal.find(r.id) for r in records] == records
        assert journal.find("chatcmpl-x") is None
        assert journal.find('"\ud800') is None


def test_a_user_is_forgotten_everywhere_with_proof(tmp_path: Path) -> None:
    with Journal(tmp_path, Config(segment_bytes=1500)) as journal:
        for i in range(12):
            journal.append(exchange("alice" if i % 2 else "bob", said=f"secret{i}"))
        journal.append(Memory("m", "alice", NOON, "secret"))
        assert journal.forget("alice") == {"removed": 7, "remaining": 0}
        proofs = [r for r in journal.records("forgotten") if isinstance(r, Forgotten)]
        assert [p.removed for p in proofs] == [7]
        assert not any("alice" in p.who for p in proofs)
        assert len(list(journal.records(user="bob"))) == 6
        assert journal.forget("alice") == {"removed": 0, "remaining": 0}
        assert journal.forget("nobody") == {"removed": 0, "remaining": 0}
    assert not any(b'"alice"' in p.read_bytes() for p in (tmp_path / "journal").iterdir())
    with Journal(tmp_path) as journal:
        assert len(list(journal.records("exchange"))) == 6


def test_a_forgetting_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(exchange("alice"))
        journal.append(exchange("bob"))
    (tmp_path / "journal" / ".forgetting-0").write_text("alice")
    with Journal(tmp_path) as journal:
        assert {getattr(r, "user", None) for r in journal.records("exchange")} == {"bob"}


def test_another_living_writer_is_left_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as one, Journal(tmp_path) as other:
        one.append(exchange("alice"))
        other.append(exchange("alice"))
        assert len(list(one.records())) == 2
        with pytest.raises(Busy, match=r"another process"):
            one.forget("alice")
        other.seal()
        assert one.forget("alice")["remaining"] == 0


def test_retention_drops_old_talk_and_keeps_what_was_to_be_remembered(tmp_path: Path) -> None:
    with Journal(tmp_path, Config(keep_days=30)) as journal:
        journal.append(thumbs())
        journal.append(Memory("m", "alice", NOON, "text"))
        journal.append(exchange())
        journal.seal()
        assert journal.drop_old(datetime.datetime.now(datetime.UTC)) == 1
        assert [r.kind for r in journal.records()] == ["memory", "exchange"]
        assert journal.drop_old(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)) == 0


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        kept = exchange()
        journal.append(kept)
        with no_file_larger_than(2000):
            with pytest.raises(DiskFull):
                journal.append(exchange(said="x" * 5000))
            with pytest.raises(DiskFull):
                journal.append(Feedback("f", "alice", NOON, "r", comment="x" * 5000))
            assert list(journal.records()) == [kept]
        journal.append(Feedback("f", "alice", NOON, "r"))
        assert len(list(journal.records())) == 2
    with Journal(tmp_path) as journal:
        assert len(list(journal.records())) == 2


def test_after_closing_nothing_is_taken(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    journal.close()
    journal.seal()
    with pytest.raises(Busy, match=r"shutting down"):
        journal.append(exchange(new_id("user")))
