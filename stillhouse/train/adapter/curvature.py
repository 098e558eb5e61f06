"""Against forgetting: how much an adapter changes the base's behaviour on running text, estimated from its curvature.

In: a model and the sites of an AdapterBank. Out: for every slot a quadratic form of its A and B, and the form's
gradient. The form estimates KL(base || student) in nats per token of text that has nothing to do with any memory. The
text is read once, before training. A step then costs a few small products, and counts all of that text at once.

The form is K-FAC's (Martens & Grosse 2015, arXiv 1503.05671), used as by Ritter et al. 2018 (arXiv 1805.07810). For an
adapted weight it is 1/2 tr(G dW C dW'). C are the second moments of the weight's inputs. G are those of the gradients
of log-likelihoods at its outputs; only their diagonal is stored. C is stored in blocks where a layer is wide or the
network has many experts.

It does not know facts, users or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...compute.experts import biased, gate, product
from ...generate import head
from ...lora import AdapterBank, Site
from ...models import Model
from ...text import corpus

WINDOW = 96  # tokens of a passage that are read
AT_ONCE = 512  # tokens in one forward
CHUNK = 256  # positions whose logits, of the whole vocabulary, are there at once
WIDEST = 512  # inputs in a block of C
BYTES = 2**31  # of all blocks: networks with many experts have narrower ones


@dataclass
class Factors:
    """C_EKDD (K blocks of D inputs) and the diagonal of G, G_EO.

    They are sums over text until `_read` makes means of them: C's over all tokens, G's over an expert's rows.
    """

    input_EKDD: Tensor
    output_EO: Tensor
    rows_E: Tensor

    @staticmethod
    def zero(experts: int, inputs: int, outputs: int, widest: int, device: torch.device) -> Factors:
        width = next(d for d in range(min(inputs, widest), 0, -1) if inputs % d == 0)
        blocks = torch.zeros(experts, inputs // width, width, width, device=device)
        return Factors(blocks, torch.zeros(experts, outputs, device=device), torch.zeros(experts, device=device))

    def add_inputs(self, expert: int, x_TI: Tensor) -> None:
        """Add rows that went into the weight."""
        x_KTD = x_TI.detach().float().unflatten(1, (self.input_EKDD.shape[1], -1)).transpose(0, 1)
        self.input_EKDD[expert].baddbmm_(x_KTD.mT, x_KTD)
        self.rows_E[expert] += len(x_TI)

    def add_gradients(self, expert: int, gradient_TO: Tensor) -> None:
        """Add gradients at the weight's outputs."""
        self.output_EO[expert] += gradient_TO.float().square().sum(0)


class Curvature:
    """The form of every slot: `factors` of every site, `scale` of the adapters."""

    def __init__(self, sites: Sequence[Site], factors: Sequence[Factors], scale: float) -> None:
        self.sites, self.factors, self.scale = sites, factors, scale

    @torch.no_grad()
    def pull(self, weight: float) -> Tensor:
        """drift_S in nats per token. `weight` times its gradient is added where a site has a gradient."""
        drift_S = torch.zeros(len(self.sites[0].a), device=self.sites[0].a.device)
        for site, factors in zip(self.sites, self.factors, strict=True):
            a_SERI, b_SERO = (p.float() for p in site.as_rows(site.a, site.b))
            moments_SERI = _blocks(a_SERI, factors.input_EKDD)
            steep_SERO = b_SERO * (self.scale**2 * factors.output_EO[:, None])
            inner_SERR, outer_SERR = moments_SERI @ a_SERI.mT, steep_SERO @ b_SERO.mT
            drift_S += 0.5 * (inner_SERR * outer_SERR).sum((1, 2, 3))
            if site.a.grad is None or site.b.grad is None:
                continue
            to_a, to_b = site.as_rows(site.a.grad, site.b.grad)
            to_a.add_(outer_SERR @ moments_SERI, alpha=weight)
            to_b.add_(inner_SERR @ steep_SERO, alpha=weight)
        return drift_S


