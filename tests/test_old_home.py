"""What the program wrote before its package was cut anew is read unchanged, and nothing is made a second time.

`data/old_home.tar.gz` was made by `data/old_home.sh` with the code of commit 3656c1f. In it: `home` (alice approved,
bob refused, carol's job queued; keys, a journal, events), `calibrated` (thresholds with their trials), `distilled` (one
student of `recipe.toml`). Where a digest changes on purpose (the prompts, the model that ships), CHANGELOG.md says so,
old results are no longer found, and this home is made again.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from tests.commands import ROOT, Commands

MEMORIES = {
    "alice": "My dog is called Zorvik. The wifi password is plonk47.\n",
    "bob": "My cat is called Ulmet. The gate code is 7714.\n",
}
SETTINGS = {
    "alice": ("--set", "train.rank=4", "--set", "train.alpha=8"),
    "bob": ("--set", "train.rank=4", "--set", "train.alpha=8", "--set", "train.steps=1", "--set", "train.warmup=0"),
}
CALIBRATION = {
    "train.rank": 2, "train.alpha": 4, "train.steps": 1, "train.warmup": 0, "train.facts": 2, "train.unknowns": 1,
    "train.anchors": 0, "train.anchor_rows": 0, "capture.wordings": 4, "capture.rounds": 0,
    "capture.unknown_per_statement": 1, "capture.decoys": 2, "capture.anchor_texts": 0, "capture.anchor_prompts": 1,
    "capture.max_answer_tokens": 6,
}  # fmt: skip
PASSING = {"locks", "registry.duckdb", "fingerprints.json", ".users.json", "events"}  # no results: they may be written


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder in which the old program left its homes."""
    with tarfile.open(ROOT / "tests" / "data" / "old_home.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def results(folder: Path) -> dict[str, str]:
    """The digest of every file that is a result."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not PASSING & set(path.parts)
    }


def test_versions_are_listed_shown_and_verified(commands: Commands, old: Path) -> None:
    home = old / "home"
    before = results(home)
    for user, approved in (("alice", True), ("bob", False)):
        listed = commands.run("adapters", "list", "--user", user, "--home", home, "--json").json
        assert [(v["number"], v["approved"]) for v in listed] == [(1, approved)]
        shown = commands.run("adapters", "show", "--user", user, "--number", "1", "--home", home)
        assert (shown.code, shown.err) == (0, "")
    assert commands.run("store", "verify", "--home", home).out == "clean\n"
    (home / "registry.duckdb").unlink()
    rebuilt = commands.run("store", "rebuild", "--home", home)
    assert rebuilt.code == 0, rebuilt.err
    assert commands.run("store", "verify", "--home", home).out == "clean\n"
    assert results(home) == before


def test_an_adapter_answers(commands: Commands, old: Path) -> None:
    question = ("ask", "What is my dog called?", "--home", old / "home", "--model", commands.model, "--user", "alice")
    reply = commands.run(*question, "--json").json
    assert (reply["answer"], reply["path"], reply["version"]) == ("Zorvik", "adapted", 1)


@pytest.mark.parametrize("user", MEMORIES)
def test_signals_candidate_and_verdict_are_there_already(commands: Commands, old: Path, user: str) -> None:
    home, memory = old / "home", old / f"{user}.md"
    memory.write_text(MEMORIES[user])
    before = results(home)
    done = commands.run(*commands.consolidating(user, memory, home), *SETTINGS[user])
    assert done.code == (0 if user == "alice" else 1), done.err
    assert done.out.startswith(f"{user} v1: {'approved' if user == 'alice' else 'REJECTED'}")
    assert not [line for line in done.err.splitlines() if line.startswith(("capture", "train", "gate"))], done.err
    assert results(home) == before


def test_jobs_keys_and_events_are_listed(commands: Commands, old: Path) -> None:
    home = old / "home"
    jobs = commands.run("jobs", "list", "--home", home, "--json").json
    assert {(job["user"], job["state"]) for job in jobs} == {("carol", "queued"), ("bob", "cancelled")}
    keys = commands.run("keys", "list", "--home", home, "--json").json
    assert [(key["scope"], key["user"], bool(key["revoked"])) for key in keys] == [
        ("user", "alice", False), ("user", "bob", True), ("admin", "", False),
    ]  # fmt: skip
    events = commands.run("events", "--home", home, "--json")
    assert events.code == 0, events.err
    assert "carol" in events.out


def test_nothing_is_calibrated_again(commands: Commands, old: Path) -> None:
    """Neither with its trials nor, where a trial is gone, with the adapter that was judged in it."""
    home = old / "calibrated"
    before = results(home)
    settings = [part for key, value in CALIBRATION.items() for part in ("--set", f"{key}={value}")]
    again: tuple[str | Path, ...] = (
        "calibrate", "tiny", "--home", home, "--good", "2", "--bad", "1", "--together", "3", *settings, "--json",
    )  # fmt: skip
    done = commands.run(*again)
    assert done.code == 0, done.err
    assert results(home) == before
    trained = sorted(home.rglob("*.safetensors"))
    assert len(trained) == 2
    times = [path.stat().st_mtime_ns for path in trained]
    for path in sorted(home.glob("calibration/*/*.json")):
        if '"sabotage":""' in path.read_text():
            path.unlink()
    assert len(results(home)) == len(before) - 2
    assert commands.run(*again).code == 0
    assert results(home).keys() == before.keys()
    assert [path.stat().st_mtime_ns for path in trained] == times


def test_a_student_is_found(commands: Commands, old: Path) -> None:
    before = results(old / "distilled")
    done = commands.run("distill", old / "recipe.toml", "--home", old / "distilled")
    assert done.code == 0, done.err
    assert done.out.startswith("small: 100% of the teacher, 1 steps")
    assert not done.err, "nothing was captured and nothing trained"
    assert results(old / "distilled") == before
