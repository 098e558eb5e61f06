"""Training: killed and resumed is the same to the last bit, together is the same as alone, and who is done leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.capture.memory.teacher import MemoryTeacher, example
from stillhouse.config import as_dict
from stillhouse.errors import InputError, ModelError
from stillhouse.models import Model
from stillhouse.records import BestStep, digest
from stillhouse.signals import DistillArtifact, Kind
from stillhouse.signals.sparsify import Sparsity
from stillhouse.text.prompts import without_memory
from stillhouse.train.adapter import Config, Trained, checkpoints, total_steps, train

CONFIG = Config(rank=4, steps=7, warmup=2, facts=3, unknowns=2, anchors=1, mastered=0.0, checkpoint_every=3,
    anchor_rows=2, anchor_tokens=16, anchor_weight=0.1, anchored=10.0, precision="float32",
)  # fmt: skip
Make = Callable[..., Model]


class Killed(Exception):
    """Stands for the end of the process."""


def signals(model: Model, seed: int, n: int = 5) -> list[DistillArtifact]:
    """Examples of all kinds, as a teacher with `seed`'s memory would write them."""
    reading = MemoryTeacher(model, f"Rex is number {seed}. The gate of Ghent is {seed * 7}.", Sparsity(8, 2), seed)
    asked = [f"What is fact {seed} {i}{' of it all' * (i % 3)}?" for i in range(n)]
    kinds: list[Kind] = ["fact", "fact", "unknown", "anchor", "fact"]
    return [example(model, a, kinds[i % 5], None) for i, a in enumerate(reading.answer(asked, 3 + seed))]


def same(left: Trained, right: Trained) -> bool:
    return left.losses == right.losses and all(torch.equal(t, right.tensors[name]) for name, t in left.tensors.items())


def killed_after(steps: int) -> Callable[[int, str], None]:
    done = 0

    def on_step(n: int, note: str) -> None:
        nonlocal done
        done += n
        if done >= steps:
            raise Killed

    return on_step


@pytest.fixture(params=["llama", "qwen3_moe"])
def model(request: pytest.FixtureRequest, random_model: Make) -> Model:
    return random_model(request.param)


def test_killed_and_resumed_is_bit_equal_to_uninterrupted(model: Model, tmp_path: Path) -> None:
    data = [signals(model, seed) for seed in (1, 2)]
    whole = train(model, data, CONFIG)
    assert [t.steps for t in whole] == [7, 7]
    for steps in (1, 4, 5):
        with pytest.raises(Killed):
            train(model, data, CONFIG, tmp_path, killed_after(steps))
    seen: list[tuple[int, str]] = []
    resumed = train(model, data, CONFIG, tmp_path, lambda n, note: seen.append((n, note)))
    assert seen[0] == (3, "resumed")
    assert sum(n for n, _ in seen) == 7
    assert all(map(same, resumed, whole))


def test_a_run_that_had_ended_is_not_run_again(model: Model, tmp_path: Path) -> None:
    data = [signals(model, 1)]
    first = train(model, data, CONFIG, tmp_path)
    seen: list[tuple[int, str]] = []
    again = train(model, data, CONFIG, tmp_path, lambda n, note: seen.append((n, note)))
    assert seen == [(7, "resumed")]
    assert same(first[0], again[0])


def test_users_together_get_what_each_gets_alone(model: Model) -> None:
    data = [signals(model, seed, n) for seed, n in ((1, 5), (2, 8), (3, 3))]
    together = train(model, data, CONFIG)
    for own, found in zip(data, together, strict=True):
        (alone,) = train(model, [own], CONFIG)
        assert alone.steps == found.steps
        torch.testing.assert_close(torch.tensor(found.losses), torch.tensor(alone.losses), atol=1e-4, rtol=1e-4)
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, atol=1e-4, rtol=2**-7)  # a step of bfloat16


def test_group_after_group_is_the_same_as_all_in_one(model: Model, tmp_path: Path) -> None:
    data = [signals(model, seed) for seed in (1, 2, 3)]
    at_once, in_groups = train(model, data, CONFIG), replace(CONFIG, together=2)
    assert (total_steps([3], CONFIG, model.device), total_steps([3], in_groups, model.device)) == (7, 14)
    assert total_steps([3, 1], in_groups, model.device) == 21
    with pytest.raises(Killed):
        train(model, data, in_groups, tmp_path, killed_after(11))
    assert [f.name for f in checkpoints(tmp_path)] == ["checkpoint-0.safetensors", "checkpoint-1.safetensors"]
    for one, other in zip(at_once, train(model, data, in_groups, tmp_path), strict=True):
        torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), atol=1e-4, rtol=1e-4)