def curvature(model: Model, bank: AdapterBank, tokens: int, seed: int) -> Curvature:
    """The form for about `tokens` tokens of running text, read once for all banks on this model."""
    sites = bank.sites
    newest: dict[Any, list[Factors]] = model.once(
        "curvature", dict
    )  # of one text and one choice of sites: they are big
    key = (tokens, seed, tuple(site.weight for site in sites))
    if key not in newest:
        newest.clear()
        newest[key] = _read(model, sites, tokens, seed)
    return Curvature(sites, newest[key], bank.scale)


def _read(model: Model, sites: Sequence[Site], tokens: int, seed: int) -> list[Factors]:
    ids_WT = windows(model, tokens, seed)
    draws = torch.Generator(model.device).manual_seed(seed)
    each = max(1, AT_ONCE // max(1, ids_WT.shape[1]))
    with _watched(model.network, sites) as sums, torch.enable_grad():
        for part_WT in ids_WT.split(each) if len(ids_WT) else ():
            out = model.network.base_model(input_ids=part_WT.to(model.device), use_cache=False)
            hidden_NH = out.last_hidden_state.flatten(0, 1)
            hidden_NH.backward(_fisher_gradients(model, hidden_NH.detach(), draws))
    for moments in {id(own.input_EKDD): own.input_EKDD for own in sums}.values():
        moments /= max(1, ids_WT.numel())
    for own in sums:
        own.output_EO /= own.rows_E.clamp(min=1)[:, None]
    return sums


def windows(model: Model, tokens: int, seed: int) -> Tensor:
    """Windows of passages, all of one length, so that no row is padded. None where the machine has no text."""
    rng = random.Random(f"{seed}/curvature")
    passages = sorted((model.text_ids(t) for t in corpus.anchors(2 * tokens // WINDOW + 4, seed)), key=len)
    if not passages:
        return torch.zeros(0, 0, dtype=torch.long)
    width = max(2, min(WINDOW, len(passages[len(passages) // 4]), model.context - len(model.opening)))
    wide = [ids for ids in passages if len(ids) >= width]
    chosen = rng.sample(wide, min(len(wide), max(1, tokens // width)))
    starts = [rng.randrange(len(ids) - width + 1) if n % 2 else 0 for n, ids in enumerate(chosen)]
    windows_WT = [[*model.opening, *ids[start : start + width]] for ids, start in zip(chosen, starts, strict=True)]
    return torch.tensor(windows_WT)


def _fisher_gradients(model: Model, hidden_NH: Tensor, draws: torch.Generator) -> Tensor:
    """Gradients, at the last hidden states, of the log-likelihoods of tokens that the base itself draws there.

    Their second moments are the Fisher information.
    """
    gradients = []
    for some_NH in hidden_NH.split(CHUNK):
        some_NH.requires_grad_(True)
        logprob_NV = head(model)(some_NH).log_softmax(-1, dtype=torch.float32)
        below_NV = logprob_NV.detach().exp().cumsum(-1)
        at_N1 = torch.rand(len(some_NH), 1, generator=draws, device=draws.device) * below_NV[:, -1:]
        drawn_N1 = torch.searchsorted(below_NV, at_N1).clamp(max=logprob_NV.shape[-1] - 1)
        gradients += torch.autograd.grad(logprob_NV.gather(1, drawn_N1).sum(), some_NH)
    return torch.cat(gradients)


@contextmanager
def _watched(network: PreTrainedModel, sites: Sequence[Site]) -> Iterator[list[Factors]]:
    """Inside, the sites' inputs and the gradients at their outputs are added up.

    Sites that are given the same input, as query, key and value are, share its moments.
    """
    widest = _widest(sites)
    sums = [Factors.zero(site.experts or 1, site.a.shape[-1], _outputs(site), widest, site.a.device) for site in sites]
    by_module: dict[nn.Module, list[Factors]] = {}
    for site, factors in zip(sites, sums, strict=True):
        by_module.setdefault(site.module, []).append(factors)
    with ExitStack() as undone:
        embedding = network.get_input_embeddings()
        started = embedding.register_forward_hook(lambda module, inputs, out: out.detach().requires_grad_(True))
        undone.callback(started.remove)
        before: list[tuple[Tensor, Factors]] = []
        for site in sites:
            if not site.experts:
                hook = partial(_add_dense, by_module[site.module][0], before)
                undone.callback(site.module.register_forward_hook(hook).remove)
            elif site is next(s for s in sites if s.module is site.module):
                undone.enter_context(_experts_watched(site.module, sites, sums))
        yield sums


def _widest(sites: Sequence[Site]) -> int:
    """How many inputs a block may have so that all are within `BYTES`."""
    inputs = sum((site.experts or 1) * site.a.shape[-1] for site in sites)
    return max(1, min(WIDEST, BYTES // (4 * inputs)))


def _outputs(site: Site) -> int:
    return site.as_rows(site.a, site.b)[1].shape[-1]


def _add_dense(
    factors: Factors, before: list[tuple[Tensor, Factors]], module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor
) -> None:
    if before and before[0][0] is inputs[0]:
        factors.input_EKDD = before[0][1].input_EKDD
        factors.rows_E += inputs[0][..., 0].numel()
    else:
        factors.add_inputs(0, inputs[0].flatten(0, -2))
        before[:] = [(inputs[0], factors)]
    out.register_hook(lambda gradient: factors.add_gradients(0, gradient.flatten(0, -2)))


@contextmanager
def _experts_watched(module: nn.Module, sites: Sequence[Site], sums: Sequence[Factors]) -> Iterator[None]:
    """Inside, a mixture computes its pairs sorted by expert, so that what each expert is given can be added up."""
    own = {site.weight.rpartition(".")[2]: f for site, f in zip(sites, sums, strict=True) if site.module is module}
    stock = vars(module).get("forward")

    def forward(hidden_NH: Tensor, expert_NK: Tensor, routing_NK: Tensor) -> Tensor:
        count = len(next(iter(own.values())).rows_E)
        expert_S, order_S = expert_NK.reshape(-1).sort(stable=True)
        ends = torch.bincount(expert_S, minlength=count).cumsum(0).tolist()
        rows_SX = hidden_NH.index_select(0, order_S // expert_NK.shape[1])
        for name in ("gate_up_proj", "down_proj"):
            given_SX, bias = rows_SX, getattr(module, f"{name}_bias", None)
            rows_SX = biased(product(module, name, given_SX, ends), bias, ends)
            if name in own:
                _add_parts(own[name], given_SX, rows_SX, ends)
            rows_SX = gate(module, rows_SX) if name == "gate_up_proj" else rows_SX
        weighed_SH = rows_SX * routing_NK.reshape(-1)[order_S, None].to(rows_SX.dtype)
        token_S = order_S // expert_NK.shape[1]
        return torch.zeros_like(hidden_NH).index_add(0, token_S, weighed_SH.to(hidden_NH.dtype))

    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        if stock is not None:
            vars(module)["forward"] = stock


def _add_parts(factors: Factors, given_SI: Tensor, out_SO: Tensor, ends: Sequence[int]) -> None:
    spans = [(e, s, t) for e, (s, t) in enumerate(zip([0, *ends], ends, strict=False)) if t > s]
    for expert, start, end in spans:
        factors.add_inputs(expert, given_SI[start:end])

    def add(gradient_SO: Tensor) -> None:
        for expert, start, end in spans:
            factors.add_gradients(expert, gradient_SO[start:end])

    out_SO.register_hook(add)


def _blocks(a_SERI: Tensor, moments_EKDD: Tensor) -> Tensor:
    """`A C`, the rows of all slots in one product with each block."""
    slots, _, rank, _ = a_SERI.shape
    a_EKXD = a_SERI.unflatten(-1, (moments_EKDD.shape[1], -1)).permute(1, 3, 0, 2, 4).flatten(2, 3)
    product_EKSRD = (a_EKXD @ moments_EKDD).unflatten(2, (slots, rank))
    product_SERI: Tensor = product_EKSRD.permute(2, 0, 3, 1, 4).flatten(-2)
    return product_SERI
