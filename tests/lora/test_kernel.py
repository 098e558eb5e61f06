"""The compiled kernel of adapted rows: what torch's operators give, for any sizes, and no value beyond its own."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stillhouse.lora.kernel import COLUMNS, LANES, AdapterRuns, Target, packed_a, packed_b, rows_kernel

pytestmark = pytest.mark.skipif(
    rows_kernel() is None and not (sys.platform == "linux" and shutil.which("g++")), reason="there is no C++ compiler"
)


class Some:
    """Adapters of targets with one input, and what they add to tokens."""

    def __init__(self, adapters: int, inner: int, ranks: Sequence[int], outer: int, half: bool, seed: int = 0) -> None:
        self.ranks, self.outer, self.half = ranks, outer, half
        generator = torch.Generator().manual_seed(seed)
        shapes = [(rank, inner) for rank in ranks], [(outer, rank) for rank in ranks]
        drawn = [[[torch.randn(s, generator=generator) for s in two] for two in shapes] for _ in range(adapters)]
        self.weights = [[[t.bfloat16().float() for t in two] for two in both] for both in drawn]
        kept = torch.bfloat16 if half else torch.float32
        self.packed = [
            torch.cat([packed_a(a, half), *(packed_b(b, half) for b in bs)]).to(kept) for a, bs in self.weights
        ]

    def add(self, x_TI: Tensor, runs: Sequence[tuple[int, int]], threads: int = 1) -> list[Tensor]:
        """Each target's, by the kernel; `runs`: (adapter, -1 is none; tokens)."""
        kernel, made = rows_kernel(), []
        assert kernel is not None, "it was not built: pip install -e . says why"
        tokens, inner = x_TI.shape
        all_runs = AdapterRuns([(self.packed[n] if n >= 0 else None, many) for n, many in runs], threads)
        ranks = -(-sum(self.ranks) // LANES) * LANES
        z_TG, first, b = torch.full((tokens, ranks), torch.nan), 0, ranks * inner
        for place, rank in enumerate(self.ranks):
            out_TO = torch.ones(tokens + 1, self.outer)  # the last is nobody's
            target = Target(inner, ranks, 0, first, rank, self.outer, b, z_TG.data_ptr(), 0.5)
            kernel(ctypes.addressof(all_runs), ctypes.addressof(target), x_TI.data_ptr(), out_TO.data_ptr(), place == 0)
            assert bool((out_TO[-1] == 1).all()), "beyond its own"
            made.append(out_TO[:-1])
            first, b = first + rank, b + rank * -(-self.outer // COLUMNS) * COLUMNS
        return made

    def expected(self, x_TI: Tensor, runs: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The same by torch."""
        owner_T = [n for n, many in runs for _ in range(many)]
        found = torch.ones(len(self.ranks), len(x_TI), self.outer)
        for place in range(len(self.ranks)):
            for t, adapter in enumerate(owner_T):
                found[place, t] = self._one(x_TI[t], adapter, place)
        return list(found)

    def _one(self, x_I: Tensor, adapter: int, place: int) -> Tensor:
        if adapter < 0:
            return torch.ones(self.outer)
        a, b = (two[place] for two in self.weights[adapter])
        return 1 + 0.5 * (b @ (a @ x_I))


@given(
    runs=st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 9)), max_size=5),
    inner=st.integers(1, 150),
    ranks=st.lists(st.integers(1, 33), min_size=1, max_size=3),
    outer=st.integers(1, 200),
    half=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_rows_are_those_of_torch(
    runs: list[tuple[int, int]], inner: int, ranks: list[int], outer: int, half: bool, threads: int, seed: int
) -> None:
    if half:
        inner, ranks = 2 * inner, [2 * rank for rank in ranks]
    some = Some(3, inner, ranks, outer, half, seed)
    x_TI = torch.randn(sum(many for _, many in runs), inner, generator=torch.Generator().manual_seed(seed))
    for found, expected in zip(some.add(x_TI, runs, threads), some.expected(x_TI, runs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


def test_a_token_is_the_same_in_any_company_of_rows() -> None:
    some, x_TI = Some(16, 512, [16], 600, True), torch.randn(16, 512)
    (together,) = some.add(x_TI, [(n, 1) for n in range(16)], threads=2)
    (apart,) = some.add(x_TI[3:4].contiguous(), [(3, 1)])
    assert torch.equal(together[3:4], apart)


def test_half_the_bytes_lose_nothing() -> None:
    x_TI, runs = torch.randn(9, 128), [(0, 1), (1, 8)]
    whole, half = (Some(2, 128, [16, 16], 96, half).add(x_TI, runs) for half in (False, True))
    for found, exact in zip(half, Some(2, 128, [16, 16], 96, True).expected(x_TI, runs), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)
    assert all(map(torch.equal, half, whole))
