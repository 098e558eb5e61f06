"""Users shared out among processes get what each would get alone; killed, refused or died, nothing is lost."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from stillhouse import prestart
from stillhouse.compute import memory
from stillhouse.consolidation import sharding
from stillhouse.consolidation.settings import Settings
from stillhouse.consolidation.sharding import Shares, processes
from stillhouse.errors import InputError, ModelError
from stillhouse.models import Model
from stillhouse.prestart import PROCESS, environment, started_ahead
from stillhouse.processes import Process, python_module
from stillhouse.progress import Step
from stillhouse.store import Store
from tests.commands import Commands, Signal, fast

MEMORIES = {
    "alice": "My dog is called Zorvik. The wifi password is plonk47.\n",
    "bob": "My cat is called Ulmet. The gate code is 7714.\n",
    "carol": "My sister's name is Quelia. I work for Tarnel Labs.\n",
}


@dataclass(frozen=True)
class Sized:
    """As much of a model as is asked for its size."""

    device: torch.device
    network: Any


def sized(bytes_: int, device: str = "cpu") -> Model:
    network = SimpleNamespace(get_memory_footprint=lambda: bytes_)
    return cast(Model, Sized(torch.device(device), network))


def command(commands: Commands, folder: Path, *users: str) -> list[str]:
    for user in users:
        (folder / f"{user}.md").write_text(MEMORIES[user])
    given = [part for u in users for part in ("--user", u, "--memory", str(folder / f"{u}.md"))]
    return ["consolidate", *given, "--model", str(commands.model), "--home", str(folder / "home"), *fast()]


@pytest.mark.slow
def test_killed_and_run_again_everybody_has_what_they_would_have_alone(commands: Commands, tmp_path: Path) -> None:
    again = [*command(commands, tmp_path, *MEMORIES), "--workers", "2"]
    home = tmp_path / "home"
    at = Signal(signal.SIGKILL, "train 3 users: started", str(home / "work"), "*/checkpoint-0.safetensors")
    killed = commands.run(*again, at=at)
    assert killed.code == -signal.SIGKILL
    assert "capture 3 users: done" in killed.err
    assert Store(home).verify() == []
    done = commands.run(*again, "--json")
    assert done.code in (0, 1), done.err
    assert [row["user"] for row in done.json] == list(MEMORIES)
    assert set(done.json[0]["seconds"]) == {"capture", "train", "gate"}
    for row in done.json:
        alone = tmp_path / row["user"]
        alone.mkdir()
        expected = commands.run(*command(commands, alone, row["user"]), "--json").json
        assert row["gates"].keys() == expected["gates"].keys()
        if row["user"] == "alice":  # the others are trained in one batch, which rounds otherwise
            assert row["candidate"] == expected["candidate"]
    assert [v.number for user in MEMORIES for v in Store(home).versions(user)] == [1, 1, 1]
    assert Store(home).verify() == []


def test_what_is_wrong_is_said_once_whichever_process_found_it(commands: Commands, tmp_path: Path) -> None:
    given = [*command(commands, tmp_path, "alice", "bob"), "--json"]
    done = commands.run(*given, "--workers", "2", "--set", "capture.max_memory_tokens=5")
    assert done.code == 2
    assert re.search(r"user '(alice|bob)': memory has [0-9]+ tokens; at most 5 are taken at once", done.line)
    done = commands.run(*given, "--workers", "-1")
    assert (done.code, done.line) == (
        2, "stillhouse: workers: -1 is not allowed; a number of processes, or 0 for as many as fit",
    )  # fmt: skip


def test_a_process_that_dies_is_said() -> None:
    with Process(python_module("stillhouse.nothing_of_this_name")) as process:
        process.send({"stage": "capture"})
        with pytest.raises(ModelError, match=r"a worker process died \(exit code 1\); run it again to go on"):
            list(process.reports())


def test_as_many_processes_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "CORES", 8)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 64 << 30)
    assert processes(sized(30 << 20), 16, 0) == 8
    assert processes(sized(30 << 20), 3, 0) == 3
    assert processes(sized(3 << 30), 16, 0) == 2
    monkeypatch.setattr(memory, "memory_bytes", lambda: 8 << 30)
    assert processes(sized(30 << 20), 16, 0) == 2, "a small model's process is not small"
    assert processes(sized(14 << 30), 16, 0) == 1
    assert processes(sized(30 << 20, "cuda"), 16, 0) == 1
    assert processes(sized(14 << 30), 16, 5) == 5
    assert processes(sized(14 << 30), 1, 5) == 1
    with pytest.raises(InputError, match="workers: -2 is not allowed"):
        processes(sized(1), 1, -2)


def test_what_another_process_finds_wrong_ends_this_ones_share(tmp_path: Path) -> None:
    def own(users: Sequence[str], stage: str, step: Step) -> None:
        assert (stage, users) == ("capture", ["alice"])
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)
            step(0)

    nowhere = str(tmp_path / "nothing")
    memories = {user: MEMORIES[user] for user in ("alice", "bob")}
    with (
        Shares(tmp_path, nowhere, Settings(), memories, 2, own) as shares,
        pytest.raises(ModelError, match="no such model"),
    ):
        shares.run("capture", lambda n=1, note="": None)


def children() -> set[str]:
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")
def test_processes_are_on_their_way_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(prestart, "ACCELERATORS", ())
    before = children()
    with started_ahead(3, 0):
        early = children() - before
        assert len(early) == 1, "this process has a share too"
        with Process(PROCESS, environment(2, 1)):
            assert len(children() - before) == 2, "that one may take both cores"
        with Process(PROCESS, environment(2, 2)):
            assert children() - before == early
            with Process(PROCESS, environment(2, 2)):
                assert len(children() - before) == 2
        assert children() == before
    with started_ahead(3, 4):
        assert len(children() - before) == 2, "no more than users"
    assert children() == before, "nobody needed them"
    monkeypatch.setattr(prestart, "ACCELERATORS", ("null",))
    for users, workers in ((1, 0), (3, 1), (3, -1), (3, 0)):
        with started_ahead(users, workers):
            assert children() == before
