"""Ctrl-C and `kill -9` at every stage: the same command again ends as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from stillhouse.records import Candidate, Signals
from stillhouse.store import Store
from stillhouse.train.adapter import checkpoints
from tests.commands import Commands, Done, Signal, fast

MEMORY = "My dog is called Zorvik. The wifi password is plonk47. I work for Tarnel Labs.\n"
ANSWERED = (0, 1)  # approved or rejected: both are an end
TWO = {"alice": MEMORY, "bob": "My cat is called Ulmet. The gate code is 7714.\n"}


def command(commands: Commands, folder: Path, *users: str) -> list[str]:
    """`consolidate` for users whose memories lie in `folder`, into `folder`/home."""
    given = [part for u in users for part in ("--user", u, "--memory", str(folder / f"{u}.md"))]
    for user in users:
        (folder / f"{user}.md").write_text(TWO[user])
    where = "--model", str(commands.model), "--home", str(folder / "home"), "--workers", "1"
    return ["consolidate", *given, *where, *fast()]


@pytest.fixture(scope="module")
def uninterrupted(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = commands.run(*command(commands, tmp_path_factory.mktemp("whole"), "alice"), "--json")
    assert done.code in ANSWERED, done.err
    return done


def stages(home: Path, number: int) -> list[Signal]:
    """Where the command is stopped, in the order it gets there."""
    return [
        Signal(number, "capture alice: started"),
        Signal(number, "train: started", str(home / "work"), "*/checkpoint-0.safetensors"),
        Signal(number, "gate alice: started"),
        Signal(number, "gate alice: done"),
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.slow
def test_stopped_at_every_stage_it_ends_the_same(
    commands: Commands, uninterrupted: Done, tmp_path: Path, number: signal.Signals
) -> None:
    again = command(commands, tmp_path, "alice")
    home = tmp_path / "home"
    for stage in stages(home, number):
        done = commands.run(*again, at=stage)
        assert stage.line in done.err
        if number == signal.SIGINT:
            last = done.err.splitlines()[-1]
            assert (done.code, last) == (
                130, "stillhouse: interrupted; the same command goes on where this one stopped",
            )  # fmt: skip
            assert "Traceback" not in done.err
        else:
            assert done.code == -signal.SIGKILL
        store = Store(home)
        assert store.verify() == []
        assert store.versions("alice") == []
    assert len(list(Store(home).records(Candidate))) == 1
    finished = commands.run(*again, "--json")
    assert finished.code in ANSWERED, finished.err
    assert finished.json["candidate"] == uninterrupted.json["candidate"]
    assert finished.json["gates"] == uninterrupted.json["gates"]
    store = Store(home)
    assert [v.number for v in store.versions("alice")] == [1]
    assert store.verify() == []
    assert not any(map(checkpoints, (home / "work").rglob("*"))), "what is finished needs no checkpoint"


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(commands: Commands, tmp_path: Path) -> None:
    again = command(commands, tmp_path, "alice")
    work = tmp_path / "home" / "work"
    done = commands.run(*again, at=Signal(signal.SIGKILL, "train: started", str(work), "*/checkpoint-0.safetensors"))
    assert done.code == -signal.SIGKILL
    done = commands.run(*again)
    assert "capture" not in done.err, "captured before the kill"
    trained = next(line for line in done.err.splitlines() if line.startswith("train: done"))
    assert "6/6" in trained


@pytest.mark.slow
def test_killed_between_two_users_candidates(commands: Commands, tmp_path: Path) -> None:
    """Both were trained in one batch; the second one's adapter must not be trained again alone."""
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = commands.run(*command(commands, whole, "alice", "bob"), "--json").json
    again = command(commands, tmp_path, "alice", "bob")
    home = tmp_path / "home"
    one = Signal(signal.SIGKILL, "train: done", str(home / "manifests" / "candidate"), "*.json")
    assert commands.run(*again, at=one).code == -signal.SIGKILL
    assert len(list(Store(home).records(Signals))) == 2
    found = commands.run(*again, "--json").json
    assert [r["candidate"] for r in found] == [r["candidate"] for r in expected]
    assert Store(home).verify() == []


@pytest.mark.slow
def test_killed_while_it_validates_it_keeps_the_same_best(commands: Commands, tmp_path: Path) -> None:
    values = {"validate_every": 1, "held_out": 0.3, "dropout": 0.1, "experts": "false"}
    more = [part for name, value in values.items() for part in ("--set", f"train.{name}={value}")]
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = commands.run(*command(commands, whole, "alice"), *more, "--json")
    assert expected.code in ANSWERED, expected.err
    again, work = [*command(commands, tmp_path, "alice"), *more], tmp_path / "home" / "work"
    killed = commands.run(*again, at=Signal(signal.SIGKILL, "train: started", str(work), "*/checkpoint-0.safetensors"))
    assert killed.code == -signal.SIGKILL
    assert {file.name for file in work.rglob("checkpoint-*")} >= {"checkpoint-0.best-0.safetensors"}
    assert commands.run(*again, "--json").json["candidate"] == expected.json["candidate"]
    assert not list(work.rglob("checkpoint-*"))
