"""What lies between products: torch's values and gradients for any sizes, and networks that compute what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from stillhouse.compute import kernels
from stillhouse.compute.fused import attention, between, combined, gated, gated_halves, norm, taken
from stillhouse.compute.kernels import built, usable
from tests.architectures import ALL

pytestmark = pytest.mark.skipif(not built(), reason="the kernels were not built: no C++ compiler")
TYPES = st.sampled_from([torch.float32, torch.bfloat16])
WIDTHS = st.integers(1, 70)


def drawn(*shape: int, of: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).mul(2).to(of)


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *given: Tensor) -> None:
    """Values and gradients of both, the other one's computed in float64."""
    exact = given[0].dtype == torch.float32
    mine = [x.detach().clone().requires_grad_() for x in given]
    others = [x.detach().double().requires_grad_() for x in given]
    y, other = ours(*mine), theirs(*others)
    came = drawn(*y.shape, of=y.dtype)
    y.backward(came)
    other.backward(came.double())
    for one, another in zip([y, *(x.grad for x in mine)], [other, *(x.grad for x in others)], strict=True):
        assert one is not None and another is not None and one.dtype == given[0].dtype
        close, most = 1e-4 if exact else 2e-2, max(1, float(another.detach().abs().max()))
        torch.testing.assert_close(one.double(), another, rtol=close, atol=close * most)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), width=WIDTHS, of=TYPES, offset=st.sampled_from([0.0, 1.0]))
def test_norm(rows: int, width: int, of: torch.dtype, offset: float) -> None:
    weight_D = drawn(width, of=of)

    def theirs(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * (weight_D.double() + offset)

    same(lambda x: norm(x, weight_D, 1e-5, offset), theirs, drawn(rows, 3, width, of=of))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), width=WIDTHS, of=TYPES)
def test_gates(rows: int, width: int, of: torch.dtype) -> None:
    gate, up = drawn(rows, width, of=of), drawn(rows + 1, width, of=of)[1:]
    same(gated, lambda g, u: F.silu(g) * u, gate, up)
    same(gated_halves, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], torch.cat([gate, up], -1))


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 6), chosen=st.integers(1, 3), spare=st.integers(0, 4), width=WIDTHS, of=TYPES)
def test_rows_of_experts_and_back(tokens: int, chosen: int, spare: int, width: int, of: torch.dtype) -> None:
    count = tokens * chosen
    place_NK = torch.randperm(count + spare, generator=torch.Generator().manual_seed(count))[:count].view(tokens, -1)
    x_TH, weight_NK = drawn(count + spare, width, of=of), drawn(tokens, chosen, of=of)
    same(
        lambda x, w: combined(x, place_NK, w), lambda x, w: (x[place_NK] * w[..., None]).sum(1), x_TH, weight_NK,
    )  # fmt: skip
    token_T = torch.zeros(count + spare, dtype=torch.long)
    token_T[place_NK.flatten()] = torch.arange(tokens).repeat_interleave(chosen)
    read_T1 = torch.zeros(count + spare, 1).index_fill_(0, place_NK.flatten(), 1)
    x_NH = drawn(tokens, width, of=of)
    same(lambda x: taken(x, token_T, place_NK) * read_T1.to(of), lambda x: x[token_T] * read_T1, x_NH)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    shared=st.integers(1, 3),
    each=st.integers(1, 3),
    dim=WIDTHS,
    window=st.none() | st.integers(1, 50),
    of=TYPES,
)
def test_attention(lengths: list[int], shared: int, each: int, dim: int, window: int | None, of: torch.dtype) -> None:
    start_B = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    row_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    back_TT = torch.arange(len(row_T))[:, None] - torch.arange(len(row_T))
    sees_TT = (row_T[:, None] == row_T) & (back_TT >= 0) & (back_TT < (window or len(row_T)))

    def theirs(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys, values = (s.repeat_interleave(each, 1).transpose(0, 1) for s in (keys, values))
        scores = (query.transpose(0, 1) @ keys.mT / dim).masked_fill(~sees_TT, -torch.inf)
        return (scores.softmax(-1) @ values).transpose(0, 1)

    states = [drawn(len(row_T), heads, dim, of=of) for heads in (shared * each, shared, shared)]
    same(lambda q, k, v: attention(q, k, v, start_B, window, 1 / dim), theirs, *states)


def test_threads_change_nothing_and_no_number_stays_none() -> None:
    x, weight_D = drawn(700, 300, of=torch.bfloat16), drawn(300, of=torch.bfloat16)
    x[3, 7] = torch.nan
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(norm(x, weight_D, 1e-6))
    torch.set_num_threads(before)
    assert found[0][3].isnan().all() and not found[0][[*range(3), *range(4, 700)]].isnan().any()
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)
    assert gated_halves(torch.full((2, 40), torch.nan, dtype=torch.bfloat16)).isnan().all()
    far = torch.tensor([torch.inf, -torch.inf, 300.0, -300.0])
    torch.testing.assert_close(gated(far, torch.ones(4))[[0, 2]], far[[0, 2]])


