"""Work is done once, goes on after a kill, and says what is wrong with it in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import NotFound, StoreError
from stillhouse.records import canonical, digest
from stillhouse.work import Work, complete


def number(mark: Path) -> int:
    content: dict[str, Any] = json.loads(mark.read_bytes())
    return int(content["number"])


def work(root: Path, inputs: object) -> Work[int]:
    return Work(root / digest(inputs) / "result.json", number)


def marked(value: int) -> bytes:
    return canonical({"number": value})


class Maker:
    """Makes a number out of two parts, the first of which a killed run may have left; dies after `parts` parts."""

    def __init__(self, parts: int = 3) -> None:
        self.parts, self.made = parts, list[str]()

    def __call__(self, folder: Path) -> bytes:
        for name in ("first", "second"):
            if not (folder / name).exists():
                if not self.parts:
                    raise KeyboardInterrupt
                (folder / name).write_text("21")
                self.parts -= 1
                self.made.append(name)
        if not self.parts:
            raise KeyboardInterrupt
        return marked(sum(int((folder / name).read_text()) for name in ("first", "second")))


def test_equal_inputs_are_worked_on_once(tmp_path: Path) -> None:
    make = Maker()
    one = work(tmp_path, {"memory": "a", "steps": 2})
    assert not one.finished
    assert not one.folder.exists()
    assert one.once(make) == 42
    again = work(tmp_path, {"steps": 2, "memory": "a"})
    assert again.finished
    assert (again.once(make), again.result()) == (42, 42)
    assert make.made == ["first", "second"]
    assert not work(tmp_path, {"memory": "b", "steps": 2}).finished


@pytest.mark.parametrize(("parts", "left"), [(0, ["first", "second"]), (1, ["second"]), (2, [])])
def test_what_was_stopped_goes_on(tmp_path: Path, parts: int, left: list[str]) -> None:
    """Before anything was made, between two parts, and between the last part and the mark."""
    one = work(tmp_path, "inputs")
    with pytest.raises(KeyboardInterrupt):
        one.once(Maker(parts))
    assert not one.finished
    make = Maker()
    assert one.once(make) == 42
    assert make.made == left
    assert one.finished


def test_a_maker_may_write_the_mark_itself(tmp_path: Path) -> None:
    one = work(tmp_path, "inputs")

    def make(folder: Path) -> None:
        (folder / "result.json").write_bytes(marked(7))

    assert one.once(make) == 7
    forgetful = work(tmp_path, "others")
    with pytest.raises(StoreError, match=r"result\.json' is missing, so work is not finished"):
        forgetful.once(lambda folder: None)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[3]", b"{}", b'{"number": null}', b'{"number": "x"}'])
def test_a_damaged_mark_is_said_and_not_made_anew(tmp_path: Path, content: bytes) -> None:
    one = work(tmp_path, "inputs")
    one.once(Maker())
    one.mark.write_bytes(content)
    make = Maker()
    with pytest.raises(StoreError, match=r"finished work is damaged .*; remove '.*result\.json' and run the command"):
        one.once(make)
    assert make.made == []
    one.mark.unlink()
    assert one.once(make) == 42
    assert make.made == [], "what lies beside the mark is still good"


def test_an_error_of_the_store_says_what_to_do_too(tmp_path: Path) -> None:
    def load(mark: Path) -> int:
        raise NotFound("there is no blob abc")

    one = Work(tmp_path / "folder" / "result.json", load)
    one.finish(b"")
    with pytest.raises(
        StoreError, match=r"finished work is damaged: there is no blob abc; remove '.*result\.json' and"
    ):
        one.result()


def test_work_that_nobody_finished_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is missing, so work is not finished"):
        work(tmp_path, "inputs").result()


def test_several_are_made_together_and_kept_one_by_one(tmp_path: Path) -> None:
    works = {name: work(tmp_path, name) for name in ("a", "b", "c", "d")}
    works["b"].finish(marked(2))
    given: list[list[str]] = []

    def make(names: Sequence[str], last: str = "") -> Iterator[tuple[str, bytes]]:
        given.append(list(names))
        for name in names:
            if name == last:
                raise KeyboardInterrupt
            yield name, marked(ord(name))

    with pytest.raises(KeyboardInterrupt):
        complete(works, lambda names: make(names, "d"))
    assert [name for name, one in works.items() if one.finished] == ["a", "b", "c"]
    complete(works, make)
    complete(works, make)
    assert given == [["a", "c", "d"], ["d"]], "the third time there was nothing to make"
    assert {name: one.result() for name, one in works.items()} == {"a": 97, "b": 2, "c": 99, "d": 100}


SLOWLY = """
import os, sys, time
from pathlib import Path
from stillhouse.work import Work

def make(folder):
    print("begun", flush=True)
    sys.stdin.readline()
    return b"42"

mark = Path(sys.argv[1])
print(Work(mark, lambda path: int(path.read_bytes())).once(make), flush=True)
"""


def process(mark: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(mark)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert line(started) == "begun"
    return started


def line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_two_processes_that_do_the_same_work_both_have_the_result(tmp_path: Path) -> None:
    mark = tmp_path / "folder" / "result"
    with process(mark) as one, process(mark) as other:
        for started in (other, one):
            assert started.stdin is not None
            started.stdin.write("go\n")
            started.stdin.flush()
            assert line(started) == "42"
            assert mark.read_bytes() == b"42"
    assert (one.returncode, other.returncode) == (0, 0)
    assert [path.name for path in mark.parent.iterdir()] == ["result"]


def test_a_process_killed_between_making_and_marking_leaves_no_mark(tmp_path: Path) -> None:
    mark = tmp_path / "folder" / "result"
    with process(mark) as killed:
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not mark.exists()
    assert Work(mark, lambda path: int(path.read_bytes())).once(lambda folder: b"42") == 42
