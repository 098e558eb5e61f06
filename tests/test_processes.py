"""Children that work: what they report, refuse and print; how they die, hang, and end with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillhouse.errors import InputError, ModelError
from stillhouse.processes import Process, ProcessDied, python_module

ROOT = Path(__file__).parents[1]
CHILD = python_module("tests.processes_child")
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def child(*, apart: bool = True) -> Process:
    return Process(CHILD, ENVIRONMENT, apart=apart)


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process that is no child of ours has ended, or ends soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_reports_come_in_order_and_then_a_result_piece_after_piece() -> None:
    with child() as process:
        for count in (3, 0, 2000):
            process.send({"what": "report", "n": count})
            assert list(process.reports()) == [{"done": n, "text": "ü\n"} for n in range(count)]
            assert process.result["pipe"] is None, "what the child starts gets no pipe"


def test_work_may_be_larger_than_a_pipe() -> None:
    with child() as process:
        process.send({"what": "nothing", "text": "x" * 3_000_000})
        assert list(process.reports()) == []
        assert process.result["size"] > 3_000_000


def test_errors_are_raised_here_and_the_child_goes_on() -> None:
    with child() as process:
        process.send({"what": "refuse"})
        with pytest.raises(InputError, match="not this"):
            list(process.reports())
        process.send({"what": "private"})
        with pytest.raises(ModelError, match="not that"):
            list(process.reports())
        process.send({"what": "nothing"})
        assert list(process.reports()) == []


@pytest.mark.parametrize("apart", [True, False])
def test_what_it_prints_is_no_answer(capfd: pytest.CaptureFixture[str], apart: bool) -> None:
    with child(apart=apart) as process:
        process.send({"what": "print"})
        assert list(process.reports()) == []
        assert process.result["pid"] > 0
    out, err = capfd.readouterr()
    assert out == "", "stdout belongs to results"
    assert ("13" in err) is not apart


@pytest.mark.parametrize(
    ("what", "how", "last"), [("kill", "signal 9", "out of memory"), ("bug", "exit code 1", "KeyError: 'nothing'")]
)
def test_a_child_that_dies_says_how_and_its_last_line(what: str, how: str, last: str) -> None:
    with child() as process:
        process.send({"what": what})
        with pytest.raises(ProcessDied, match=rf"a worker process died \({how}\)") as death:
            list(process.reports())
    assert (death.value.how, death.value.last) == (how, last)


@pytest.mark.parametrize("code", ["", "import os; os.close(int(os.environ['STILLHOUSE_PIPE'])); input()\ninput()"])
def test_a_child_that_never_answers_has_died(code: str) -> None:
    with Process([sys.executable, "-c", code], apart=True) as process:
        process.send({"what": "nothing"})
        with pytest.raises(ProcessDied):
            list(process.reports())


def test_a_child_that_writes_no_json_is_refused() -> None:
    code = "import os; os.write(int(os.environ['STILLHOUSE_PIPE']), b'[1]\\n'); input()"
    with (
        Process([sys.executable, "-c", code], apart=True) as process,
        pytest.raises(ModelError, match="no JSON object"),
    ):
        list(process.reports())


def test_whoever_waits_can_look_at_something_else_and_leave() -> None:
    with child() as process:
        process.send({"what": "sleep"})
        reports = process.reports(every=0.02)
        pid = next(report for report in reports if report is not None)
        assert [next(reports) for _ in range(3)] == [None, None, None]
    assert gone(pid)


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "from stillhouse.processes import Process, python_module\n"
        "with Process(python_module('tests.processes_child'), apart=True) as child:\n"
        "    child.send({'what': 'sleep'})\n"
        "    for report in child.reports(): print(report, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)
