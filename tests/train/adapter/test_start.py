"""Where a student begins: the base's own start, one that is named, or nothing; and what is wrong with a wrong one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillhouse.errors import InputError, ModelError
from stillhouse.export import peft
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.train.adapter import RATE, STEPS, Config, about, from_zero, resolved, train
from stillhouse.train.adapter.start import ABOUT, FOLDER, Start, begin, find, write
from tests.train.adapter.test_student import Killed, killed_after, same, signals

SHAPE = LoraConfig(4, 8.0)
CONFIG = Config(rank=4, alpha=8.0, facts=3, unknowns=2, anchors=1, mastered=0.0, warmup=1, curvature_tokens=96,
    checkpoint_every=2, precision="float32",
)  # fmt: skip


@pytest.fixture(params=["llama", "qwen3_moe"])
def model(request: pytest.FixtureRequest, random_model: Callable[..., Model], tmp_path: Path) -> Model:
    """In a folder of its own, so that a start may lie beside its weights."""
    found: Model = random_model(request.param)
    copied = shutil.copytree(found.path, tmp_path / "model")
    return replace(found, path=copied)


def made(model: Model, folder: Path, seed: int = 1, steps: int = 3) -> Path:
    """A start of `model` whose adapter is anything but zero."""
    bank = AdapterBank(model.network, 1, SHAPE)
    try:
        bank.reset(0, seed)
        with torch.no_grad():
            for site in bank.sites:
                site.b.normal_(std=0.02, generator=torch.Generator().manual_seed(seed))
        write(folder, model, bank.export(0), bank.adapter_config(model.ref), SHAPE, steps, 0.004, {"rounds": 1})
    finally:
        bank.detach()
    return folder


def found(model: Model, which: str, shape: LoraConfig = SHAPE) -> Start | None:
    return find(model, which, shape)


def test_the_bases_own_is_found_by_itself(model: Model) -> None:
    assert found(model, "auto") is None
    made(model, model.path / FOLDER)
    start = found(model, "auto")
    assert start is not None
    assert (start.steps, start.learning_rate, start.rank) == (3, 0.004, 4)
    assert found(model, "none") is None
    assert found(model, "auto", LoraConfig(2)) is None
    assert found(model, "auto", replace(SHAPE, targets="mlp")) is None
    assert found(model, "auto", replace(SHAPE, rank=9)) == start
    assert found(replace(model, fingerprint="f" * 64), "auto") is None


def test_one_that_is_named_has_to_fit(model: Model, tmp_path: Path) -> None:
    folder = str(made(model, tmp_path / "mine"))
    assert found(model, folder) is not None
    for wrong, shape, line in (
        (replace(model, fingerprint="f" * 64), SHAPE, "for another base .* this one is ffffffffffff"),
        (model, LoraConfig(2), "of rank 4, targets 'all', experts True, which does not fit"),
    ):
        with pytest.raises(InputError, match=line):
            find(wrong, folder, shape)
    with pytest.raises(InputError, match="is no start; 'auto', 'none' or a folder of `stillhouse prime`"):
        found(model, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 9, "base": "x"}', b"\xff"])
def test_a_damaged_one_is_named(model: Model, tmp_path: Path, content: bytes) -> None:
    folder = made(model, tmp_path / "mine")
    (folder / ABOUT).write_bytes(content)
    with pytest.raises(InputError, match=r"start\.json' is (damaged|of format 9)"):
        found(model, str(folder))


def test_weights_that_are_others_are_refused(model: Model, tmp_path: Path) -> None:
    folder = made(model, tmp_path / "mine")
    start = found(model, str(folder))
    made(model, tmp_path / "other", seed=2)
    shutil.copy(tmp_path / "other" / peft.WEIGHTS, folder / peft.WEIGHTS)
    bank = AdapterBank(model.network, 1, SHAPE)
    try:
        with pytest.raises(ModelError, match=r"is not what start\.json says"):
            begin(bank, 0, 0, start)
    finally:
        bank.detach()


def test_a_larger_rank_begins_with_it_and_has_the_rest_to_learn(model: Model, tmp_path: Path) -> None:
    start = found(model, str(made(model, tmp_path / "mine")))
    bank = AdapterBank(model.network, 2, LoraConfig(6, 12.0))
    ids_BT = torch.arange(10)[None]
    try:
        begin(bank, 0, 0, start)
        begin(bank, 1, 0, None)
        for site in bank.sites:
            a_NRI, b_NOR = site.as_rows(site.a, site.b)
            assert not (a_NRI[0] == 0).all(-1).any(), "a row of zeros whose B is zero never learns"
            assert bool((b_NOR[0] != 0).any())
            assert not bool((b_NOR[1] != 0).any())
        with bank.rows([0]), torch.no_grad():
            larger = model.network(ids_BT).logits
    finally:
        bank.detach()
    same_rank = AdapterBank(model.network, 1, SHAPE)
    try:
        begin(same_rank, 0, 0, start)
        with same_rank.rows([0]), torch.no_grad():
            torch.testing.assert_close(model.network(ids_BT).logits, larger, atol=1e-4, rtol=1e-4)
    finally:
        same_rank.detach()


def test_steps_and_rate_are_what_the_start_was_made_for_unless_somebody_says(model: Model) -> None:
    zero = resolved(model, CONFIG)
    assert (zero.start, zero.steps, zero.learning_rate) == ("none", STEPS, RATE)
    assert about(model, zero)["start"] == ""
    folder = made(model, model.path / FOLDER)
    ready = resolved(model, CONFIG)
    assert (ready.start, ready.steps, ready.learning_rate) == (str(folder), 3, 0.004)
    assert resolved(model, ready) == ready
    said = resolved(model, replace(CONFIG, steps=7, learning_rate=0.01))
    assert (said.steps, said.learning_rate) == (7, 0.01)
    assert (from_zero(ready).start, from_zero(ready).steps) == ("none", STEPS)
    assert from_zero(zero) == zero
    before = about(model, ready)
    assert len(before["start"]) == 64
    assert before == about(model, CONFIG)
    made(model, folder, seed=2)
    assert about(model, ready)["start"] != before["start"], "another start gives another student"


def test_training_begins_there_and_a_killed_run_goes_on(model: Model, tmp_path: Path) -> None:
    data = [signals(model, seed) for seed in (1, 2)]
    start = made(model, tmp_path / "mine")
    config = replace(CONFIG, start=str(start))
    whole = train(model, data, config)
    assert [t.steps for t in whole] == [3, 3]
    from_nothing = train(model, data, replace(CONFIG, steps=3))
    assert whole[0].losses[0] != from_nothing[0].losses[0]
    moved = max(float((t - peft.read(start)[0][name].float()).abs().max()) for name, t in whole[0].tensors.items())
    assert 0 < moved < 0.1
    (tmp_path / "work").mkdir()
    with pytest.raises(Killed):
        train(model, data, config, tmp_path / "work", killed_after(2))
    assert all(map(same, train(model, data, config, tmp_path / "work"), whole))


def test_the_folder_says_how_it_was_made(model: Model, tmp_path: Path) -> None:
    about = json.loads((made(model, tmp_path / "mine") / ABOUT).read_text())
    assert about["base"] == model.fingerprint
    assert about["made"] == {"rounds": 1}
    assert set(about) == {"format", "base", "digest", "rank", "targets", "experts", "steps", "learning_rate", "made"}


def test_the_model_that_ships_has_one(shipped: Model) -> None:
    start = find(shipped, "auto", LoraConfig())
    assert start is not None, "it was made for other weights: make tiny-start"
    assert resolved(shipped, Config()).steps == start.steps < STEPS
