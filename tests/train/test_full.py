"""A student on a teacher's signals: learns, resumes to the last bit, and says what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from stillhouse.capture import prompts
from stillhouse.config import as_dict, resolve
from stillhouse.distillation.student import Student
from stillhouse.errors import InputError, ModelError
from stillhouse.feeds import epochs
from stillhouse.feeds.same_tokens import SameBatch, SameTokens, trimmed
from stillhouse.lora import LoraConfig
from stillhouse.losses import Objective, SparseTargets
from stillhouse.models import Model
from stillhouse.records import BestStep, digest
from stillhouse.signals import Shard
from stillhouse.text.corpus import anchors
from stillhouse.train.full import CHECKPOINT, Config, planned, train
from stillhouse.trainer import loop
from stillhouse.trainer.feed_task import FeedTask, SlotFeed, prepare
from stillhouse.trainer.ranks import Ranks
from tests import architectures, tokenizers

Make = Callable[..., Model]
SMALL = Config(batch_tokens=160, checkpoint_every=2, learning_rate=3e-3, mixed="off")
LORA = replace(SMALL, lora=LoraConfig(4, 8.0))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, random_model: Make) -> list[Shard]:
    data = [prompts.Example(answer=text[:70]) for text in anchors(12)]
    teacher = random_model("llama")
    captured = prompts.capture(teacher, data, prompts.Config(shard_examples=5), tmp_path_factory.mktemp("signals"))
    return list(captured.read())


def student(random_model: Make, name: str = "qwen3", seed: int = 7) -> Model:
    """A fresh copy with weights of its own."""
    model = random_model(name)
    network = architectures.ALL[name](tokenizers.VOCABULARY, seed=seed)
    return replace(model, network=network.requires_grad_(False))


def feed(shards: Sequence[Shard]) -> SameTokens:
    return SameTokens(shards, tokenizers.VOCABULARY, 2048)


def weights(model: Model, trained: object = None) -> list[torch.Tensor]:
    bank = getattr(trained, "bank", None)
    return [p.detach().clone() for p in (bank.parameters() if bank else model.network.parameters())]


def killer(steps: int) -> Callable[[int, str], None]:
    left = steps

    def on_step(n: int, note: str) -> None:
        nonlocal left
        left -= n if note != "resumed" else 0
        if left <= 0:
            raise Killed

    return on_step


@pytest.mark.parametrize("config", [SMALL, LORA], ids=["all", "lora"])
def test_a_student_learns_its_teacher(random_model: Make, shards: list[Shard], config: Config) -> None:
    model = student(random_model)
    found = train(model, feed(shards), replace(config, epochs=12.0, learning_rate=1e-2))
    assert found.steps == len(found.losses) == planned(feed(shards), replace(config, epochs=12.0))
    assert found.losses[-1] < 0.75 * found.losses[0]
    assert not any(p.requires_grad for p in model.network.parameters()) and not model.network.training
    if found.bank:
        tensors, about = found.adapter("base") or ({}, {})
        assert about["r"] == 4 and all(t.isfinite().all() for t in tensors.values())


@pytest.mark.parametrize(
    "config", [replace(SMALL, epochs=1.5), replace(LORA, accumulate=2, epochs=3.0)], ids=["all", "lora"]
)
def test_killed_at_random_moments_and_resumed_is_bit_equal(
    random_model: Make, shards: list[Shard], config: Config, tmp_path: Path
) -> None:
    whole_model = student(random_model)
    whole = train(whole_model, feed(shards), config)
    rng, model = random.Random(0), student(random_model)
    for _ in range(20):
        try:
            found = train(model, feed(shards), config, tmp_path, killer(rng.randint(1, 4)))
            break
        except Killed:
            model = student(random_model)
    else:
        found = train(model, feed(shards), config, tmp_path)
    assert found.losses == whole.losses
    assert all(map(torch.equal, weights(model, found), weights(whole_model, whole)))


def test_how_a_step_is_cut_into_batches_changes_nothing(random_model: Make, shards: list[Shard]) -> None:
    """The sum over targets is divided once: no mean of means."""
    data = feed(shards)
    numbers = list(range(len(data.lengths)))
    found = []
    for cut in ([numbers], [[i] for i in numbers], [numbers[:1], numbers[1:]]):
        model = student(random_model)
        learner, losses = prepare(model, None, 1, 0, 0.0, Ranks())
        task = FeedTask(learner, losses, SlotFeed(data), [cut], Objective(), False)
        plan = loop.TrainingPlan([loop.Schedule(1, 1e-3, 1)], 1e9, 10, "")
        progress = loop.fit(task, plan, None, lambda n, note: None)
        found.append(progress.losses[0][0])
    assert max(found) - min(found) < 1e-4 * found[0]


def test_several_adapters_in_one_batch_become_what_each_becomes_alone(random_model: Make, shards: list[Shard]) -> None:
    data = feed(shards)
    slots = [0 if i < 8 else 1 for i in range(len(data.lengths))]
    model = student(random_model)
    config = replace(LORA, batch_tokens=70)
    both = train(model, data, config, slots=slots, names=("task", "debug"))
    assert both.bank is not None and len(both.by_slot[0]) > len(both.by_slot[1]), "each by its own data"
    together = [both.bank.export(slot) for slot in (0, 1)]
    both.bank.detach()
    for slot, rows in ((0, range(8)), (1, range(8, len(slots)))):
        alone = train(model, Part(data, rows), config)
        assert alone.bank is not None
        torch.testing.assert_close(alone.losses, both.by_slot[slot], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.bank.export(0), together[slot], rtol=1e-3, atol=1e-4)
        alone.bank.detach()
    with pytest.raises(InputError, match="no examples for adapter 1 of 3"):
        train(model, data, LORA, slots=[2 if s else 1 for s in slots])
    with pytest.raises(InputError, match=r"train.lora: missing; several students on one base"):
        train(model, data, SMALL, slots=slots)


class Part:
    """Some examples of a feed."""

    def __init__(self, whole: SameTokens, rows: Sequence[int]):
        self.whole, self.rows = whole, rows
        self.lengths: Sequence[int] = [whole.lengths[i] for i in rows]
        self.positions: Sequence[int] = [whole.positions[i] for i in rows]

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> SameBatch:
        return self.whole.batch([self.rows[i] for i in numbers], pad, device)


def test_recomputed_layers_and_autocast_give_the_same_student(random_model: Make, shards: list[Shard]) -> None:
    losses = {}
    for name, config in {
        "plain": SMALL, "recompute": replace(SMALL, recompute=True), "bf16": replace(SMALL, mixed="on"),
        "lora": LORA, "lora recompute": replace(LORA, recompute=True),
    }.items():  # fmt: skip
        losses[name] = train(student(random_model), feed(shards), replace(config, epochs=2.0)).losses
    torch.testing.assert_close(losses["recompute"], losses["plain"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["lora recompute"], losses["lora"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["bf16"], losses["plain"], rtol=0.03, atol=0.03)


def test_a_loss_that_is_no_number_stops_before_the_step(
    random_model: Make, shards: list[Shard], tmp_path: Path
) -> None:
    model = student(random_model)
    with pytest.raises(ModelError, match=r"not a finite number at step \d+, in the batch of examples \d+.*checkpoint"):
        train(model, feed(shards), replace(SMALL, learning_rate=1e18, clip=1e30, epochs=4.0, warmup=0.0), tmp_path)
    columns = [replace(s.targets, logprobs=np.full_like(s.targets.logprobs, np.nan)) for s in shards]
    broken = feed([replace(s, targets=targets) for s, targets in zip(shards, columns, strict=True)])
    with pytest.raises(ModelError, match=r"in the batch of examples .*no checkpoint was kept"):
        train(student(random_model), broken, SMALL)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(
    random_model: Make, shards: list[Shard], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(student(random_model), feed(shards), SMALL, tmp_path, killer(2))
    with pytest.raises(ModelError, match="checkpoint of another run"):
        train(student(random_model), feed(shards), replace(SMALL, learning_rate=1e-4), tmp_path)
    with pytest.raises(ModelError, match="checkpoint of another run"):
        train(student(random_model), feed(shards), SMALL, tmp_path, key="other signals")
    (tmp_path / CHECKPOINT).write_bytes(b"x" * 40)
    with pytest.raises(ModelError, match=r"checkpoint cannot be read .*delete it to start over"):
        train(student(random_model), feed(shards), SMALL, tmp_path)


VALIDATED = replace(SMALL, epochs=6.0, learning_rate=3e-2, validate_every=1, checkpoint_every=1)


@pytest.mark.parametrize("lora", [None, LoraConfig(4, 8.0)], ids=["all", "lora"])
def test_the_student_is_the_best_one_on_held_out_examples(
    random_model: Make, shards: list[Shard], tmp_path: Path, lora: LoraConfig | None
) -> None:
    data = feed(shards)
    train_feed, held = Part(data, range(8)), Part(data, range(8, len(data.lengths)))
    rate = 3.0 if lora else VALIDATED.learning_rate
    config, model = replace(VALIDATED, lora=lora, learning_rate=rate), student(random_model)
    notes: list[str] = []
    found = train(model, train_feed, config, tmp_path, lambda n, note: notes.append(note), held_out=held)
    (measured,), (chosen,) = found.validation, found.best
    assert [step for step, _ in measured] == list(range(1, found.steps + 1))
    assert all(f"held out {loss:.3f}" in note for note, (_, loss) in zip(notes, measured, strict=True))
    best = min(measured, key=lambda pair: pair[1])[0]
    assert best < found.steps, "it got worse again"
    assert chosen == BestStep(best, dict(measured)[best], stopped_early=False)
    folder, again = tmp_path / "again", student(random_model)
    folder.mkdir()
    with pytest.raises(Killed):
        train(again, train_feed, config, folder, killer(best), held_out=held)
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        kept = [file.get_tensor(f"p/{i}") for i in range(len(weights(model, found)))]
    assert all(map(torch.equal, weights(model, found), kept))
    in_memory = student(random_model)
    same = train(in_memory, train_feed, config, held_out=held)
    assert same.validation == found.validation
    assert all(map(torch.equal, weights(in_memory, same), kept))


def test_a_run_with_validation_killed_at_random_moments_is_bit_equal(
    random_model: Make, shards: list[Shard], tmp_path: Path
) -> None:
    data = feed(shards)
    held, config = Part(data, range(8, len(data.lengths))), replace(VALIDATED, validate_every=2, checkpoint_every=3)
    whole_model = student(random_model)
    whole = train(whole_model, data, config, held_out=held)
    rng = random.Random(1)
    for _ in range(20):
        model = student(random_model)
        try:
            found = train(model, data, config, tmp_path, killer(rng.randint(2, 6)), held_out=held)
            break
        except Killed:
            continue
    else:
        found = train(model, data, config, tmp_path, held_out=held)
    assert (found.losses, found.validation) == (whole.losses, whole.validation)
    assert all(map(torch.equal, weights(model, found), weights(whole_model, whole)))
    ended = train(student(random_model), data, config, tmp_path, held_out=held)
    assert ended.validation == whole.validation, "what had ended is taken as it is"
    (tmp_path / "checkpoint.best-0.safetensors").unlink()
    with pytest.raises(ModelError, match=r"checkpoint\.best-0\.safetensors is gone, the best weights; delete"):
        train(student(random_model), data, config, tmp_path, held_out=held)


def test_who_gets_no_better_is_done_and_every_adapter_keeps_its_own_best(
    random_model: Make, shards: list[Shard]
) -> None:
    data = feed(shards)
    slots = [i % 2 for i in range(len(data.lengths))]
    config = replace(VALIDATED, lora=LoraConfig(4, 8.0), learning_rate=3.0, patience=2)
    both = train(student(random_model), data, config, slots=slots, held_out=data, held_out_slots=slots)
    assert both.bank is not None
    for slot, measured in enumerate(both.validation):
        losses = [loss for _, loss in measured]
        best = losses.index(min(losses))
        assert len(both.by_slot[slot]) == len(losses) <= planned(data, config, slots)
        assert len(losses) == planned(data, config, slots) or len(losses) == best + 3, "two that are no better, and out"
        early = len(losses) < planned(data, config, slots)
        assert both.best[slot] == BestStep(best + 1, losses[best], early)
        rows = [i for i, owner in enumerate(slots) if owner == slot]
        alone = train(student(random_model), Part(data, rows), config, held_out=Part(data, rows))
        torch.testing.assert_close(alone.validation[0][:3], measured[:3], rtol=1e-2, atol=1e-2)
    assert any(len(own) < planned(data, config, slots) for own in both.by_slot)


def test_validation_wants_held_out_examples(random_model: Make, shards: list[Shard]) -> None:
    with pytest.raises(InputError, match=r"train\.validate_every: there are no held-out examples"):
        train(student(random_model), feed(shards), VALIDATED)
    with pytest.raises(
        InputError, match=r"^train\.patience: 2 waits for validations, and there are none; set validate"
    ):
        Config(patience=2)


def test_dropout_is_of_training_alone_and_exact_on_resume(
    random_model: Make, shards: list[Shard], tmp_path: Path
) -> None:
    data = feed(shards)
    config = replace(LORA, epochs=2.0, lora=LoraConfig(4, 8.0, dropout=0.3), recompute=True)
    model = student(random_model)
    whole = train(model, data, config)
    assert whole.bank is not None
    ids, plain = torch.tensor([[3, 4, 5]]), train(student(random_model), data, replace(LORA, epochs=2.0))
    assert whole.losses[0] == plain.losses[0], "B is zero"
    assert whole.losses != plain.losses
    with torch.no_grad(), whole.bank.rows([0]):
        assert torch.equal(model.network(ids).logits, model.network(ids).logits)
    with pytest.raises(Killed):
        train(student(random_model), data, config, tmp_path, killer(3))
    again_model = student(random_model)
    again = train(again_model, data, config, tmp_path)
    assert again.losses == whole.losses
    assert all(map(torch.equal, weights(again_model, again), weights(model, whole)))
    seeded = train(student(random_model), data, replace(config, seed=1, epochs=1.0))
    assert seeded.losses != whole.losses[: seeded.steps]


def test_settings_that_came_later_change_no_digest() -> None:
    """Stored students are found by it: distillation's default student as it was before validation and dropout."""
    assert digest(as_dict(Student())) == "8341e67bf915c99f4dffd1f708501b184a6ac8826a16fb4812ca825fa0a84b51"
    lora = as_dict(Config(lora=LoraConfig()))
    assert digest(lora) == "c70446dfb37bbc0cee9f6d9d435cc7f7ca4515f45ef11d77d3b67258e3bdb101"
    assert as_dict(replace(LORA, validate_every=5))["validate_every"] == 5
    assert as_dict(resolve(Config, {"lora": {"dropout": 0.1}}))["lora"]["dropout"] == 0.1


