"""The kernels of every instruction set this processor has give what the best one gives."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from stillhouse.compute.fused import attention, combined, gated, gated_halves, norm, taken
from stillhouse.compute.kernels import library
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.lora.stacked import RowAdapters, add_stacked
from tests.architectures import ALL

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not built")


@pytest.fixture
def chosen() -> Iterator[ctypes.c_int32]:
    """0: any processor's, 1: AVX2, 2: AVX-512; at first the best there is."""
    found = library()
    assert found is not None
    number = ctypes.c_int32.in_dll(found, "stillhouse_set")
    best = number.value
    yield number
    number.value = best


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).requires_grad_()


def adapted(dtype: torch.dtype) -> list[Tensor]:
    x_TI, a_SERI, b_SERO = drawn(50, 37, dtype=dtype), drawn(3, 1, 5, 37), drawn(3, 1, 5, 41)
    slot_T = torch.tensor([0] * 11 + [2] * 20 + [-1] * 3 + [1] * 16)
    chosen = RowAdapters(slot_T, slice(None), [50], lambda: None)
    out_TO = add_stacked(torch.ones(50, 41, dtype=dtype), x_TI, a_SERI, b_SERO, chosen, 0.5)
    return [out_TO, x_TI, a_SERI, b_SERO]


WAYS: dict[str, Callable[[torch.dtype], list[Tensor]]] = {
    "norm": lambda d: [norm(x := drawn(9, 70, dtype=d), torch.ones(70, dtype=d), 1e-6), x],
    "gated": lambda d: [gated(x := drawn(9, 70, dtype=d), y := drawn(9, 70, dtype=d) * 1.0), x, y],
    "gated_halves": lambda d: [gated_halves(x := drawn(9, 66, dtype=d)), x],
    "experts": lambda d: [
        combined(
            taken(x := drawn(4, 35, dtype=d), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]), torch.arange(8).view(2, 4).T),
            torch.arange(8).view(2, 4).T,
            w := drawn(4, 2, dtype=d),
        ),
        x,
        w,
    ],
    "attention": lambda d: [
        attention(
            q := drawn(40, 4, 20, dtype=d), k := drawn(40, 2, 20, dtype=d), v := drawn(40, 2, 20, dtype=d),
            torch.tensor([0, 3, 20, 40]), 9, 0.3,
        ),
        q, k, v,
    ],
    "adapted": adapted,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_what_lies_between_products_and_adapters_in_training(
    way: str, dtype: torch.dtype, chosen: ctypes.c_int32
) -> None:
    def computed() -> list[Tensor]:
        out, *given = WAYS[way](dtype)
        leaves = [x for x in given if x.is_leaf]
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        return [out.detach(), *torch.autograd.grad((out.float() * weights).sum(), leaves)]

    expected, close = computed(), 1e-4 if dtype == torch.float32 else 3e-2
    for lesser in range(chosen.value):
        chosen.value = lesser
        for mine, best in zip(computed(), expected, strict=True):
            torch.testing.assert_close(mine, best, atol=close, rtol=close)


def test_adapters_of_rows_that_are_answered(chosen: ctypes.c_int32) -> None:
    network = ALL["llama"]()
    bank = AdapterBank(network, 3, LoraConfig(rank=7, alpha=8.0))
    ids_BT = torch.randint(0, 320, (3, 11), generator=torch.Generator().manual_seed(0))
    for half in (False, True):
        for slot in range(3):
            bank.reset(slot, slot)
        with torch.no_grad():
            for p in bank.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
                p.copy_(p.bfloat16() if half else p)
        for slot in range(3):
            bank.load(slot, bank.export(slot), bank.adapter_config("base"))

        def answered() -> Tensor:
            with torch.inference_mode(), bank.step(bank.batch_adapters(), [2, -1, 0]):
                logits: Tensor = network(input_ids=ids_BT).logits
            return logits

        expected, best = answered(), chosen.value
        for lesser in range(best):
            chosen.value = lesser
            torch.testing.assert_close(answered(), expected, atol=1e-4, rtol=1e-4)
        chosen.value = best
