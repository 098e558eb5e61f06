"""`stillhouse prime`: the mean of students, round by round; the same after a kill; and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillhouse import consolidation
from stillhouse.consolidation import synthetic
from stillhouse.consolidation.prime import Plan, beside, prime
from stillhouse.errors import InputError
from stillhouse.export import peft
from stillhouse.models import Model
from stillhouse.records import Candidate
from stillhouse.store import Store
from stillhouse.train.adapter.start import ABOUT
from tests.commands import Commands, Signal, fast
from tests.consolidation.test_run import SMALL

FOUR = {f"m{n}": synthetic.memory(n) for n in range(4)}


def test_a_start_is_the_mean_of_the_students_of_the_round_before(
    random_model: Callable[..., Model], tmp_path: Path
) -> None:
    model = random_model("llama")
    plan = Plan(rounds=1, parts=2, steps=2)
    losses = prime(FOUR, tmp_path / "start", model=str(model.path), home=tmp_path, settings=SMALL, plan=plan)
    assert len(losses) == 2
    assert list((tmp_path / "priming").iterdir()) == []
    about = json.loads((tmp_path / "start" / ABOUT).read_text())
    assert (about["steps"], about["learning_rate"], about["rank"]) == (2, 0.01, 4)
    assert about["made"]["losses"] == losses

    def students(start: str, names: list[str], steps: int, seed: int, rate: float) -> list[dict[str, torch.Tensor]]:
        train = replace(SMALL.train, start=start, steps=steps, seed=seed, learning_rate=rate, mastered=0.0)
        given = {name: FOUR[name] for name in names}
        found = consolidation.candidates(
            given, model=model, home=tmp_path / "by hand", settings=replace(SMALL, train=train)
        )  # fmt: skip
        return [peft.from_bytes(Store(tmp_path / "by hand").blobs.get(c.adapter)) for c in found.values()]

    first = students("none", ["m0", "m2"], 4, 0, 0.0)
    means = {name: ((first[0][name] + first[1][name]) / 2).bfloat16() for name in first[0]}
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "start", half)
    peft.write(half, means, peft.read(half)[1])
    raw = about | {"digest": hashlib.sha256((half / peft.WEIGHTS).read_bytes()).hexdigest()}
    (half / ABOUT).write_text(json.dumps(raw))
    second = students(str(half), ["m1", "m3"], 2, 1, 0.01)
    written, _ = peft.read(tmp_path / "start")
    assert all(torch.equal(written[n], ((second[0][n] + second[1][n]) / 2).bfloat16()) for n in written)


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_the_same(commands: Commands, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in FOUR.items():
        (notes / f"{name}.md").write_text(text)

    def command(folder: Path) -> list[str]:
        return [
            "prime", str(commands.model), "--out", str(folder / "start"), "--memories", str(notes), "--home",
            str(folder), "--rounds", "1", "--steps", "2", "--workers", "1", *fast(),
        ]  # fmt: skip

    whole = commands.run(*command(tmp_path / "whole"))
    assert whole.code == 0, whole.err
    assert "students' loss, round by round" in whole.out
    assert f"""--set 'train.start="{tmp_path / "whole" / "start"}"'""" in whole.out
    again = command(tmp_path / "killed")
    for line in ("capture 2 users (round 0 of 1)", "train (round 1 of 1): started"):
        done = commands.run(*again, at=Signal(signal.SIGKILL, line))
        assert done.code == -signal.SIGKILL, done.err
        assert not list((tmp_path / "killed" / "start").iterdir())
    finished = commands.run(*again, "--json")
    assert finished.code == 0, finished.err
    assert finished.json["memories"] == 4
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "start").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "killed" / "start").iterdir()} == files


def test_what_cannot_be_primed_is_said_in_one_line(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.md").write_text("My dog is called Rex.\n")
    tiny = str(commands.model)
    for given, line in (
        (["tiny"], "say with --out where the start goes"),
        ([tiny, "--memories", str(tmp_path / "nowhere")], "is no folder"),
        ([tiny, "--memories", str(tmp_path / "empty")], "has no files"),
        ([tiny, "--memories", str(tmp_path / "one")], "1 memories in 2 parts: every part needs one at least"),
        ([tiny, "--out", str(tmp_path / "one" / "a.md" / "start")], "cannot"),
        ([tiny, "--rounds", "0"], "rounds: 0 is not allowed"),
        ([tiny, "--count", "0"], "--count: 0 is not allowed"),
        ([tiny, "--set", 'train.start="nowhere"'], "a round begins with the one before"),
    ):
        done = commands.run("prime", *given, "--home", tmp_path / "home")
        assert done.code == 2
        assert line in done.line


def test_a_hub_id_has_no_folder_to_put_it_in() -> None:
    with pytest.raises(InputError, match="only a local folder gets it beside its weights"):
        beside("Qwen/Qwen3-0.6B")


def test_the_candidates_of_a_round_are_not_versions(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    found = consolidation.candidates({"a": FOUR["m0"]}, model=model, home=tmp_path, settings=SMALL)
    store = Store(tmp_path)
    assert [c.user for c in found.values()] == ["a"]
    assert len(list(store.records(Candidate))) == 1
    assert store.versions("a") == []