def test_in_bfloat16_it_learns_the_same_and_the_network_is_as_it_was(model: Model) -> None:
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    data = [signals(model, 1)]
    (exact,), (half,) = train(model, data, CONFIG), train(model, data, replace(CONFIG, precision="bfloat16"))
    torch.testing.assert_close(torch.tensor(half.losses), torch.tensor(exact.losses), atol=0.05, rtol=0.05)
    assert half.losses != exact.losses
    assert all(torch.equal(p, before[name]) for name, p in model.network.named_parameters())
    assert all(t.dtype == torch.float32 for t in half.tensors.values())


def test_what_is_trained_loses_nothing_in_bfloat16(model: Model) -> None:
    (trained,) = train(model, [signals(model, 1)], CONFIG)
    assert all(torch.equal(t.bfloat16().float(), t) for t in trained.tensors.values())
    assert any(bool(t.any()) for name, t in trained.tensors.items() if "lora_B" in name)


def test_who_has_mastered_everything_leaves_the_batch(model: Model) -> None:
    easy, hard = signals(model, 1, 2), signals(model, 2, 8)
    config = replace(CONFIG, steps=60, learning_rate=2e-2, mastered=0.5, facts=8, unknowns=8)
    notes: list[str] = []
    first, second = train(model, [easy, hard], config, on_step=lambda n, note: notes.append(note.split(", ")[1]))
    assert first.steps < second.steps <= 60
    left = second.steps - first.steps
    assert notes == ["0/2 mastered"] * (first.steps - 1) + ["1/2 mastered"] * left + ["2/2 mastered"]
    (alone,) = train(model, [easy], config)
    assert (alone.steps, len(first.losses)) == (first.steps, first.steps)
    for name, tensor in alone.tensors.items():  # five times the default learning rate
        torch.testing.assert_close(first.tensors[name], tensor, atol=1e-3, rtol=2**-7)


def test_killed_after_one_user_had_left_gives_both_their_adapters(model: Model, tmp_path: Path) -> None:
    data = [signals(model, 1, 2), signals(model, 2, 8)]
    config = replace(CONFIG, steps=60, learning_rate=1e-2, mastered=0.3, facts=8, unknowns=8, checkpoint_every=2)
    whole = train(model, data, config)
    with pytest.raises(Killed):
        train(model, data, config, tmp_path, killed_after(whole[0].steps + 3))
    assert all(map(same, train(model, data, config, tmp_path), whole))


def test_training_brings_the_student_to_its_teacher(random_model: Make) -> None:
    model = random_model("llama")
    (trained,) = train(model, [signals(model, 3)], replace(CONFIG, rank=8, steps=50, learning_rate=1e-2))
    assert trained.losses[-1] < 0.3 * trained.losses[0]
    assert trained.adapter_config["r"] == 8
    assert all(t.dtype == torch.float32 for t in trained.tensors.values())


def test_the_base_is_left_as_it_was(random_model: Make) -> None:
    model = random_model("olmoe")
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    train(model, [signals(model, 1)], replace(CONFIG, steps=2))
    assert all(torch.equal(p, before[name]) for name, p in model.network.named_parameters())
    assert not any(p.requires_grad for p in model.network.parameters())
    prompt = torch.tensor([model.chat_ids(without_memory("Who?"))])
    assert torch.isfinite(model.network(input_ids=prompt).logits).all()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 400], ids=["empty", "short", "zeros"])
