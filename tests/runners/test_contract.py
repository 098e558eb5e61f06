"""What every runner has to pass: `runners/protocol.py`, sentence by sentence. Tolerance 2e-5 for float32 in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from stillhouse.errors import ModelError, StillhouseError
from stillhouse.generate import RunnerDecoder, Sampling, answer, score
from stillhouse.models import Model
from stillhouse.runners import BASE, Config, Runner, TorchRunner, Watch, open_runner
from tests.runners import numpy_runner
from tests.runners.conftest import Opened

ROWS = [[5 + (number * 7 + i) % 90 for i in range(length)] for number, length in enumerate((9, 30, 4, 17))]
SLOTS = [0, BASE, 2, 1]
NEXT = [11, 12, 13, 14]


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-4)


def last(runner: Runner, rows: Sequence[Sequence[int]] = ROWS, slots: Sequence[int] = SLOTS) -> Tensor:
    """Logits after the last token of each row, by `read`, one row at a time."""
    one_by_one = [next(iter(runner.read([row], [slot]))) for row, slot in zip(rows, slots, strict=True)]
    return torch.cat([reading.logits(-1) for reading in one_by_one])


def longer(*more: Sequence[int]) -> list[list[int]]:
    return [[*row, *(tokens[i] for tokens in more)] for i, row in enumerate(ROWS)]


def test_it_says_what_it_computes(opened: Opened) -> None:
    runner = opened.runner
    assert runner.layers > 0 and runner.width > 0 and runner.token_bytes > 0
    assert runner.slots == 3
    assert runner.model.text(runner.model.text_ids("Who is it?")) == "Who is it?"
    assert last(runner).shape == (4, runner.model.vocabulary)
    assert last(runner).dtype == torch.float32


def test_prompts_of_several_adapters_are_read_as_each_alone(opened: Opened) -> None:
    cache = opened.runner.cache(SLOTS)
    close(opened.runner.prefill(cache, ROWS), last(opened.runner))
    assert [cache.length(row) for row in range(4)] == [9, 30, 4, 17]
    assert list(cache.slots) == SLOTS
    assert cache.bytes >= 60 * opened.runner.token_bytes


def test_tokens_behind_them_too(opened: Opened) -> None:
    runner = opened.runner
    cache = runner.cache(SLOTS)
    runner.prefill(cache, ROWS)
    close(runner.decode(cache, NEXT), last(runner, longer(NEXT)))
    close(runner.decode(cache, NEXT[::-1]), last(runner, longer(NEXT, NEXT[::-1])))
    assert [cache.length(row) for row in range(4)] == [11, 32, 6, 19]


def test_prompts_may_be_read_in_pieces(opened: Opened) -> None:
    """They end together, so a short one begins late; only the last piece needs logits."""
    runner = opened.runner
    cache = runner.cache(SLOTS)
    assert runner.prefill(cache, [row[: max(len(row) - 20, 0)] for row in ROWS], logits=False) is None
    assert [cache.length(row) for row in range(4)] == [0, 10, 0, 0]
    close(runner.prefill(cache, [row[-20:] for row in ROWS]), last(runner))


def test_a_logit_that_is_not_allowed_is_minus_infinity(opened: Opened) -> None:
    runner = opened.runner
    allowed_BV = torch.zeros(4, runner.model.vocabulary, dtype=torch.bool)
    allowed_BV[torch.arange(4), NEXT] = True
    cache = runner.cache(SLOTS)
    first_BV = runner.prefill(cache, ROWS, allowed_BV=allowed_BV)
    assert first_BV is not None
    for logits_BV, free_BV in (
        (first_BV, last(runner)),
        (runner.decode(cache, NEXT, allowed_BV=allowed_BV), last(runner, longer(NEXT))),
    ):
        assert torch.equal(logits_BV.isneginf(), ~allowed_BV)
        close(logits_BV[allowed_BV], free_BV[allowed_BV])


def test_rows_join_and_leave(opened: Opened) -> None:
    runner = opened.runner
    cache, other = runner.cache(SLOTS[:2]), runner.cache(SLOTS[2:])
    runner.prefill(cache, ROWS[:2])
    runner.prefill(other, ROWS[2:])
    cache.join(other)
    assert list(cache.slots) == SLOTS
    close(runner.decode(cache, NEXT), last(runner, longer(NEXT)))
    cache.leave(0)  # the last one takes its number
    left = [3, 1, 2]
    assert list(cache.slots) == [SLOTS[row] for row in left]
    rows = [longer(NEXT, NEXT)[row] for row in left]
    logits_BV = runner.decode(cache, [NEXT[row] for row in left])
    close(logits_BV, last(runner, rows, [SLOTS[row] for row in left]))
    for row in (2, 1, 0):
        cache.leave(row)
    assert list(cache.slots) == []
    again = runner.cache(SLOTS)
    runner.prefill(again, ROWS)
    cache.join(again)
    close(runner.decode(cache, NEXT), last(runner, longer(NEXT)))


def test_a_row_goes_on_from_what_was_saved(opened: Opened) -> None:
    """With all of it or a part, beside a row that begins anew; what was saved stays as it is."""
    runner = opened.runner
    cache = runner.cache([0])
    runner.prefill(cache, [ROWS[1]])
    saved = cache.save(0)
    assert saved.tokens == 30 and saved.bytes == 30 * runner.token_bytes
    runner.decode(cache, [7])
    for _ in range(2):
        resumed = runner.cache([0, 1, 0], [(saved, 20), (None, 0), (saved, 25)], 10)
        assert [resumed.length(row) for row in range(3)] == [20, 0, 25]
        rows = [ROWS[1], ROWS[2], [*ROWS[1], *NEXT, 7]]
        logits_BV = runner.prefill(resumed, [ROWS[1][20:], ROWS[2], rows[2][25:]])
        close(logits_BV, last(runner, rows, [0, 1, 0]))
    assert saved.tokens == 30


def test_an_adapter_is_in_its_slot_alone(opened: Opened) -> None:
    runner, row = opened.runner, ROWS[0]
    before = last(runner, [row] * 4, [BASE, 0, 1, 2])
    assert not any(torch.allclose(before[0], other, atol=1e-3) for other in before[1:])
    runner.load(1, *opened.adapter(3))
    other, same = last(runner, [row] * 4, [BASE, 0, 1, 2]), [0, 1, 3]
    assert torch.equal(other[same], before[same])
    assert not torch.allclose(other[2], before[2], atol=1e-3)
    runner.load(1, *opened.adapter(1))
    close(last(runner, [row], [1]), before[2:3])
    runner.clear(1)
    close(last(runner, [row], [1]), before[:1])
    cache = runner.cache([1, 0])
    close(runner.prefill(cache, [row, row]), before[[0, 1]])


def test_what_is_no_adapter_for_it_is_refused(opened: Opened) -> None:
    runner, row = opened.runner, ROWS[0]
    tensors, config = opened.adapter(0)
    before, name = last(runner, [row], [0]), min(tensors)
    runner.check(tensors, config)
    broken = [
        {**tensors, "base_model.model.nothing.lora_A.weight": tensors[name]},
        {**tensors, name: tensors[name][:, :-1]},
        {other: tensor for other, tensor in tensors.items() if other != name},
    ]
    for wrong in broken:
        with pytest.raises(ModelError):
            runner.check(wrong, config)
        with pytest.raises(ModelError):
            runner.load(0, wrong, config)
    large = {other: torch.cat([tensor] * 3, dim=0 if "lora_A" in other else 1) for other, tensor in tensors.items()}
    with pytest.raises(ModelError):
        runner.load(0, large, {**config, "r": 3 * int(config["r"])})
    assert torch.equal(last(runner, [row], [0]), before)


def test_whole_rows_are_read_in_their_order(opened: Opened) -> None:
    """Among others as alone: states behind any layer, the last one being where logits come from; logits of any part."""
    runner = opened.runner
    watch = Watch((*range(runner.layers), -1), experts=True)
    for row, slot, reading in zip(ROWS, SLOTS, runner.read(ROWS, SLOTS, watch), strict=True):
        (alone,) = runner.read([row], [slot], watch)
        assert len(reading.states) == runner.layers + 1
        assert {tuple(states_TH.shape) for states_TH in reading.states} == {(len(row), runner.width)}
        assert torch.equal(reading.states[-1], reading.states[-2])
        for states_TH, expected_TH in zip(reading.states, alone.states, strict=True):
            close(states_TH, expected_TH)
        logits_TV = reading.logits()
        assert logits_TV.shape == (len(row), runner.model.vocabulary)
        close(logits_TV, alone.logits())
        close(reading.logits(1, -1), logits_TV[1:-1])
        for experts_TK, expected_TK in zip(reading.experts, alone.experts, strict=True):
            assert experts_TK.dtype == torch.int64 and len(experts_TK) == len(row)
            assert torch.equal(experts_TK, expected_TK)
    (plain,) = runner.read(ROWS[:1], SLOTS[:1])
    assert plain.states == plain.experts == ()


def test_the_experts_of_a_mixture_are_seen(random_model: Callable[..., Model]) -> None:
    runners: dict[str, Runner] = {name: TorchRunner(random_model(name)) for name in ("llama", "qwen3_moe")}
    runners["numpy"] = numpy_runner.NumpyRunner(numpy_runner.numpy_model(), Config())
    seen = {}
    for name, runner in runners.items():
        (reading,) = runner.read(ROWS[:1], [BASE], Watch(experts=True))
        seen[name] = {tuple(experts_TK.shape) for experts_TK in reading.experts}
    assert seen["numpy"] == {(9, 1)}
    assert seen["llama"] == set()
    assert seen["qwen3_moe"] and {shape[0] for shape in seen["qwen3_moe"]} == {9}


def test_both_in_one_forward_where_it_mixes(opened: Opened) -> None:
    runner = opened.runner
    if not runner.mixes:
        return
    allowed_BV = torch.ones(4, runner.model.vocabulary, dtype=torch.bool)
    allowed_BV[:, 5] = False
    cache, read = runner.cache(SLOTS[:2]), runner.cache(SLOTS[2:])
    runner.prefill(cache, ROWS[:2])
    piece = [row[: max(len(row) - 7, 0)] for row in ROWS[2:]]
    logits_BV, none = runner.mixed(cache, NEXT[:2], read, piece, logits=False, allowed_BV=allowed_BV[:2])
    assert none is None
    rest = [row[-7:] for row in ROWS[2:]]
    after_BV, first_BV = runner.mixed(cache, NEXT[:2], read, rest, allowed_BV=allowed_BV)
    rows = [*longer(NEXT)[:2], *longer(NEXT, NEXT)[:2], *ROWS[2:]]
    expected_BV = last(runner, rows, [*SLOTS[:2], *SLOTS])
    expected_BV[:, 5] = -torch.inf
    assert first_BV is not None
    close(torch.cat([logits_BV, after_BV, first_BV]), expected_BV)


def greedy(runner: Runner, prompt: list[int], slot: int, tokens: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < tokens:
        token = int(last(runner, [[*prompt, *ids]], [slot]).argmax())
        if token in runner.model.stop_ids:
            break
        ids.append(token)
    return ids


def test_prompts_are_answered_with_it(opened: Opened) -> None:
    """Greedy tokens of whole forwards; drawn ones the same in any company; logits of those still being answered."""
    runner = opened.runner
    expected = [greedy(runner, row, slot, 8) for row, slot in zip(ROWS, SLOTS, strict=True)]
    steps: list[list[int]] = []
    answers = answer(runner, ROWS, Sampling(8), slots=SLOTS, on_step=lambda rows, logits_NV: steps.append(rows))
    assert answers == expected
    assert sorted(steps[0]) == [0, 1, 2, 3] and len(steps) == max(map(len, expected))
    assert answer(runner, ROWS, Sampling(8), slots=SLOTS, drafts=expected, batch=3) == expected
    drawn = Sampling(8, temperature=1.5, seed=3, top_p=0.9, repetition_penalty=1.2)
    together = answer(runner, ROWS, drawn, slots=SLOTS)
    assert together == answer(runner, ROWS, drawn, slots=SLOTS, batch=1)
    assert together != expected
    assert answer(runner, ROWS[:1], Sampling(8)) == [greedy(runner, ROWS[0], BASE, 8)]
    with pytest.raises(StillhouseError, match="does not fit the model's context"):
        answer(runner, [[5] * runner.model.context])


def test_rows_that_have_ended_leave_the_decoder(opened: Opened) -> None:
    """By the runner's own prefill and decode, whatever else could answer."""
    runner, alive = opened.runner, [0, 1, 2, 3]
    decoder, rows = RunnerDecoder(runner, ROWS, SLOTS), [list(row) for row in ROWS]
    for leaving in ([], [1], [], [0], [0, 1]):
        close(decoder.step()[:, 0], last(runner, [rows[i] for i in alive], [SLOTS[i] for i in alive]))
        for i in alive:
            rows[i].append(NEXT[i])
        decoder.append([NEXT[i] for i in alive], [[]] * len(alive))
        kept = [row for row in range(len(alive)) if row not in leaving]
        decoder.keep(kept)
        alive = [alive[row] for row in kept]
    assert alive == []


def test_texts_are_scored_with_it(opened: Opened) -> None:
    scores = score(opened.runner, ROWS, lambda i, logits_TV: (i, logits_TV[-1]), slots=SLOTS, batch_tokens=40)
    assert [i for i, _ in scores] == [0, 1, 2, 3]
    close(torch.stack([logits_V for _, logits_V in scores]), last(opened.runner))


def test_the_machine_is_prepared_and_let_go_of(opened: Opened) -> None:
    """Numbers stay the same within rounding."""
    runner = opened.runner
    before = last(runner)
    runner.hand_over()
    runner.take_over(4)
    with runner.bulk():
        close(last(runner), before)
    close(last(runner), before)


def test_a_model_is_as_it_was_when_its_runner_is_closed(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    before = last(TorchRunner(model), ROWS[:1], [BASE])
    runner = open_runner(model, Config(2, packed_bytes=2**20, deterministic=True))
    assert runner.slots == 2 and not runner.mixes
    runner.close()
    assert torch.equal(last(TorchRunner(model), ROWS[:1], [BASE]), before)


def test_nothing_computes_a_model_that_is_only_text() -> None:
    with pytest.raises(ModelError, match="nothing here computes a NumpyModel"):
        open_runner(numpy_runner.numpy_model())
