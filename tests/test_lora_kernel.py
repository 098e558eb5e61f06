"""The compiled kernel of adapted rows: what torch's operators give, for any sizes, and no value beyond its own."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse._lora_kernel import rows_kernel

pytestmark = pytest.mark.skipif(
    rows_kernel() is None and not (sys.platform == "linux" and shutil.which("g++")), reason="there is no C++ compiler"
)


@given(
    rows=st.integers(0, 5),
    inner=st.integers(1, 300),
    ranks=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    outer=st.integers(1, 300),
    spare=st.integers(0, 3),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_rows_are_those_of_torch(
    rows: int, inner: int, ranks: list[int], outer: int, spare: int, threads: int, seed: int
) -> None:
    kernel = rows_kernel()
    assert kernel is not None, "it was not built: pip install -e . says why"
    generator, total = torch.Generator().manual_seed(seed), sum(ranks)
    x_NX, a_NGI = (torch.randn(*s, generator=generator) for s in ((rows, inner + spare), (rows, total, inner)))
    z_NG = torch.full((rows, total), torch.nan)
    for place, rank in enumerate(ranks):
        first = sum(ranks[:place])
        b_NRO, out_NX = (torch.randn(*s, generator=generator) for s in ((rows, rank, outer), (rows, outer + spare)))
        expected_NX = out_NX.clone()
        z_N1R = torch.bmm(x_NX[:, None, :inner], a_NGI[:, first : first + rank].mT)
        expected_NX[:, :outer] += 0.5 * torch.bmm(z_N1R, b_NRO)[:, 0]
        kernel(
            *(out_NX.data_ptr(), outer + spare, x_NX.data_ptr(), inner + spare, a_NGI.data_ptr()),
            *(b_NRO.data_ptr(), z_NG.data_ptr(), rows, inner, total, first, rank, outer, place == 0, 0.5, threads),
        )
        torch.testing.assert_close(out_NX, expected_NX, rtol=1e-4, atol=1e-3)


def test_a_row_is_the_same_in_any_company() -> None:
    kernel = rows_kernel()
    assert kernel is not None
    x_NI, a_NGI, b_NRO = torch.randn(16, 512), torch.randn(16, 16, 512), torch.randn(16, 16, 600)
    found = []
    for rows in (slice(16), slice(3, 4)):
        x, a, b = x_NI[rows], a_NGI[rows], b_NRO[rows]
        out, z = torch.zeros(len(x), 600), torch.empty(len(x), 16)
        kernel(
            *(out.data_ptr(), 600, x.data_ptr(), 512, a.data_ptr(), b.data_ptr(), z.data_ptr()),
            *(len(x), 512, 16, 0, 16, 600, True, 2.0, 2),
        )
        found.append(out)
    assert torch.equal(found[0][3:4], found[1])