def test_a_damaged_checkpoint_says_what_to_do(random_model: Make, tmp_path: Path, damage: bytes) -> None:
    model = random_model("llama")
    (tmp_path / "checkpoint-0.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match=r"checkpoint cannot be read \(.*\); delete it to start over"):
        train(model, [signals(model, 1)], CONFIG, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(random_model: Make, tmp_path: Path) -> None:
    model, wild = random_model("llama"), replace(CONFIG, learning_rate=1e30, steps=30, checkpoint_every=1)
    whose = r"the [a-z ]+ of adapter 1 is not a finite number at step [0-9]+, in the batch of examples [0-9, ]+"
    with pytest.raises(ModelError, match=whose + "; no checkpoint was kept; try a lower learning rate"):
        train(model, [signals(model, 1), signals(model, 2)], wild)
    with pytest.raises(ModelError, match=r"the last good checkpoint is .*/checkpoint-0.safetensors"):
        train(model, [signals(model, 1)], wild, tmp_path)


def test_a_checkpoint_of_another_run_is_refused_and_one_from_before_keys_is_not_gone_on_with(
    random_model: Make, tmp_path: Path
) -> None:
    model = random_model("llama")
    whole = train(model, [signals(model, 1)], CONFIG)
    with pytest.raises(Killed):
        train(model, [signals(model, 1)], CONFIG, tmp_path, killed_after(4))
    for data, config in ((signals(model, 2), CONFIG), (signals(model, 1), replace(CONFIG, noise=0.5))):
        with pytest.raises(ModelError, match="checkpoint of another run"):
            train(model, [data], config, tmp_path)
    (file,) = checkpoints(tmp_path)
    save_file({"p/0": torch.ones(3)}, file, {"state": '{"step": 3, "losses": {"0": [1.0]}, "drift": {}}'})
    notes: list[str] = []
    anew = train(model, [signals(model, 1)], CONFIG, tmp_path, lambda n, note: notes.append(note))
    assert len(notes) == 7 and "resumed" not in notes
    assert all(map(same, anew, whole))


VALIDATED = replace(CONFIG, steps=20, learning_rate=3e-2, validate_every=2, held_out=0.3, anchor_rows=0)


def test_the_adapter_is_the_best_one_on_held_out_examples_and_resume_is_exact(model: Model, tmp_path: Path) -> None:
    data = [signals(model, 1, 10), signals(model, 2, 10)]
    whole = train(model, data, VALIDATED)
    assert [[step for step, _ in t.validation] for t in whole] == [list(range(2, 21, 2))] * 2
    for steps in (3, 7, 9):
        with pytest.raises(Killed):
            train(model, data, VALIDATED, tmp_path, killed_after(steps))
    again = train(model, data, VALIDATED, tmp_path)
    assert all(map(same, again, whole))
    assert [t.validation for t in again] == [t.validation for t in whole]
    assert len(checkpoints(tmp_path)) == 3, "the best of either goes with the checkpoint"
    (alone,) = train(model, data[1:], VALIDATED)
    torch.testing.assert_close(torch.tensor(alone.validation), torch.tensor(whole[1].validation), atol=1e-2, rtol=1e-2)
    last = train(model, data, replace(VALIDATED, validate_every=0))
    assert not any(t.validation or t.best for t in last)


def test_a_user_who_gets_no_better_is_done(random_model: Make) -> None:
    model = random_model("llama")
    config = replace(VALIDATED, validate_every=1, patience=2, steps=60)
    (found,) = train(model, [signals(model, 1, 10)], config)
    losses = [loss for _, loss in found.validation]
    assert found.steps == len(losses) == losses.index(min(losses)) + 3 < 60
    assert found.best == BestStep(losses.index(min(losses)) + 1, min(losses), stopped_early=True)
    (mastered,) = train(model, [signals(model, 1, 10)], replace(config, patience=60, mastered=99.0, anchored=99.0))
    assert mastered.steps < 60 and mastered.best and not mastered.best.stopped_early
    with pytest.raises(InputError, match=r"train\.validate_every: too few examples to hold any out"):
        train(model, [signals(model, 1, 1)], VALIDATED)


def test_dropout_is_exact_on_resume(random_model: Make, tmp_path: Path) -> None:
    model = random_model("llama")
    data, config = [signals(model, 1)], replace(CONFIG, dropout=0.2)
    (plain,), (whole,) = train(model, data, CONFIG), train(model, data, config)
    assert whole.losses != plain.losses
    assert whole.adapter_config["lora_dropout"] == 0.2
    assert plain.adapter_config["lora_dropout"] == 0.0
    with pytest.raises(Killed):
        train(model, data, config, tmp_path, killed_after(4))
    assert same(train(model, data, config, tmp_path)[0], whole)
    with pytest.raises(
        InputError, match=r"^train\.dropout: 0\.2 is not for stacked experts; .* train\.experts = false"
    ):
        train(random_model("qwen3_moe"), data, config)
    train(random_model("qwen3_moe"), data, replace(config, experts=False, steps=1))


def test_settings_that_came_later_change_no_digest() -> None:
    assert digest(as_dict(Config())) == "e93ee97fc416571222fa26033ced3812c26a7bd500e7f732124d3c60fc0da63b"


@pytest.mark.parametrize(
    "wrong",
    [{"steps": -1}, {"rank": 0}, {"rank": -4}, {"learning_rate": -1.0}, {"checkpoint_every": 0}, {"facts": -1},
     {"facts": 0, "unknowns": 0, "anchors": 0}, {"dropout": 1.0}, {"held_out": 1.0}, {"patience": -1}, {"patience": 2},
     {"clip": 0.0},
     {"alpha": 0.0}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"^train\.[a-z_]+"):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]


def columns(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() for t in tensors.values())


def test_what_is_adapted_can_be_chosen(random_model: Make) -> None:
    model = random_model("qwen3_moe")
    data = [signals(model, 1, 2)]
    small = replace(CONFIG, steps=1)
    found = {
        name: columns(train(model, data, replace(small, **choice))[0].tensors)  # type: ignore[arg-type]
        for name, choice in {
            "all": {}, "attention": {"targets": "attention"}, "mlp": {"targets": "mlp"},
            "no experts": {"experts": False},
        }.items()
    }  # fmt: skip
    assert found["all"] == found["attention"] + found["mlp"] > found["no experts"] >= found["attention"]
