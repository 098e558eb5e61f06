"""Trials are made once, go on after a kill, and say in one line which of their files is damaged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.capture import memory
from stillhouse.consolidation.calibrate import Plan, trials
from stillhouse.errors import StoreError
from stillhouse.gating.thresholds import HONEST
from stillhouse.models import Model
from stillhouse.train import adapter

PLAN = Plan(
    good=2, bad=1, together=2,
    capture=memory.Config(wordings=2, rounds=0, unknown_per_statement=1, decoys=2, anchor_texts=0, anchor_prompts=1,
                          max_answer_tokens=4),
    train=adapter.Config(rank=2, steps=1, warmup=0, facts=2, unknowns=1, anchors=0, anchor_rows=0),
)  # fmt: skip
MEMORIES = ["My dog is called Zorvik.", "My cat is called Ulmet."]
JOBS = [(0, HONEST)]


@pytest.fixture(scope="module")
def finished(random_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trial."""
    folder = tmp_path_factory.mktemp("trials")
    trials(random_model("llama"), MEMORIES, PLAN, folder, jobs=JOBS)
    return folder


def test_a_killed_run_goes_on_where_it_was(random_model: Callable[..., Model], finished: Path, tmp_path: Path) -> None:
    model, steps = random_model("llama"), list[str]()
    (expected,) = trials(model, MEMORIES, PLAN, finished, lambda n, note: steps.append(note), jobs=JOBS)
    assert steps == ["honest 0"], "all was there"

    def killed(n: int, note: str) -> None:
        if note.startswith(stop):
            raise KeyboardInterrupt
        steps.append(note)

    for stop in ("capturing memory 1", "training", "honest 0"):  # noqa: B007 - `killed` reads it
        with pytest.raises(KeyboardInterrupt):
            trials(model, MEMORIES, PLAN, tmp_path, killed, jobs=JOBS)
    stop = "nothing"
    assert trials(model, MEMORIES, PLAN, tmp_path, killed, jobs=JOBS) == [expected]
    assert [note for note in steps if note.startswith("capturing")] == ["capturing memory 0", "capturing memory 1"]
    files = {file.relative_to(finished) for file in finished.rglob("*") if file.is_file()}
    assert {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()} == files


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"gates": []}'])
@pytest.mark.parametrize("pattern", ["*.json", "*/*.safetensors", "*/study.json", "*/signals.parquet"])
def test_a_damaged_file_is_one_clear_error(
    random_model: Callable[..., Model], finished: Path, tmp_path: Path, pattern: str, content: bytes
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "trials"))
    if pattern != "*.json":
        next(folder.glob("*.json")).unlink()  # of a finished trial nothing else is read
    for file in folder.glob(pattern):
        file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        trials(random_model("llama"), MEMORIES, PLAN, folder, jobs=JOBS)
    error = re.fullmatch(r"finished work is damaged.*; remove '(.*)' and run the command again", str(caught.value))
    assert error is not None, caught.value
    assert Path(error[1]).is_file()
