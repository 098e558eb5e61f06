"""C1, C2 and routing agreement on hidden states and choices made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stillhouse.gate import adjacency, boundary, routing
from stillhouse.gating import Context
from stillhouse.gating.geometry import adjacency_specificity, begins, boundary_contrast
from stillhouse.gating.measure import DoesNotApply
from stillhouse.gating.passages import same_sets
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.records import Candidate, Study
from stillhouse.runners import TorchRunner
from tests.gating.conftest import BROKEN, FRESH, WILD, Bench

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def states(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def mask(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.bool)


def test_c1_of_sentences_that_point_apart() -> None:
    """Two sentences, each of one direction: distance 1 across, 0 inside. Lengths do not matter."""
    hidden_TH = states(EAST, [5.0, 0.0], NORTH, [0.0, 0.1])
    assert boundary_contrast(hidden_TH, mask(0, 0, 1, 0)) == pytest.approx(1.0)
    assert boundary_contrast(hidden_TH, mask(0, 1, 0, 1)) == pytest.approx(-1.0)


def test_c1_of_opposite_and_of_equal_states() -> None:
    assert boundary_contrast(states(EAST, EAST, WEST), mask(1, 0, 1)) == pytest.approx(2.0)
    assert boundary_contrast(states(EAST, EAST, EAST), mask(0, 0, 1)) == pytest.approx(0.0)


@pytest.mark.parametrize("begins_T", [mask(1, 0, 0), mask(0, 1, 1)])
def test_c1_needs_borders_and_interiors(begins_T: torch.Tensor) -> None:
    assert boundary_contrast(states(EAST, NORTH, WEST), begins_T) is None


def test_c2_by_hand() -> None:
    """Neighbours: 1, 0, 1. All six pairs: (0,1) 1, (2,3) 1, the other four 0."""
    assert adjacency_specificity(states(EAST, EAST, NORTH, NORTH)) == pytest.approx(2 / 3 - 2 / 6)
    assert adjacency_specificity(states(EAST, NORTH, EAST, NORTH)) == pytest.approx(0 - 2 / 6)


def test_c2_of_states_in_one_direction_is_nothing() -> None:
    assert adjacency_specificity(states(EAST, EAST, EAST)) == pytest.approx(0.0)
    assert adjacency_specificity(states(EAST, NORTH)) is None


def test_c2_is_the_mean_over_all_pairs() -> None:
    hidden_TH = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    cosine_TT = torch.nn.functional.cosine_similarity(hidden_TH[:, None], hidden_TH[None], dim=-1)
    pairs = [float(cosine_TT[i, j]) for i in range(9) for j in range(i)]
    near = [float(cosine_TT[i, i + 1]) for i in range(8)]
    assert adjacency_specificity(hidden_TH) == pytest.approx(sum(near) / 8 - sum(pairs) / 36, abs=1e-6)


def test_sentences_begin_where_they_begin_whoever_owns_the_space() -> None:
    """The space before a word belongs to the word, stands alone, or is nobody's."""
    text = "He ran. She (his Ann) sat.\n\nend"
    at = text.index("She")
    words = [(0, 2), (2, 6), (6, 7), (7, at + 3), (at + 3, len(text) - 5), (len(text) - 5, len(text))]
    assert begins(text, words).tolist() == [False, False, False, True, False, True]
    split = [(0, 7), (7, 8), (8, at + 3), (at + 3, len(text) - 3), (len(text) - 3, len(text))]
    assert begins(text, split).tolist() == [False, False, True, False, True]
    assert begins("Only one.", [(0, 0), (0, 4), (4, 9)]).tolist() == [False] * 3


def test_sets_of_experts_have_no_order() -> None:
    left, right = torch.tensor([[0, 3], [1, 2], [4, 5]]), torch.tensor([[3, 0], [1, 3], [5, 4]])
    assert same_sets(left, right).tolist() == [True, False, True]


def test_a_student_like_its_base_has_moved_on_no_axis(bench: Bench) -> None:
    for gate in (boundary, adjacency):
        result = gate.check(bench.candidate, gate.Config(), bench.context(FRESH))
        assert result.value == pytest.approx(0.0, abs=1e-6)
        assert result.passed
        assert result.n == 4
        assert set(result.details["layers"]) == {"middle", "last"}
        wild = gate.check(bench.candidate, gate.Config(threshold=1e-3), bench.context(WILD))
        assert not wild.passed
        with pytest.raises(FloatingPointError):
            gate.check(bench.candidate, gate.Config(), bench.context(BROKEN))


def test_axes_and_routing_have_nothing_to_say_without_text(bench: Bench) -> None:
    ctx = bench.context(FRESH)
    ctx.texts = ("Word",)
    assert boundary.check(bench.candidate, boundary.Config(), ctx).value is None
    assert isinstance(routing.check(bench.candidate, routing.Config(), ctx), DoesNotApply)


def test_routing_agreement_of_a_mixture_of_experts(random_model: Callable[..., Model]) -> None:
    """Slot 0 is the base; slot 1 is noise, under which tokens go elsewhere. Both come from one pass."""
    model = random_model("qwen3_moe")
    bank = AdapterBank(model.network, 2, LoraConfig(rank=4))
    try:
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter[1].normal_(std=3.0, generator=torch.Generator().manual_seed(0))
        candidate = Candidate("adapter", "a", model.fingerprint, "a" * 64, {}, {}, 1, ())
        texts = ("The first sentence. The second one is longer, and the last. End.",)
        same, other = (
            routing.check(
                candidate, routing.Config(), Context(TorchRunner(model, bank), slot, Study((), ()), texts=texts)
            )
            for slot in (0, 1)
        )
    finally:
        bank.detach()
    assert not isinstance(same, DoesNotApply)
    assert not isinstance(other, DoesNotApply)
    assert same.value == 1.0
    assert set(same.details["layers"]) == {1.0}
    assert other.value is not None
    assert other.value < 0.9
    assert other.value == pytest.approx(sum(other.details["layers"]) / len(other.details["layers"]))