def test_a_vocabulary_padded_further_is_trimmed() -> None:
    targets = SparseTargets(
        torch.tensor([[5, 12, 3]]), torch.tensor([[0.5, 0.25, 0.125]]).log(), torch.tensor([0.125]),
        torch.tensor([[11, 4]]), torch.tensor([[-3.0, -4.0]]), torch.tensor([[0.0625, 0.0625]]),
    )  # fmt: skip
    found = trimmed(targets, 10)
    assert found.logprobs_PK[0].tolist()[1] == -torch.inf and found.ids_PK.max() < 10 and found.draw_ids_PD.max() < 10
    torch.testing.assert_close(found.tail_P, torch.tensor([0.375]))
    assert found.draw_weights_PD.tolist() == [[0.0, 0.0625]]
    assert trimmed(targets, 13) is targets


def test_signals_that_do_not_fit_the_student_are_refused(shards: list[Shard]) -> None:
    with pytest.raises(InputError, match="no signals"):
        SameTokens([], 100, 100)
    with pytest.raises(InputError, match=r"the student's vocabulary has 20: their tokenizers differ"):
        SameTokens(shards, 20, 2048)
    with pytest.raises(InputError, match=r"example \d+ of the signals has \d+ tokens; the student's context is 8"):
        SameTokens(shards, tokenizers.VOCABULARY, 8)


