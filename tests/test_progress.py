"""Progress for people is on stderr only: a bar on a real pseudo-terminal, two lines in a pipe, nothing when off."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from stillhouse.progress import Report, progress, show_line


def test_lines_at_start_and_end_when_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 3, True) as step:
        step()
        step(2, "loss 0.1")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"train: started, 3 steps\ntrain: done, 3/3 in \d+\.\d s; loss 0\.1\n", err)


def test_unknown_total(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("capture", None, True) as step:
        step()
    assert re.fullmatch(r"capture: started\ncapture: done, 1 in \d+\.\d s\n", capsys.readouterr().err)


def test_nothing_when_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 3, False) as step:
        step(1, "note")
    assert capsys.readouterr() == ("", "")


def test_a_program_gets_reports_at_the_start_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Report] = []
    with progress("train", 300, reports.append, user="alice") as step:
        for _ in range(300):
            step(1, "loss 0.1")
    assert reports == [Report("train", "alice", 0, 300, ""), Report("train", "alice", 300, 300, "loss 0.1")]
    monkeypatch.setattr("stillhouse.progress.REPORT_SECONDS", 0.0)
    with pytest.raises(RuntimeError), progress("gate", None, reports.append) as step:
        step(2)
        raise RuntimeError
    assert [(r.done, r.total) for r in reports[2:]] == [(0, None), (2, None), (2, None)]
    assert capsys.readouterr() == ("", "")


def test_a_report_of_another_process_is_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_line(Report("train", "", 3, 200, "loss 0.1"))
    show_line(Report("capture", "alice", 3, None, ""))
    assert capsys.readouterr() == ("", "train: at 3/200; loss 0.1\ncapture alice: at 3\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_passes_and_the_end_says_where_it_stopped(
    error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error), progress("train", 3, True) as step:
        step()
        raise error
    assert re.search(r"\ntrain: stopped at 1/3 in \d+\.\d s\n$", capsys.readouterr().err)


def test_work_goes_on_when_nobody_reads_stderr() -> None:
    code = "from stillhouse.progress import progress\nwith progress('train', 1, True) as step: step()\nprint('kept')"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"kept\n")


def on_terminal(code: str, interrupt: bool = False) -> tuple[int, str]:
    """Run code with a pseudo-terminal as stderr; its exit code and what the terminal received."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=follower, stdout=subprocess.PIPE, env=environment)
    os.close(follower)
    received = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        received += part
        if interrupt and b"train" in received:
            process.send_signal(signal.SIGINT)
            interrupt = False
    process.communicate()
    os.close(leader)
    return process.returncode, received.decode()


STAGES = """
import threading
from stillhouse.progress import progress
with progress("capture", 2, True) as step:
    step(2, "[bold]as it is[/nonsense]")
with progress("train", None, True) as outer:
    outer()
    with progress("inner", 5, True) as inner:
        inner(5)
assert threading.active_count() == 1
"""


def test_bars_on_a_terminal_follow_each_other_and_nest() -> None:
    code, text = on_terminal(STAGES)
    assert code == 0, text
    assert "2/2" in text
    assert "5/5" in text
    assert "[bold]as it is[/nonsense]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor comes back after each display


def test_interrupted_bar_gives_the_cursor_back() -> None:
    code, text = on_terminal(
        "import time\nfrom stillhouse.progress import progress\nwith progress('train', 9, True): time.sleep(60)", True
    )
    assert code in {-signal.SIGINT, 130}
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "KeyboardInterrupt" in text


def test_a_step_costs_little_and_starts_no_thread() -> None:
    before = threading.active_count()
    with progress("train", 100_000, False) as step:
        started = time.perf_counter()
        for _ in range(100_000):
            step()
    assert time.perf_counter() - started < 1.0
    assert threading.active_count() == before
