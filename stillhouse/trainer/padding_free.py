"""Many rows in one forward without padding: their tokens side by side, each a row of its own to the network.

In: the tokens of several groups of rows, such as short examples and long windows of text. Out: the last hidden state of
every token, or of those that are read: the last layer's MLP, which looks at one token at a time, is spared the others.
What rows of one student have in common before they part, such as a chat template's start, is computed once.
Attention alone tells rows apart: once per group, with that group's rows padded on the right, where a
causal look never falls; rows that are not short go through transformers' own. On a CPU, which pays for every padded
token and for every operator it starts, a step takes two thirds of the time.

It does not know adapters or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..compute.attention import attending, replaceable, window_of
from ..compute.fused import attention
from ..compute.kernels import built, usable
from ..models import Model
from .precision import SHORT

FEW_SHAPES, ANY = 64, 8  # tokens that a batch is a multiple of, where shapes have to repeat and elsewhere
TRIAL = 6  # tokens of a row
_FITTING: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
_NAME = "stillhouse_flat"
Lengths = Sequence[int]  # of the rows of a group
Rows = Callable[[Sequence[int]], AbstractContextManager[None]]


def fits(model: Model) -> bool:
    """Whether this model's rows can lie side by side, and gain by it. A trial shows it, for networks attend by means
    of their own."""
    if model.device.type != "cpu" or not replaceable(model.network):
        return False
    if model.network not in _FITTING:
        _FITTING[model.network] = _agrees(model)
    return _FITTING[model.network]


@torch.no_grad()
def _agrees(model: Model) -> bool:
    ids_BT = (torch.arange(2 * TRIAL) * 7 % model.vocabulary).view(2, TRIAL).to(model.device)
    ids_BT[1, : TRIAL // 2] = ids_BT[0, : TRIAL // 2]
    first = [*range(TRIAL), *range(TRIAL // 2), *range(TRIAL + TRIAL // 2, 2 * TRIAL)]
    try:
        found_TH = states(model, ids_BT.flatten(), [[TRIAL, TRIAL]], lambda numbers: nullcontext(), first=first)
        expected_BTH = model.network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    apart_T = (found_TH - expected_BTH.flatten(0, 1)).float().norm(dim=-1)
    close = 1e-3 if found_TH.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") else 5e-2
    return bool((apart_T <= close * expected_BTH.flatten(0, 1).float().norm(dim=-1)).all())


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
    shared = _Shared.of(range(len(ids_T)) if first is None else first, model.device)
    place_T, numbers = shared.place_T, shared.numbers
    position_T = torch.cat([torch.arange(n, device=ids_T.device) for lengths in groups for n in lengths])
    number_U = torch.tensor(numbers, device=model.device)
    given_U1, position_U1 = (s_T[number_U][:, None] for s_T in (ids_T, position_T))
    last = _last_block(model.network)
    few: AbstractContextManager[None] = nullcontext()
    if read is not None and last is not None:
        read_U = read.new_zeros(len(numbers)).index_fill(0, place_T[: len(ids_T)][read], True)
        few = _reading(last, _filled(read_U), lambda some: rows([numbers[n] for n in some]))
    with _attending(model, _merged(groups, len(numbers) - shared.unique), shared), rows(numbers), few:
        out = model.network.base_model(input_ids=given_U1, position_ids=position_U1, use_cache=False)
    hidden_U1H: Tensor = out.last_hidden_state
    return shared.spread(hidden_U1H[:, 0])[: len(ids_T)]


@dataclass(frozen=True)
class _Shared:
    """U tokens for T, `unique` of them needed and the others there so that shapes are few: the number of each among the
    T (`numbers`), the place of each of the T, followed by the others', among the U (`place_T`), and back (`back_U`)."""

    unique: int
    numbers: list[int]
    place_T: Tensor
    back_U: Tensor

    @staticmethod
    def of(first: Sequence[int], device: torch.device) -> _Shared:
        own = [number for number, same in enumerate(first) if number == same]
        place_of = {number: place for place, number in enumerate(own)}
        spare = padded(len(own)) - len(own)
        places = [*(place_of[same] for same in first), *range(len(own), len(own) + spare)]
        back = [*own, *range(len(first), len(places))]
        place_T, back_U = (torch.tensor(found, device=device) for found in (places, back))
        return _Shared(len(own), own + own[-1:] * spare, place_T, back_U)

    def spread(self, values_UX: Tensor) -> Tensor:
        """What is computed once, wherever it is needed."""
        return values_UX if len(self.place_T) == len(self.back_U) else values_UX.index_select(0, self.place_T)

    def gather(self, values_TX: Tensor) -> Tensor:
        """The way back."""
        return values_TX if len(self.place_T) == len(self.back_U) else values_TX.index_select(0, self.back_U)


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


def _merged(groups: Sequence[Lengths], spare: int) -> Sequence[Lengths]:
    """Short rows are one group where the kernel has no use for their width; so are the tokens nobody reads."""
    lengths = [*(n for group in groups for n in group), *([spare] if spare else [])]
    return [lengths] if built() and max(lengths) <= SHORT else groups


