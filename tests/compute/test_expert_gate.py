"""Experts' private gate: ours for a while, and experts without one compute as they always did."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stillhouse.compute.expert_gate import gate_of, is_replaced, replace_gate
from stillhouse.compute.experts import answering, is_known
from tests.architectures import ALL


class Gateless(nn.Module):
    """Stacked experts as another version of transformers might write them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 32, 16))
        self.down_proj = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        gate, up = (hidden_NH @ self.gate_up_proj[0].T).chunk(2, -1)
        return (nn.functional.silu(gate) * up) @ self.down_proj[0].T


def test_a_gate_is_replaced_and_put_back() -> None:
    network = ALL["qwen3_moe"](640)
    module = next(m for m in network.modules() if gate_of(m) is not None)
    stock, x_TI = gate_of(module), torch.randn(3, 2 * 8)
    assert stock is not None and not is_replaced(module)
    undo = replace_gate(module, torch.zeros_like)
    gate = gate_of(module)
    assert gate is not None and is_replaced(module) and not gate(x_TI).any()
    undo()
    gate = gate_of(module)
    assert gate is not None and not is_replaced(module) and torch.equal(gate(x_TI), stock(x_TI))


def test_experts_without_a_gate_are_left_alone() -> None:
    module, x_NH = Gateless(), torch.randn(5, 16)
    assert gate_of(module) is None and not is_known(module)
    with torch.inference_mode():
        expected = module(x_NH)
        with answering(module):
            assert "forward" not in vars(module)
            assert torch.equal(module(x_NH), expected)
