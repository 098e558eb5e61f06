"""A layer whose forward is followed or replaced: what it gives, in any order of on and off, and what is left on it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from stillhouse.compute.patch import follow, is_plain, replace

X = torch.ones(2, 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_on_and_off(order: tuple[int, ...]) -> None:
    layer = nn.Linear(3, 4)
    plain = layer(X)
    values = [10.0, 100.0, 1000.0]
    undo = [
        follow(layer, lambda x, y: y + values[0]),
        replace(layer, lambda x: plain + values[1]),
        follow(layer, lambda x, y: y + values[2]),
    ]
    on = set(range(3))
    torch.testing.assert_close(layer(X), plain + sum(values))
    for number in order:
        undo[number]()
        on.remove(number)
        torch.testing.assert_close(layer(X), plain + sum(values[n] for n in on))
        assert is_plain(layer) == (1 not in on)
    assert "forward" not in vars(layer), "nothing is left"


def test_what_follows_sees_what_goes_in() -> None:
    layer = nn.Linear(3, 3, bias=False)
    seen: list[Tensor] = []

    def then(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return x

    follow(layer, then)
    assert layer(X) is X and seen[0] is X
    assert layer(input=X) is X, "by name, as torch calls it"


def test_a_copy_computes_from_its_own_weights() -> None:
    layer = nn.Linear(3, 4)
    follow(layer, lambda x, y: y + 1)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert torch.equal(layer(X), torch.ones(2, 4)) and not torch.equal(other(X), torch.ones(2, 4))