class _Group:
    """Where the tokens of rows lie, `[rows, width]`, padded with each row's last, and the way back."""

    def __init__(self, lengths: Lengths, start: int, device: torch.device) -> None:
        length_B1 = torch.tensor(lengths, device=device)[:, None]
        self.rows, self.width = len(lengths), -(-max(lengths) // 8) * 8
        self.start, self.end = start, start + sum(lengths)
        self.start_B = F.pad(length_B1.cumsum(0)[:, 0], (1, 0))
        column_W = torch.arange(self.width, device=device)
        first_B1 = start + length_B1.cumsum(0) - length_B1
        self.token_X = (first_B1 + torch.minimum(column_W, length_B1 - 1)).flatten()
        self.back_T = (column_W < length_B1).flatten().nonzero()[:, 0]
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, module: nn.Module, states: tuple[Tensor, ...], settings: dict[str, Any]) -> Tensor:
        """`[tokens of the group, heads, dim]` from queries, keys and values `[T, heads, 1, dim]`."""
        window, scale = window_of(module), settings.get("scaling")
        usual = not any(settings.get(name) is not None for name in ("position_bias", "s_aux", "softcap"))
        usual = usual and not settings.get("dropout")
        if usual and self.width <= SHORT and usable(*states) and states[0].shape[-1] == states[2].shape[-1]:
            query, keys, values = (s_TH1D[self.start : self.end, :, 0] for s_TH1D in states)
            return attention(query, keys, values, self.start_B, window, scale or query.shape[-1] ** -0.5)
        query, keys, values = (self._padded(s_TH1D) for s_TH1D in states)
        if usual and self.width <= SHORT:
            said_BWHD = _short(query, keys, values, self._mask(window, query.device), scale)
        else:
            mask = None if window is None or self.width <= window else self._mask(window, query.device) == 0
            said_BWHD = sdpa_attention_forward(module, query, keys, values, mask, **settings)[0]
        said_THD: Tensor = said_BWHD.flatten(0, 1).index_select(0, self.back_T)
        return said_THD

    def _padded(self, states_TH1D: Tensor) -> Tensor:
        picked_XHD = states_TH1D[:, :, 0].index_select(0, self.token_X)
        return picked_XHD.view(self.rows, self.width, *picked_XHD.shape[1:]).transpose(1, 2)

    def _mask(self, window: int | None, device: torch.device) -> Tensor:
        """What is added to scores, `[1, 1, width, width]`: -inf where a token does not look."""
        if window not in self._masks:
            column_W = torch.arange(self.width, device=device)
            back_WW = column_W[:, None] - column_W
            sees_WW = (back_WW >= 0) & (back_WW < (window or self.width))
            self._masks[window] = torch.where(sees_WW, 0.0, -torch.inf)[None, None]
        return self._masks[window]


def _short(query: Tensor, keys: Tensor, values: Tensor, mask_11WW: Tensor, scale: float | None) -> Tensor:
    """Attention of short rows in float32, `[rows, width, heads, dim]`, from `[rows, heads, width, dim]`: all heads that
    share keys are one product with them, where torch's own repeats the keys and starts twice as many operators."""
    rows, heads, width, dim = query.shape
    together, shared = rows * keys.shape[1], heads // keys.shape[1]
    query_GXD = query.reshape(together, shared * width, dim).float()
    keys_GWD, values_GWD = (s.reshape(together, width, -1).float() for s in (keys, values))
    mask_GXW = mask_11WW[0].repeat(1, shared, 1).expand(together, -1, -1)
    with torch.autocast(query.device.type, enabled=False):
        scores_GXW = torch.baddbmm(mask_GXW, query_GXD, keys_GWD.mT, alpha=dim**-0.5 if scale is None else scale)
        said_GXD = torch.bmm(scores_GXW.softmax(-1), values_GWD).to(query.dtype)
    return said_GXD.view(rows, heads, width, -1).transpose(1, 2)


_CURRENT: ContextVar[tuple[list[_Group], _Shared]] = ContextVar("_CURRENT")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """For transformers: attention within each row, `[U, 1, heads, dim]`."""
    settings["is_causal"] = True
    groups, shared = _CURRENT.get()
    states = shared.spread(query), shared.spread(key), shared.spread(value)
    parts = [group.attend(module, states, settings) for group in groups]
    said_THD = parts[0] if len(parts) == 1 else torch.cat(parts)
    return shared.gather(F.pad(said_THD, (0, 0, 0, 0, 0, len(states[0]) - len(said_THD))))[:, None], None


AttentionInterface.register(_NAME, _attend)


@contextmanager
def _attending(model: Model, groups: Sequence[Lengths], shared: _Shared) -> Iterator[None]:
    found: list[_Group] = []
    for lengths in groups:
        found.append(_Group(lengths, found[-1].end if found else 0, model.device))
    token = _CURRENT.set((found, shared))
    try:
        with attending(model.network, _NAME):
            yield
    finally:
        _CURRENT.reset(token)