def test_what_comes_later_in_a_row_is_not_seen_even_where_it_is_no_number() -> None:
    query, keys, values = (drawn(9, 2, 8) for _ in range(3))
    keys[5], values[5] = torch.nan, torch.inf
    assert attention(query, keys, values, torch.tensor([0, 9]), None, 1.0)[:5].isfinite().all()


@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_network_computes_what_it_did_and_keeps_nothing(name: str, of: torch.dtype) -> None:
    network: PreTrainedModel = ALL[name](640)
    network.to(dtype=of)  # type: ignore[call-arg]
    ids_BT = torch.randint(0, 640, (2, 9), generator=torch.Generator().manual_seed(0))
    before = {m: {*vars(m)} for m in network.modules()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * drawn(*parameter.shape, of=of))
        expected = network(ids_BT).logits
        close = 1e-3 if of == torch.float32 else 0.3 * float(expected.abs().max())  # rounding chooses other experts
        with between(network):
            changed = [m for m in network.modules() if {*vars(m)} != before[m]]
            torch.testing.assert_close(network(ids_BT).logits, expected, rtol=close, atol=close)
        assert torch.equal(network(ids_BT).logits, expected)
    norms = [m for m in network.modules() if type(m).__name__.endswith("RMSNorm") and hasattr(m, "weight")]
    silu = [m for m in network.modules() if type(m).__name__ in ("LlamaMLP", "Qwen3MLP", "OlmoeExperts")]
    assert {*norms, *silu} <= {*changed}, "every norm, and every gate by SiLU"
    assert not any("Gemma" in type(m).__name__ and "MLP" in type(m).__name__ for m in changed), "they gate by GELU"
    assert all({*vars(m)} == before[m] for m in network.modules())


def test_weights_that_learn_get_their_gradients() -> None:
    network = ALL["llama"](640)
    with between(network):
        network(torch.arange(6)[None]).logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


class OddRMSNorm(nn.Module):
    """With whatever forward a test gives it."""

    def __init__(self, forward: Callable[..., Tensor], eps: float | None = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps, self.own = nn.Parameter(torch.ones(8)), eps, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x)


class ClampedMLP(nn.Module):
    """As DeepSeek-V4 and others have it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x).clamp(max=10), self.up_proj(x).clamp(-10, 10)
        found: Tensor = self.down_proj(self.act_fn(gate) * up)
        return found


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def refused(x: Tensor) -> Tensor:
    raise TypeError("forward() missing 1 required positional argument: 'gate'")


@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "part",
    [
        OddRMSNorm(lambda x: x),
        OddRMSNorm(lambda x: rms(x - x.mean(-1, keepdim=True))),
        OddRMSNorm(lambda x: rms(x, 1e-3)),
        OddRMSNorm(rms, eps=None),
        OddRMSNorm(lambda x: rms(x).clamp(-2, 2)),
        OddRMSNorm(refused),
        ClampedMLP(),
    ],
)
def test_what_only_looks_like_it_is_left_alone(part: nn.Module, of: torch.dtype) -> None:
    network = nn.Sequential(part).to(of)
    with between(network):
        assert "forward" not in vars(part)


def test_a_forward_that_somebody_put_there_stays() -> None:
    network = ALL["llama"](640)
    norm_layer = next(m for m in network.modules() if type(m).__name__.endswith("RMSNorm"))
    norm_layer.forward = own = lambda x: x
    with between(network), between(network):
        assert norm_layer.forward is own
        assert sum("forward" in vars(m) for m in network.modules()) > 1
    assert norm_layer.forward is own


def test_without_kernels_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    network = ALL["llama"](640)
    with between(network):
        assert not any("forward" in vars(m) for m in network.modules())
    assert not usable(torch.ones(2)) and not built()


def test_a_library_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "VERSION", -1)
    assert kernels.library.__wrapped__() is None
