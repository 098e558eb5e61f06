"""Many rows in one forward without padding: their tokens side by side, each a row of its own to the network.

In: the tokens of several groups of rows, such as short examples and long windows of text. Out: the last hidden state of
every token, or of those that are read: the last layer's MLP, which looks at one token at a time, is spared the others.
What rows of one student have in common before they part, such as a chat template's start, is computed once.
Attention alone tells rows apart (`compute/attention`). On a CPU, which pays for every padded token and for every
operator it starts, a step takes two thirds of the time.

It does not know adapters or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..compute import attention
from ..compute.attention import SHORT, Distinct, UncachedRows
from ..compute.kernels import built
from ..models import Model

FEW_SHAPES, ANY = 64, 8  # tokens that a batch is a multiple of, where shapes have to repeat and elsewhere
Lengths = Sequence[int]  # of the rows of a group
Rows = Callable[[Sequence[int]], AbstractContextManager[None]]


def fits(model: Model) -> bool:
    """Whether this model's rows can lie side by side, and gain by it."""
    return model.device.type == "cpu" and attention.fits(model, cached=False)


def padded(tokens: int) -> int:
    """How many tokens the network is given for so many: oneDNN, which multiplies bfloat16, compiles a product for every
    new shape."""
    multiple = FEW_SHAPES if torch.is_autocast_enabled("cpu") else ANY
    return -(-tokens // multiple) * multiple


def states(
    model: Model,
    ids_T: Tensor,
    groups: Sequence[Lengths],
    rows: Rows,
    read: Tensor | None = None,
    first: Sequence[int] | None = None,
) -> Tensor:
    """Last hidden states `[T, H]` of rows that lie one after the other in `ids_T`, group after group.

    `rows(numbers)` is entered while the network computes the tokens of these numbers. `read`: which of the tokens
    count, True or False `[T]`; what comes out for the others is no state then. `first`: of every token the number of
    the first one that has the same before it in the same adapter's row, itself or an earlier one; only those are
    computed.
    """
    distinct = _distinct(range(len(ids_T)) if first is None else first, model.device)
    position_T = torch.cat([torch.arange(n, device=ids_T.device) for lengths in groups for n in lengths])
    ids_U1, position_U1 = (distinct.pick(s_T)[:, None] for s_T in (ids_T, position_T))
    numbers, last = distinct.source_U.tolist(), _last_block(model.network)
    few: AbstractContextManager[None] = nullcontext()
    if read is not None and last is not None:
        read_U = read.new_zeros(len(numbers))
        read_U[read.nonzero()[:, 0] if distinct.place_T is None else distinct.place_T[read]] = True
        few = _reading(last, _filled(read_U), lambda some: rows([numbers[n] for n in some]))
    with rows(numbers), few:
        out = attention.forward(model.network.base_model, ids_U1, position_U1, _groups(groups, model.device), distinct)
    hidden_U1H: Tensor = out.last_hidden_state
    return distinct.expand(hidden_U1H[:, 0])[: len(ids_T)]


def _distinct(first: Sequence[int], device: torch.device) -> Distinct:
    """The tokens that are the first of their kind, and more of the last one, so that shapes are few."""
    own = [number for number, same in enumerate(first) if number == same]
    place_of = {number: place for place, number in enumerate(own)}
    place_T = torch.tensor([place_of[same] for same in first], device=device) if len(own) < len(first) else None
    return Distinct(place_T, torch.tensor(own + own[-1:] * (padded(len(own)) - len(own)), device=device))


def _groups(groups: Sequence[Lengths], device: torch.device) -> list[UncachedRows]:
    """Short rows are one group where the kernel has no use for their width."""
    lengths = [n for group in groups for n in group]
    made: list[UncachedRows] = []
    for group in [lengths] if built() and max(lengths) <= SHORT else groups:
        made.append(UncachedRows(group, made[-1].tokens.stop if made else 0, device))
    return made


def _last_block(network: Any) -> nn.Module | None:
    """What looks at one token at a time and has nothing behind it that looks at another: the last layer's MLP."""
    layers = getattr(network.base_model, "layers", None)
    block = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    return block if isinstance(block, nn.Module) else None


def _filled(read_T: Tensor) -> Tensor:
    """The numbers of the tokens that are read, and of some that are not, so that they are of few shapes."""
    chosen_T = read_T.clone()
    spare = padded(int(chosen_T.sum())) - int(chosen_T.sum())
    chosen_T[(~chosen_T).nonzero()[:spare, 0]] = True
    return chosen_T.nonzero()[:, 0]


@contextmanager
def _reading(block: nn.Module, token_X: Tensor, rows: Rows) -> Iterator[None]:
    """Inside, `block` computes these of its tokens; it gives zeros for the others."""
    stock, own = block.forward, vars(block).get("forward")

    def forward(hidden_T1H: Tensor, *args: Any, **named: Any) -> Any:
        with rows(token_X.tolist()):
            out = stock(hidden_T1H.index_select(0, token_X), *args, **named)
        return out.new_zeros(hidden_T1H.shape).index_copy(0, token_X, out)

    block.forward = forward
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own
