"""The command line as people and machines use it: exit codes, one JSON object or readable lines, progress on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, Commands, fast
from tests.consolidated import Consolidated

VERBS = [
    ["demo"], ["consolidate"], ["ask"], ["adapters"], ["adapters", "list"], ["adapters", "show"],
    ["adapters", "rollback"], ["artifacts"], ["artifacts", "show"], ["store"], ["store", "verify"],
    ["store", "rebuild"], ["forget"],
]  # fmt: skip


def test_the_real_thing_from_outside(tmp_path: Path) -> None:
    """One process as a user starts it; the other tests fork theirs."""
    command = [sys.executable, "-m", "stillhouse.cli", "adapters", "list", "--home", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ})
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("interpreter", ["usual", "without the private function"])
def test_a_command_ends_at_once_but_not_before_what_it_started(interpreter: str, tmp_path: Path) -> None:
    script = """if True:
        import atexit, sys, threading, time
        from stillhouse import cli
        if sys.argv[2] != "usual":
            del atexit._run_exitfuncs
        class Slow:
            def __del__(self):
                print("taken apart")
        slow = Slow()
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
        sys.argv = ["stillhouse", "adapters", "show", "--user", "nobody", "--home", sys.argv[1]]
        cli.program()
    """
    command = [sys.executable, "-c", script, str(tmp_path), interpreter]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    slowly = "" if interpreter == "usual" else "taken apart\n"
    assert (done.returncode, done.stdout) == (2, f"thread\nat exit\n{slowly}")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_command_has_help(commands: Commands, verb: list[str]) -> None:
    done = commands.run(*verb, "--help")
    assert done.code == 0
    assert done.out.startswith("usage: stillhouse " + " ".join(verb))
    assert done.err == ""


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["ask"], ["adapters"], ["consolidate", "--user", "a"], ["ask", "a", "--steps"]]
)
def test_wrong_arguments_show_the_usage(commands: Commands, argv: list[str]) -> None:
    done = commands.run(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: stillhouse")
    assert "Traceback" not in done.err


def test_the_version_is_said(commands: Commands) -> None:
    done = commands.run("--version")
    assert done.code == 0
    assert done.out.startswith("stillhouse ")


def test_a_refused_consolidation_is_exit_code_one(commands: Commands, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("My dog is called Zorvik.")
    argv = commands.consolidating("alice", notes, tmp_path / "home", *fast(1))
    done = commands.run(*argv)
    assert done.code == 1
    *progress, last = done.err.splitlines()
    assert last.startswith("stillhouse: 'alice' v1 rejected by ")
    assert [line.split(":")[0] for line in progress] == [
        "capture alice", "capture alice", "train", "train", "gate alice", "gate alice",
    ]  # fmt: skip
    assert done.out.startswith("alice v1: REJECTED\n")
    again = commands.run(*argv, "--json")
    assert again.code == 1
    assert again.line == last, "with --json there is no progress"
    assert (again.json["approved"], again.json["version"]) == (False, 1)
    assert set(again.json["failed"]) <= {"recall", "unknown"}
    shown = commands.run("adapters", "list", "--home", tmp_path / "home").out
    assert shown.startswith("  alice v1  rejected  ")
    assert commands.run("adapters", "rollback", "--user", "alice", "--to", "1", "--home", tmp_path / "home").code == 1


def test_an_adapter_can_be_listed_shown_and_asked(commands: Commands, consolidated: Consolidated) -> None:
    home = ("--home", consolidated.home)
    version = consolidated.result.version
    assert commands.run("adapters", "list", *home).out.startswith("* alice v1  approved  ")
    (row,) = commands.run("adapters", "list", "--user", "alice", *home, "--json").json
    assert (row["champion"], row["candidate"]) == (True, version.candidate)
    shown = commands.run("adapters", "show", "--user", "alice", *home).out
    assert "alice v1: approved" in shown
    assert "pass  recall" in shown
    assert str(consolidated.result.folder) in shown
    found = commands.run("adapters", "show", "--user", "alice", "--number", "1", *home, "--json").json
    assert {g["gate"] for g in found["gates"]} >= {"recall", "swap", "drift"}
    assert commands.run("adapters", "show", "--user", "alice", "--number", "7", *home).line.endswith("there are: v1")
    done = commands.run("ask", "--user", "alice", "What is my dog called?", *home)
    assert (done.code, done.out.strip(" .\n"), done.err) == (0, "Zorvik", "")
    reply = commands.run("ask", "--user", "alice", "What is my dog called?", *home, "--json").json
    assert (reply["path"], reply["version"]) == ("adapted", 1)


def test_records_are_shown_by_the_start_of_their_digest(commands: Commands, consolidated: Consolidated) -> None:
    for digest, kind in (
        (consolidated.result.version.candidate, "candidate"),
        (consolidated.result.version.verdict, "verdict"),
    ):
        done = commands.run("artifacts", "show", digest[:8], "--home", consolidated.home)
        assert json.loads(done.out)["digest"] == digest
        assert json.loads(done.out)["kind"] == kind
    assert commands.run("store", "verify", "--home", consolidated.home).out == "clean\n"


def test_a_reader_who_has_enough_is_no_error(commands: Commands, tmp_path: Path) -> None:
    script = (
        f"{sys.executable} -m stillhouse.cli store verify --home {tmp_path / 'home'} | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.strip(), done.stderr) == ("0", "")
    assert commands.run("store", "verify", "--home", tmp_path / "home", "--json").json["clean"]


def test_the_package_is_a_program() -> None:
    """As `torchrun -m stillhouse` starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "stillhouse", "--version"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.stdout.startswith("stillhouse "), done.stderr, done.returncode) == (True, "", 0)


def test_a_batch_that_is_no_json_is_one_line(tmp_path: Path) -> None:
    """By hand: a worker's own batches come over a pipe of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "stillhouse", "jobs", "batch", "--home", str(tmp_path)],
        input='{"bad"\n', capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr == "stillhouse: standard input: a line of JSON was expected, not '{\"bad\"\\n'\n"


def test_what_is_forgotten_is_gone(commands: Commands, tmp_path: Path) -> None:
    notes, home = tmp_path / "notes.md", tmp_path / "home"
    notes.write_text("My dog is called Zorvik.")
    argv = commands.consolidating("al/ice", notes, home, *fast(1))
    assert commands.run(*argv, "--json").code in (0, 1)
    counts = commands.run("forget", "--user", "al/ice", "--home", home, "--json").json
    assert counts["remaining"] == 0
    left = [p for p in home.rglob("*") if p.is_file() and p.suffix != ".duckdb" and b"Zorvik" in p.read_bytes()]
    assert left == []
    assert list((home / "work").iterdir()) == []
    assert commands.run("store", "verify", "--home", home).out == "clean\n"