def test_every_example_comes_once_an_epoch_and_batches_keep_their_size() -> None:
    lengths = [random.Random(i).randint(1, 40) for i in range(200)]
    plan = epochs.steps(lengths, 120, 1, 2.0, 0, 3)
    first, second = plan[: len(plan) // 2], plan[len(plan) // 2 :]
    assert (
        sorted(i for step in first for part in step for i in part)
        == list(range(200))
        != [i for step in first for part in step for i in part]
    )
    assert first != second and epochs.steps(lengths, 120, 1, 2.0, 0, 3) == plan
    assert all(max(lengths[i] for i in part) * len(part) <= 120 for step in plan for part in step)
    assert len(epochs.steps(lengths, 120, 3, 2.0, 0, 3)) == -(-len(plan) // 3)
    assert len(epochs.steps(lengths, 120, 1, 0.5, 0, 3)) == round(len(first) / 2)
    assert len(epochs.steps(lengths, 120, 1, 9.0, 5, 3)) == 5


@pytest.mark.parametrize(
    "wrong",
    [{"clip": 0.0}, {"epochs": 0.0}, {"batch_tokens": 0}, {"accumulate": -1}, {"checkpoint_every": 0}, {"steps": -1},
     {"learning_rate": -1.0}, {"warmup": 1.0}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"^train\.{next(iter(wrong))}: "):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
