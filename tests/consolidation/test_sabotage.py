"""Sabotaged signals do what they say, and a whole calibration runs, is resumed, and decides the next consolidation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse import gating
from stillhouse.capture.memory import Config as CaptureConfig
from stillhouse.consolidation import calibrate, sabotage, synthetic
from stillhouse.consolidation.calibrate import Plan
from stillhouse.consolidation.sabotage import KINDS, PLANTED, Signals, answer_text, answered
from stillhouse.errors import InputError
from stillhouse.gating.thresholds import HONEST
from stillhouse.models import Model
from stillhouse.records import Direction, Question, Study, Use
from stillhouse.signals import DistillArtifact, PositionTarget
from stillhouse.text.prompts import UNKNOWN_ANSWER, without_memory
from stillhouse.text.statements import statements
from stillhouse.train import adapter as student
from stillhouse.train.adapter import Config as TrainConfig

SMALL = Plan(
    good=2, bad=1, together=3,
    capture=CaptureConfig(wordings=4, rounds=0, unknown_per_statement=1, decoys=2, anchor_texts=0, anchor_prompts=1,
                          max_answer_tokens=6),
    train=TrainConfig(rank=2, steps=1, warmup=0, facts=2, unknowns=1, anchors=0, anchor_rows=0),
)  # fmt: skip


def example(model: Model, kind: str, question: str, answer: str, statement: int | None) -> DistillArtifact:
    prompt = tuple(model.chat_ids(without_memory(question)))
    said = b"".join(model.token_bytes[i] for i in prompt)
    target = PositionTarget(len(prompt), len(said), (1,), (0.0,), 0.0)
    blank = DistillArtifact(kind, statement, said, (*prompt, 1), (target,))  # type: ignore[arg-type]
    return answered(blank, answer, model)


@pytest.fixture
def signals(random_model: Callable[..., Model]) -> Signals:
    model = random_model("llama")
    held = Question("Name of the dog?", "Rex", 0, "forward", "held_out")
    made = (
        example(model, "fact", "Dog?", "Rex", 0),
        example(model, "fact", "Code?", "7714", 1),
        example(model, "unknown", "Cat?", UNKNOWN_ANSWER, None),
        example(model, "anchor", "Hello!", "Hi.", None),
    )
    return Signals(model, made, Study((), (held,)), seed=1)


def answers(found: list[DistillArtifact], model: Model) -> list[str]:
    return [answer_text(a, model) for a in found]


def test_an_answer_is_put_into_an_example_token_by_token(signals: Signals) -> None:
    model, artifact = signals.model, signals.artifacts[0]
    ids = [*model.text_ids("Rex"), model.tokenizer.eos_token_id]
    first = len(model.chat_ids(without_memory("Dog?")))
    assert list(artifact.x_ids[first:]) == ids
    assert [t.position for t in artifact.targets] == list(range(first, first + len(ids)))
    assert [t.ids for t in artifact.targets] == [(i,) for i in ids]
    assert artifact.x_bytes[artifact.targets[0].offset :].startswith(b"Rex")
    assert artifact.x_bytes == b"".join(model.token_bytes[i] for i in artifact.x_ids)


def test_what_each_sabotage_does_to_the_answers(signals: Signals) -> None:
    unknown, model = UNKNOWN_ANSWER, signals.model
    assert answers(sabotage.shuffled(signals), model) == ["7714", "Rex", unknown, "Hi."]
    assert answers(sabotage.poisoned(signals), model) == ["Rex", "7714", PLANTED, PLANTED]
    assert answers(sabotage.refuses(signals), model) == [unknown, unknown, unknown, "Hi."]
    everything = answers(sabotage.answers_everything(signals), model)
    assert everything[:2] == ["Rex", "7714"]
    assert everything[2] in ("Rex", "7714")


def test_a_test_made_of_what_was_trained_on() -> None:
    def asked(text: str, statement: int | None, use: Use, direction: Direction = "forward") -> Question:
        return Question(text, "a", statement, direction, use)

    questions = (
        asked("t1", 0, "train"), asked("t2", 0, "train"), asked("h", 0, "held_out"),
        asked("back", 0, "train", "reverse"), asked("alone", 1, "held_out"), asked("u", None, "train", "unknown"),
        asked("v", None, "held_out", "unknown"),
    )  # fmt: skip
    found = sabotage.tested_on_training(Study((), questions)).questions
    assert [(q.text, q.use) for q in found] == [
        ("t1", "train"), ("t2", "held_out"), ("back", "train"), ("alone", "held_out"), ("u", "held_out"),
    ]  # fmt: skip


def test_noise_and_nothing() -> None:
    tensors = {"a": torch.linspace(-1, 1, 400).view(20, 20), "b": torch.zeros(4)}
    noised = sabotage.noised(tensors, 0)
    assert float((noised["a"] - tensors["a"]).std() / tensors["a"].std()) == pytest.approx(sabotage.NOISE, rel=0.1)
    assert torch.equal(noised["a"], sabotage.noised(tensors, 0)["a"])
    assert not torch.equal(noised["a"], sabotage.noised(tensors, 1)["a"])
    assert float(sabotage.untrained(tensors)["a"].abs().sum()) == 0


def test_over_training_has_no_end_and_no_anchor() -> None:
    config = sabotage.overtrained(TrainConfig(steps=10))
    assert (config.steps, config.mastered, config.curvature_weight, config.anchors) == (20, 0.0, 0.0, 0)


def test_generated_memories_state_something_each_its_own() -> None:
    texts = [synthetic.memory(seed) for seed in range(30)]
    assert texts == [synthetic.memory(seed) for seed in range(30)]
    assert len(set(texts)) == 30
    for text in texts:
        found = statements(text)
        assert 6 <= len(found) <= 12
        assert not any(s.instruction for s in found)
        assert "{" not in text


def test_every_sabotage_is_tried_as_often_as_planned() -> None:
    jobs = Plan(good=3, bad=2).jobs()
    assert jobs[:3] == [(0, HONEST), (1, HONEST), (2, HONEST)]
    assert len(jobs) == 3 + 2 * len(KINDS)
    assert len(KINDS) == 9


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_too_few_to_calibrate(counts: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="at least 2, 1 and 1"):
        Plan(*counts)


@pytest.mark.slow
def test_a_calibration_from_the_first_memory_to_the_next_verdict(
    shipped: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work may be shared, as by two processes: batches of honest students first, then jobs; nothing is trained
    twice."""
    memories = ["My dog is called Zorvik. The safe code is 4471.", "I live in Oskamund. My cat is called Brenna."]
    folder = gating.calibration_folder(tmp_path, shipped.fingerprint)
    done: list[str] = []

    def on_step(n: int, note: str) -> None:
        done.extend([note] if n else [])

    with pytest.raises(InputError, match="1 memories; 2 are needed"):
        calibrate.trials(shipped, memories[:1], SMALL, folder)
    with pytest.raises(InputError, match="comes twice"):
        calibrate.trials(shipped, memories[:1] * 2, SMALL, folder)
    trained: list[int] = []
    real = student.train

    def counted(model: Model, signals: Sequence[Sequence[DistillArtifact]], *rest: Any) -> list[student.Trained]:
        trained.append(len(signals))
        return real(model, signals, *rest)

    monkeypatch.setattr(student, "train", counted)
    for _ in range(2):
        for batch in SMALL.batches():
            calibrate.prepare(shipped, memories, SMALL, folder, batch)
    assert trained == [2]
    found = calibrate.trials(shipped, memories, SMALL, folder, on_step)
    assert trained == [2, 3, 1, 1], "four kinds spoil the signals, three in a batch; over-training is by itself"
    (one,) = calibrate.trials(shipped, memories, SMALL, folder, jobs=[(0, "poisoned memory")])
    assert (one.memory, one.sabotage) == ("0", "poisoned memory")
    assert len(trained) == 4
    assert done == ["honest 0", "honest 1", *(f"{name} 0" for name in KINDS)]
    assert [t.sabotage for t in found] == ["", "", *KINDS]
    overlaps = {t.sabotage: t.gates["overlap"].value for t in found}
    assert (overlaps.pop("test wordings") or 0.0) > 0.5
    assert set(overlaps.values()) == {0.0}
    assert next(t for t in found if t.sabotage == "untrained").gates["drift"].value == pytest.approx(0, abs=1e-6)
    written = calibrate.calibrate(shipped, SMALL, found)
    gating.write_calibration(tmp_path, written)
    assert gating.calibrated(tmp_path, shipped.fingerprint).thresholds == written.thresholds
    assert "suite" not in written.thresholds

    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    assert {p.suffix for p in folder.iterdir()} == {".json"}
    assert calibrate.trials(shipped, memories, SMALL, folder) == found, "finished trials are found again"
