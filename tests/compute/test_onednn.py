"""Private operators of torch: what they compute is `linear`, and without them nothing is packed."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from stillhouse.compute.onednn import available, multiply, reorder
from stillhouse.compute.packed import pack


def missing(*_: object) -> Tensor:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no such attribute")


def refusing(*_: object) -> Tensor:
    raise RuntimeError("this processor has no such product")


def wrong(x_TI: Tensor, packed: Tensor, *_: object) -> Tensor:
    return torch.zeros(len(x_TI), 3)


@pytest.mark.skipif(not available(), reason="this torch has no such operators")
def test_the_product_is_that_of_linear() -> None:
    x_TI, weight_OI, bias_O = torch.randn(5, 40), torch.randn(30, 40), torch.randn(30)
    expected = nn.functional.linear(x_TI, weight_OI, bias_O)
    torch.testing.assert_close(multiply(x_TI, reorder(weight_OI), bias_O), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "other"),
    [*product(("_reorder_linear_weight", "_linear_pointwise"), (missing, refusing)), ("_linear_pointwise", wrong)],
)
def test_without_them_layers_compute_as_they_did(name: str, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(300, 300)
    expected = layer(torch.ones(2, 300))
    monkeypatch.setattr(torch.ops.mkldnn, name, other)
    assert not available()
    pack(nn.Sequential(layer), 2**30)
    assert "forward" not in vars(layer)
    assert torch.equal(layer(torch.ones(2, 300)), expected)
