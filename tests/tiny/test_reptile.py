"""Reptile: a start is the mean of students, round by round."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillhouse import consolidation
from stillhouse.consolidation import synthetic
from stillhouse.errors import InputError
from stillhouse.export import peft
from stillhouse.models import Model
from stillhouse.records import Candidate
from stillhouse.store import Store
from stillhouse.train.adapter.start import ABOUT
from tests.consolidation.test_run import SMALL
from tiny.reptile import Plan, prime

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
@pytest.mark.parametrize(
    ("plan", "line"),
    [
        ({"parts": 5}, "4 memories in 5 parts: every part needs one at least"),
        ({"rounds": 0}, "rounds: 0 is not allowed"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(plan: dict[str, int], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        prime(FOUR, tmp_path / "start", home=tmp_path, settings=SMALL, plan=Plan(**plan))


def test_the_candidates_of_a_round_are_not_versions(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = random_model("llama")
    found = consolidation.candidates({"a": FOUR["m0"]}, model=model, home=tmp_path, settings=SMALL)
    store = Store(tmp_path)
    assert [c.user for c in found.values()] == ["a"]
    assert len(list(store.records(Candidate))) == 1
    assert store.versions("a") == []
