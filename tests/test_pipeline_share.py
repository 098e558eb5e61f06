"""Users shared out among processes get what each would get alone; killed, refused or died, nothing is lost."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from stillhouse import _pipeline_share, models
from stillhouse._pipeline_share import processes
from stillhouse.errors import InputError, ModelError
from stillhouse.models import Model
from stillhouse.processes import Process
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
    with Process("stillhouse.nothing_of_this_name") as process:
        process.send({"stage": "capture"})
        with pytest.raises(ModelError, match=r"a worker process died \(exit code 1\); run it again to go on"):
            list(process.told())


def test_as_many_processes_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pipeline_share, "CORES", 8)
    monkeypatch.setattr(models, "memory_bytes", lambda: 64 << 30)
    assert processes(sized(30 << 20), 16, 0) == 8
    assert processes(sized(30 << 20), 3, 0) == 3
    assert processes(sized(3 << 30), 16, 0) == 2
    monkeypatch.setattr(models, "memory_bytes", lambda: 8 << 30)
    assert processes(sized(30 << 20), 16, 0) == 2, "a small model's process is not small"
    assert processes(sized(14 << 30), 16, 0) == 1
    assert processes(sized(30 << 20, "cuda"), 16, 0) == 1
    assert processes(sized(14 << 30), 16, 5) == 5
    assert processes(sized(14 << 30), 1, 5) == 1
    with pytest.raises(InputError, match="workers: -2 is not allowed"):
        processes(sized(1), 1, -2)
