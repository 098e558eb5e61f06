"""Adapters in training: the kernel's and torch's values and gradients are those of the definition, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillhouse.compute import kernels as models_kernels
from stillhouse.lora.stacked import RowAdapters, add_stacked

SCALE = 0.5
SIZES = st.integers(1, 40)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def row_adapters(adapter_T: Tensor, slots: int, experts: int, rank: int, ends: list[int]) -> RowAdapters:
    slot_T = torch.where(adapter_T < 0, -1, adapter_T // experts)
    keep_TG = slot_T[:, None] == torch.arange(slots).repeat_interleave(rank)
    return RowAdapters(adapter_T, slice(None), ends, lambda: keep_TG)


def by_definition(out_TO: Tensor, x_TI: Tensor, a_SERI: Tensor, b_SERO: Tensor, adapter_T: Tensor) -> Tensor:
    live_T1 = (adapter_T >= 0)[:, None]
    a_TRI, b_TRO = (p.flatten(0, 1)[adapter_T.clamp(min=0)] for p in (a_SERI, b_SERO))
    added_TO = torch.einsum("tro,tri,ti->to", b_TRO, a_TRI, x_TI)
    return out_TO + SCALE * torch.where(live_T1, added_TO, 0)


@pytest.mark.parametrize("kernels", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 11), min_size=2, max_size=2), min_size=1, max_size=3),
    none=st.booleans(),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    of=st.sampled_from([torch.float32, torch.bfloat16]),
    other_way=st.booleans(),
)
def test_values_and_gradients(
    kernels: bool, counts: list[list[int]], none: bool, sizes: tuple[int, int, int], of: torch.dtype, other_way: bool
) -> None:
    """`counts`: rows of every expert by slot; `other_way`: B lies as a linear target's does."""
    (inner, rank, outer), experts, slots = sizes, len(counts), 2
    adapters, ends = [], []
    for expert, rows in enumerate(counts):
        adapters += [slot * experts + expert for slot, many in enumerate(rows) for _ in range(many)]
        ends.append(len(adapters))
    adapter_T = torch.tensor([-1 if none and n % 3 == 0 else a for n, a in enumerate(adapters)], dtype=torch.long)
    out_TO, x_TI = drawn(len(adapters), outer).to(of), drawn(len(adapters), inner).to(of)
    a_SERI, b_SERO = drawn(slots, experts, rank, inner), drawn(slots, experts, rank, outer)
    b_SERO = b_SERO.mT.contiguous().mT if other_way else b_SERO
    mine = [p.detach().clone().requires_grad_() for p in (x_TI, a_SERI, b_SERO)]
    exact = [p.detach().double().requires_grad_() for p in (x_TI, a_SERI, b_SERO)]
    came = drawn(*out_TO.shape).to(of)
    chosen = row_adapters(adapter_T, slots, experts, rank, ends)
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            patch.setattr(models_kernels, "library", lambda: None)
        with torch.autocast("cpu", torch.bfloat16, enabled=of == torch.bfloat16):
            y = add_stacked(out_TO.clone(), mine[0], mine[1], mine[2], chosen, SCALE)
        y.backward(came)
    other = by_definition(out_TO.double(), exact[0], exact[1], exact[2], adapter_T)
    other.backward(came.double())
    assert y.dtype == of
    for one, another in zip([y, *(p.grad for p in mine)], [other, *(p.grad for p in exact)], strict=True):
        assert one is not None and another is not None
        close, most = 1e-4 if of == torch.float32 else 3e-2, max([1.0, *another.detach().abs().flatten().tolist()])
        torch.testing.assert_close(one.double(), another, rtol=close, atol=close * most)


def test_two_threads_add_up_to_one_and_a_broken_adapter_stays_alone() -> None:
    if not models_kernels.built():
        pytest.skip("the kernels were not built: no C++ compiler")
    adapter_T = torch.tensor([0, 1]).repeat_interleave(300)
    chosen = row_adapters(adapter_T, 2, 1, 16, [600])
    found: list[list[Tensor]] = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        x_TI, a_SERI, b_SERO = drawn(600, 64), drawn(2, 1, 16, 64), drawn(2, 1, 16, 64)
        a_SERI[1, 0, 3, 5] = torch.inf
        for parameter in (x_TI, a_SERI, b_SERO):
            parameter.requires_grad_()
        y = add_stacked(torch.zeros(600, 64), x_TI, a_SERI, b_SERO, chosen, SCALE)
        y[:300].sum().backward()
        found.append([y.detach(), *(p.grad for p in (x_TI, a_SERI, b_SERO) if p.grad is not None)])
    torch.set_num_threads(before)
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert found[0][0][:300].isfinite().all() and not found[0][0][300:].isfinite().all()
