"""Writes into a tensor are counted where torch counts them."""

from __future__ import annotations

import torch

from stillhouse.compute.tensor_version import version_of


def test_a_write_in_place_makes_another_version() -> None:
    tensor = torch.zeros(3)
    before = version_of(tensor)
    tensor.add_(1)
    assert before is not None and version_of(tensor) == before + 1


def test_a_tensor_whose_writes_nobody_counts_has_none() -> None:
    with torch.inference_mode():
        assert version_of(torch.zeros(3)) is None
