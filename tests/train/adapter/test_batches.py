"""Batches are a function of the step alone; every example comes once before any twice; kinds weigh the same."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.signals import DistillArtifact, Kind, PositionTarget
from stillhouse.train.adapter.batches import AdapterBatch, Drawn, ExampleSource, Mix, batches

CPU = torch.device("cpu")
MIX = Mix({"fact": 3, "unknown": 2, "anchor": 4}, {"fact": 1.0, "unknown": 0.5, "anchor": 0.25}, whole=1)


def artifact(kind: Kind, length: int, targets: int, start: int) -> DistillArtifact:
    made = tuple(
        PositionTarget(length - targets + i, 0, (start + i,), (-0.5,), 0.4, (1, 2), (-2.0, -2.0))
        for i in range(targets)
    )
    return DistillArtifact(kind, None, b"", tuple(range(start, start + length)), made)


def source(facts: int = 5, seed: int = 0) -> ExampleSource:
    kinds: list[tuple[Kind, int]] = [("fact", facts), ("unknown", 3), ("anchor", 1)]
    made = [artifact(kind, 6 + i, 2 + i % 2, 10 * i) for kind, n in kinds for i in range(n)]
    return ExampleSource(made, MIX, seed, CPU)


def alike() -> list[DistillArtifact]:
    """Examples that begin the same for three tokens and for five."""
    rows = [(7, 8, 9, 1, 2, 3), (7, 8, 9, 1, 2, 4, 5), (7, 8, 9, 6, 6, 6, 6, 6), (5, 8, 9, 1, 2, 3)]
    made = [PositionTarget(4, 0, (1,), (-0.5,), 0.4, (1, 2), (-2.0, -2.0))]
    last = PositionTarget(5, 0, (2,), (-0.5,), 0.4)
    return [DistillArtifact("fact", None, b"", ids, (*made, last)) for ids in rows] + [
        DistillArtifact("unknown", None, b"", ids, (*made, last)) for ids in rows[:2]
    ]


def batch(sources: dict[int, ExampleSource], step: int, pad: int, device: torch.device, **hard: object) -> AdapterBatch:
    """All rows in one."""
    (only,) = batches(sources, step, pad, device, **hard)  # type: ignore[arg-type]
    return only


def test_every_example_comes_once_before_any_comes_twice() -> None:
    mine = source()
    seen: Counter[int] = Counter()
    for step in range(10):
        for kind, chosen in mine.draw(step):
            assert len(chosen) == min(MIX.rows[kind], len(mine.kinds[kind]))
            seen.update(drawn.example for drawn in chosen)
            counts = [seen[i] for i in mine.kinds[kind]]
            assert max(counts) - min(counts) <= 1
    assert mine.to_master == [*mine.kinds["fact"], *mine.kinds["unknown"]]


def test_a_step_is_the_same_whenever_and_with_whomever_it_is_made() -> None:
    one, two = source(), source(9, seed=4)
    alone, together = batch({0: one}, 3, 0, CPU), batch({0: one, 2: two}, 3, 0, CPU)
    again = batch({0: source()}, 3, 0, CPU)
    assert torch.equal(alone.ids_BT, again.ids_BT)
    mine = together.slot_P == 0
    assert torch.equal(together.weight_P[mine], alone.weight_P)
    assert torch.equal(together.example_P[mine], alone.example_P)
    assert torch.equal(together.targets.ids_PK[mine], alone.targets.ids_PK)
    rows = [i for i, slot in enumerate(together.slots) if slot == 0]
    assert torch.equal(together.ids_BT[rows][:, : alone.ids_BT.shape[1]], alone.ids_BT)
    assert together.slots == sorted(together.slots)


def test_each_kind_weighs_what_was_asked_whatever_its_tokens() -> None:
    mine = source()
    made = batch({1: mine}, 0, 0, CPU)
    kinds = [mine.artifacts[int(i)].kind for i in made.example_P]
    for kind, weight in MIX.weights.items():
        total = sum(float(w) for w, k in zip(made.weight_P, kinds, strict=True) if k == kind)
        assert total == pytest.approx(weight)


def test_targets_stand_where_their_token_is_predicted() -> None:
    mine = source()
    made = batch({0: mine}, 2, pad=99, device=CPU)
    assert made.ids_BT.shape == made.mask_BT.shape
    assert made.ids_BT.shape[1] % 8 == 0
    for p in range(len(made.row_P)):
        row, column = int(made.row_P[p]), int(made.column_P[p])
        assert made.mask_BT[row, column] == 1
        example = mine.artifacts[int(made.example_P[p])]
        target = next(t for t in example.targets if t.position == column + 1)
        assert int(made.targets.ids_PK[p, 0]) == target.ids[0]
    last = [
        max(int(c) for r, c in zip(made.row_P, made.column_P, strict=True) if r == row)
        for row in range(len(made.slots))
    ]
    assert made.lengths == [column + 1 for column in last], "a token that nothing is predicted from is left out"
    assert bool((made.ids_BT[made.mask_BT == 0] == 99).all())


def said(kind: Kind, *answer: int) -> DistillArtifact:
    """An example of two tokens, and all of its answer as targets."""
    made = tuple(PositionTarget(2 + n, 0, (token,), (-0.5,), 0.4) for n, token in enumerate(answer))
    return DistillArtifact(kind, None, b"", (8, 9, *answer), made)


@pytest.mark.parametrize(
    ("facts", "read"),
    [
        ([(5, 6)], 1),  # the first token tells
        ([(1, 6), (5, 2, 3)], 2),
        ([(1, 2, 6), (1, 7)], 3),
        ([(1, 2, 3, 4, 4)], 4),  # a fact's answer begins with all of it
        ([], 1),
    ],
)
def test_what_is_not_known_is_read_as_far_as_it_is_told_from_a_fact(facts: list[tuple[int, ...]], read: int) -> None:
    made = [*(said("fact", *answer) for answer in facts), *(said("unknown", 1, 2, 3, 4) for _ in range(3))]
    mine = ExampleSource(made, Mix({"fact": 2, "unknown": 3, "anchor": 0}, MIX.weights, whole=1), 0, CPU)
    drawn = dict(mine.draw(0))["unknown"]
    assert [one.targets for one in drawn] == [read, read, 4]
    assert [mine.ids(one) for one in drawn] == [[8, 9, *(1, 2, 3)[: n - 1]] for n in (read, read, 4)]
    data = batch({0: mine}, 0, 0, CPU)
    for one in drawn:
        assert int((data.example_P == one.example).sum()) == one.targets
        assert data.targets.ids_PK[data.example_P == one.example, 0].tolist() == [1, 2, 3, 4][: one.targets]
    assert [len(mine.rows_of(Drawn(one.example, 2))) for one in drawn] == [2, 2, 2]


def test_every_unknown_question_is_read_to_its_end_in_time() -> None:
    made = [said("unknown", 1, 2, 3, 4) for _ in range(12)]
    mine = ExampleSource(made, Mix({"fact": 0, "unknown": 4, "anchor": 0}, MIX.weights, whole=1), 0, CPU)
    whole = {one.example for step in range(90) for _, drawn in mine.draw(step) for one in drawn if one.targets == 4}
    assert whole == set(range(12))


def test_batches_of_few_tokens_hold_the_same_rows_by_length() -> None:
    sources = {0: source(), 2: source(9, seed=4)}
    whole, parts = batch(sources, 3, 0, CPU), batches(sources, 3, 0, CPU, tokens=64)
    assert len(parts) > 1
    assert all(part.ids_BT.numel() <= 64 and part.slots == sorted(part.slots) for part in parts)
    assert sum(len(part.slots) for part in parts) == len(whole.slots)
    widths = [part.ids_BT.shape[1] for part in parts]
    assert widths == sorted(widths)
    for name in ("weight_P", "slot_P", "example_P", "column_P"):
        found = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(found.sort().values, getattr(whole, name).sort().values)


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=6), min_size=1, max_size=8), st.integers(0, 3))
def test_a_token_is_the_first_that_has_the_same_before_it(rows: list[list[int]], step: int) -> None:
    target = PositionTarget(1, 0, (1,), (-0.5,), 0.4)
    made = [
        DistillArtifact("fact", None, b"", (*ids, 0), (target, PositionTarget(len(ids), 0, (1,), (-0.5,), 0.4)))
        for ids in rows
    ]
    (data,) = batches({0: ExampleSource(made, MIX, 0, CPU), 1: ExampleSource(made[:2], MIX, 1, CPU)}, step, 0, CPU)
    before: list[tuple[int, ...]] = []
    for slot, ids, length in zip(data.slots, data.ids_BT.tolist(), data.lengths, strict=True):
        before += [(slot, *ids[: at + 1]) for at in range(length)]
    assert data.first == [before.index(one) for one in before]
    row_of = {where: n for n, where in enumerate(zip(data.slots, data.examples, strict=True))}
    for slot, begun, ids, length in zip(data.slots, data.begun, data.ids_BT.tolist(), data.lengths, strict=True):
        assert len(begun) == length
        for at, one in enumerate(begun):
            row = row_of[slot, one.example]
            assert one.length == data.lengths[row] and data.ids_BT[row, : at + 1].tolist() == ids[: at + 1]
