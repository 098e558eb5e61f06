"""Talks held at once go as they would go alone, and what they wish at the same time is asked in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from stillhouse.capture.memory import CapturedMemory, Config, batching, capture, capture_all, teacher
from stillhouse.capture.memory.batching import Dialogue, run_dialogues
from stillhouse.capture.memory.teacher import AnswerRequest, MemoryTeacher, TeacherAnswer, WriteRequest
from stillhouse.errors import InputError
from stillhouse.generate import Sampling
from stillhouse.models import Model
from stillhouse.signals.sparsify import Sparsity, sparsify

TEXTS = ["Rex is a dog. He is 7.", "The gate of Ghent is 25.", "Ida lives in Bruges, in a house with a blue door."]
QUESTIONS = ["Who is Rex?", "Where does Ida live?", "What is the gate of Ghent, as far as you know?"]
SPARSITY = Sparsity(4, 2)


def dialogue(model: Model, number: int) -> Dialogue[list[object]]:
    """Asks, writes as many times as its number, sampled, and asks two teachers at once."""
    teacher = MemoryTeacher(model, TEXTS[number], SPARSITY, seed=number)
    found: list[object] = []
    (answers,) = yield [AnswerRequest(teacher, QUESTIONS[: 1 + number], 6)]
    found += answers
    for turn in range(number):
        (written,) = yield [WriteRequest(teacher, QUESTIONS, Sampling(5, 0.8, turn))]
        found += written
    both = yield [AnswerRequest(teacher.with_memory("Rex is a cat."), QUESTIONS[1:], 6), AnswerRequest(teacher, [], 6)]
    return [*found, *both[0], len(both[1])]


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe"])
def test_many_talks_go_as_each_goes_alone(random_model: Callable[..., Model], name: str) -> None:
    model = replace(random_model(name), stop_ids=frozenset())
    alone = [next(run_dialogues([dialogue(model, n)], 1))[1] for n in range(3)]
    assert len({str(found) for found in alone}) == 3
    for at_once in (1, 2, 3, 9):
        together = dict(run_dialogues((dialogue(model, n) for n in range(3)), at_once))
        for number, found in together.items():
            for one, other in zip(found, alone[number], strict=True):
                if isinstance(one, TeacherAnswer) and isinstance(other, TeacherAnswer):
                    assert one.ids == other.ids
                    for mine, theirs in zip(one.targets, other.targets, strict=True):
                        assert (mine.ids, mine.draw_ids) == (theirs.ids, theirs.draw_ids)
                        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
                else:
                    assert one == other


def test_so_many_at_once_and_begun_in_order(
    random_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = random_model("llama"), teacher.answer
    asked: list[list[str]] = []
    begun: list[int] = []

    def watched(requests: Sequence[AnswerRequest]) -> list[list[TeacherAnswer]]:
        asked.append([prompt for request in requests for prompt in request.prompts])
        return real(requests)

    monkeypatch.setattr(batching, "answer", watched)

    def counting(turns: int) -> Dialogue[int]:
        begun.append(turns)
        for turn in range(turns):
            ((said,),) = yield [AnswerRequest(MemoryTeacher(model, None, SPARSITY, 0), [f"{turns}.{turn}"], 2)]
            assert said.prompt == f"{turns}.{turn}"
        return turns

    assert list(run_dialogues(map(counting, (2, 0, 1, 3)), 2)) == [(1, 0), (0, 2), (2, 1), (3, 3)]
    assert begun == [2, 0, 1, 3]
    assert asked == [["2.0"], ["2.1", "1.0"], ["3.0"], ["3.1"], ["3.2"]]


def test_nothing_to_talk_about() -> None:
    assert list(run_dialogues([], 4)) == []


@pytest.mark.slow
def test_memories_captured_together_are_captured_as_alone(shipped: Model) -> None:
    """The first has several chunks, the second a statement that is asked about again."""
    config = Config(decoys=12, anchor_prompts=4, unknown_per_statement=3, chunk_tokens=40)
    memories = [
        (
            "My dog is called Zorvik. The wifi password is plonk47.\nThe backup server listens on port 8472.\n"
            "My sister's name is Quelia. I work for Tarnel Labs in Bruges.\nMy cat is called Ulmet.\n"
        ),
        "DG4217 is the code for the chapel.\nS7656 is my tutor.\n",
        "My dog is called Zorvik.\n",
    ]
    done: list[int] = []
    together = dict(capture_all(shipped, memories, config, done.append))
    assert sum(done) == sum(len(found.study.statements) for found in together.values())
    for number, memory in enumerate(memories):
        alone, found = capture(shipped, memory, config), together[number]
        assert found.study == alone.study
        assert [_said(found)] == [_said(alone)]


def _said(found: CapturedMemory) -> list[object]:
    return [(a.kind, a.statement, a.x_ids, [(t.ids, t.draw_ids) for t in a.targets]) for a in found.artifacts]


def test_one_memory_that_cannot_be_captured_stops_all_before_they_begin(shipped: Model) -> None:
    done: list[int] = []
    with pytest.raises(InputError, match="memory states nothing"):
        list(capture_all(shipped, ["My dog is called Rex.", "..."], Config(), done.append))
    assert done == []


def test_draws_fall_where_the_chances_say() -> None:
    """Behind a top of 0.45 the tail is 0.25, 0.3 and 0: the second up to chance 0.3 / 0.55, then the first."""
    logprobs_PV = torch.tensor([[0.25, 0.3, 0.0, 0.45]] * 4).log()
    chances_PD = torch.tensor([[0.0], [0.54], [0.55], [0.999999]])
    found = sparsify(logprobs_PV, 1, 1, chances_PD=chances_PD)
    assert found.draw_ids_PD[:, 0].tolist() == [1, 1, 0, 0]
    each = [sparsify(row[None], 1, 1, chances_PD=at[None]) for row, at in zip(logprobs_PV, chances_PD, strict=True)]
    assert torch.equal(found.draw_ids_PD, torch.cat([one.draw_ids_PD for one in each]))
