"""The event log: numbered without gaps, followed without loss, whoever writes, is killed, rotates or forgets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest

from stillhouse.errors import InputError, StoreError
from stillhouse.serve.log.event_types import TYPES, AliasMoved, JobChanged, MemoryPressure, Routed
from stillhouse.serve.log.events import Config, Event, EventLog
from tests.serve.disk import no_file_larger_than
from tests.serve.typed import typed

ROOT = Path(__file__).parents[3]


def job(user: str = "alice", done: int = 0) -> JobChanged:
    return JobChanged("job-1", user, "running", "train", done, 200, "ünïcode \n")


def read(log: EventLog, after: int = 0) -> list[Event]:
    return list(log.between(after, log.last()))


def test_what_is_logged_is_read_in_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.last() == 0
    assert log.append(job(), AliasMoved("alice", 2, None, "save")) == 2
    assert log.append(MemoryPressure("kv", 10, 5)) == 3
    assert [(e.seq, e.fact.type, e.user) for e in read(log)] == [
        (1, "job", "alice"), (2, "alias", "alice"), (3, "memory_pressure", None),
    ]  # fmt: skip
    assert [e.fact for e in read(log, 1)] == [AliasMoved("alice", 2, None, "save"), MemoryPressure("kv", 10, 5)]


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_a_fact_does_not_hide_what_stands_around_it(kind: type) -> None:
    assert not {f.name for f in fields(kind)} & {"seq", "time", "type", "crc32"}


def test_an_event_as_sent_to_a_browser(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(job())
    (event,) = read(log)
    identity, kind, data, *rest = event.sse().split("\n")
    assert (identity, kind, rest) == ("id: 1", "event: job", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == event.as_dict()


def test_a_tail_gives_each_event_once_across_files(tmp_path: Path) -> None:
    log = EventLog(tmp_path, Config(file_bytes=300, keep_files=3))
    tail = log.tail()
    seen = []
    for i in range(20):
        log.append(job(done=i))
        seen += tail.next()
        assert tail.next() == []
    assert [e.seq for e in seen] == list(range(1, 21))
    assert len(list(log.folder.glob("*.jsonl"))) == 3
    kept = [e.seq for e in read(log)]
    assert kept == list(range(kept[0], 21))
    assert [e.seq for e in log.tail(18).next()] == [19, 20]
    assert [e.seq for e in log.tail(0).next(limit=1)] == kept[:1]


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stillhouse.serve.log.events import EventLog, Config;"
        "from stillhouse.serve.log.event_types import Routed;"
        "log = EventLog(Path(sys.argv[1]), Config(file_bytes=8000));"
        "[log.append(Routed('u', 'base', why=str(i)), sync=False) for i in range(150)]"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    children = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    found = read(EventLog(tmp_path))
    assert [e.seq for e in found] == list(range(1, 451))
    assert sorted(e.fact.why for e in found if isinstance(e.fact, Routed)) == sorted(map(str, [*range(150)] * 3))


@pytest.mark.parametrize("torn", [b'{"crc32":"00', b"\0" * 50, b'{"crc32":"00000000","x":1}\n'])
def test_a_torn_end_is_cut_off_by_the_next_writer(tmp_path: Path, torn: bytes) -> None:
    log = EventLog(tmp_path)
    log.append(job(), job())
    (path,) = log.folder.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(torn)
    assert log.append(Routed("bob", "base")) == 3
    assert [e.seq for e in read(log)] == [1, 2, 3]


def test_a_damaged_line_and_an_unknown_type_are_said(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(job(), job("bob"))
    (path,) = log.folder.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"alice", b"malic", 1))
    with pytest.raises(StoreError, match=r"is damaged at"):
        log.tail(0).next()


def test_a_user_is_forgotten_and_numbers_go_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path, Config(file_bytes=300))
    for i in range(6):
        log.append(job("alice" if i % 2 else "bob", i))
    tail = log.tail(0)
    tail.next(limit=1)
    assert log.forget("alice") == 3
    assert [e.seq for e in tail.next()] == [3, 5]
    assert log.append(job("carol")) == 7
    assert [e.seq for e in read(log)] == [1, 3, 5, 7]
    assert not any(b"alice" in p.read_bytes() for p in log.folder.glob("*.jsonl"))
    assert log.forget("bob") == 3
    assert log.forget("carol") == 1
    assert log.append(job()) == 8


def test_following_sees_what_comes_and_ends_when_told(tmp_path: Path) -> None:
    log, over = EventLog(tmp_path), threading.Event()
    seen: list[Event] = []
    log.append(job())

    def follow() -> None:
        seen.extend(log.follow(0, over.is_set))

    thread = threading.Thread(target=follow)
    thread.start()
    log.append(Routed("bob", "adapted"))
    time.sleep(0.5)
    over.set()
    thread.join()
    assert [e.seq for e in seen] == [1, 2]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(job())
    (path,) = log.folder.glob("*.jsonl")
    with no_file_larger_than(path.stat().st_size + 50), pytest.raises(StoreError, match=r"disk is full"):
        log.append(job())
    assert log.append(job()) == 2
    assert [e.seq for e in read(log)] == [1, 2]


@pytest.mark.parametrize("settings", [{"file_bytes": 0}, {"keep_files": 0}])
def test_settings_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"must be at least 1"):
        Config(**settings)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    EventLog(tmp_path).append(job(), Routed("bob", "adapted", "base", 3, "v3 is served"))
    done = typed(capsys, "events", "--home", tmp_path)
    assert done.code == 0
    assert "bob" in done.out.splitlines()[1]
    assert "\\n" in done.out.splitlines()[0]
    assert "version 3" in done.out
    only = typed(capsys, "events", "--home", tmp_path, "--type", "routing", "--user", "bob", "--json")
    assert only.json["path"] == "adapted"
    assert typed(capsys, "events", "--home", tmp_path, "--after", "2").out == ""
    assert "there are: job" in typed(capsys, "events", "--home", tmp_path, "--type", "x").line
