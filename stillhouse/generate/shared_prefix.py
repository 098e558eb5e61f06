"""Attention of many rows that begin with the same few texts, whose keys and values are there once each.

In: what a network has cached of every text, for a batch of one. Out: a context in which rows look at their text and at
their own tokens, as if each had a copy: scores against a text are one product for all its rows, scores against a row's
own keys another, and one softmax goes over both (the decomposition of Juravsky et al. 2024, arXiv 2402.05099). A copy
per row, written anew with every token, is most of what answering a few hundred questions about one text would cost.

It does not know what the texts are, nor which token comes next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby, product
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..compute.attention import attending, replaceable, window_of
from .prefix_tree import Alike

SCORES = 2**25  # there at once, float32
UNSEEN = torch.finfo(torch.float32).min  # the score of what is not to be seen; padding may see nothing at all
TRIAL = (2, 5, 4)  # rows, tokens of the text, tokens of their own
_NAME = "stillhouse_shared"
_SHAREABLE: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def plain_cache(network: PreTrainedModel) -> bool:
    """Whether all that this network remembers of a row are keys and values, a column for each token."""
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=network.config).layers)


def shareable(network: PreTrainedModel) -> bool:
    """Whether rows of this network can look at a text's keys and values without a copy each: a trial shows it, for
    networks keep other things than what they attend to, or attend by means of their own."""
    if network not in _SHAREABLE:
        _SHAREABLE[network] = replaceable(network) and plain_cache(network) and _agrees(network)
    return _SHAREABLE[network]


@torch.inference_mode()
def _agrees(network: PreTrainedModel) -> bool:
    rows, text, own = TRIAL
    ids_T = torch.arange(text + own, device=network.device) + 7
    ids_BT = (
        torch.stack([ids_T + row * (ids_T >= 7 + text) for row in range(rows)])
        % network.config.get_text_config().vocab_size
    )
    position_BT = torch.arange(text, text + own, device=network.device).expand(rows, -1)
    model: Any = network.base_model
    try:
        cache, mine = DynamicCache(config=network.config), DynamicCache()
        model(input_ids=ids_BT[:1, :text], past_key_values=cache, use_cache=True)
        shared = Shared(network, [Text(cache, text)] * rows)
        with shared.looking(position_BT, position_BT, torch.ones_like(position_BT)):
            found_BTH = model(
                input_ids=ids_BT[:, text:], position_ids=position_BT, past_key_values=mine, use_cache=True
            ).last_hidden_state
        expected_BTH = model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, text:]
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    apart_BT = (found_BTH - expected_BTH).float().norm(dim=-1)
    close = 1e-3 if network.dtype == torch.float32 else 5e-2
    return bool((apart_BT <= close * expected_BTH.float().norm(dim=-1)).all())


class Text(NamedTuple):
    """The keys and values of a text of so many tokens."""

    cache: DynamicCache
    tokens: int


class Span(NamedTuple):
    """The rows from `start` to `end`, which begin with one text, or with none."""

    start: int
    end: int
    text: Text | None


class Shared:
    """The texts of a batch's rows, those of one text beside each other. A network has one thread in here at a time, and
    no other that computes: its attention is the network's own again afterwards."""

    def __init__(self, network: PreTrainedModel, texts: Sequence[Text | None]) -> None:
        self._network, self._texts = network, list(texts)

    def keep(self, rows: Sequence[int]) -> None:
        """These are left of the batch."""
        self._texts = [self._texts[row] for row in rows]

    @contextmanager
    def looking(
        self, position_BT: Tensor, position_BS: Tensor, own_BS: Tensor, once: tuple[Alike, DynamicCache] | None = None
    ) -> Iterator[None]:
        """Inside, a forward of tokens at `position_BT` looks at their rows' texts and at what lies in the S columns of
        a cache of the rows' own, the new ones last: where `own_BS` is 1, tokens at `position_BS`, else nothing. Columns
        of a row are in the order of its tokens.

        With `once`, the forward is of beginnings, `[U, 1]`, without a cache; the rows' own is filled here."""
        token = _CURRENT.set(_Looks(self._texts, position_BT, position_BS, own_BS, once))
        try:
            with attending(self._network, _NAME):
                yield
        finally:
            _CURRENT.reset(token)


class _Looks:
    """One forward's view: what its rows may look at in each layer."""

    def __init__(
        self, texts: Sequence[Text | None], position_BT: Tensor, position_BS: Tensor, own_BS: Tensor,
        once: tuple[Alike, DynamicCache] | None,
    ) -> None:  # fmt: skip
        self.spans, self.once = list(_spans(texts)), once
        self._new_BT1, self._own_B1S = position_BT[:, :, None], position_BS[:, None]
        new = position_BT.shape[1]
        column_S = torch.arange(position_BS.shape[1], device=position_BS.device)
        self._before_BTS = (column_S <= column_S[-new:, None]) & own_BS.bool()[:, None]
        self._hidden: dict[int | None, Tensor] = {}
        self._hidden_text: dict[tuple[int, int, int], Tensor] = {}

    def hidden(self, window: int | None) -> Tensor:
        """What is not to be seen of the rows' own, `[B, 1, T, S]`."""
        if window not in self._hidden:
            seen_BTS = self._before_BTS
            if window is not None:
                seen_BTS = seen_BTS & (self._new_BT1 - self._own_B1S < window)
            self._hidden[window] = ~seen_BTS[:, None]
        return self._hidden[window]

    def hidden_text(self, window: int | None, span: Span, kept: int) -> Tensor | None:
        """What is not to be seen of the `kept` newest tokens of a span's text, `[rows, 1, T, kept]`; None where all of
        it is seen."""
        if window is None or span.text is None:
            return None
        if (window, span.start, kept) not in self._hidden_text:
            text_P = torch.arange(span.text.tokens - kept, span.text.tokens, device=self._new_BT1.device)
            hidden_BTP = self._new_BT1[span.start : span.end] - text_P >= window
            self._hidden_text[window, span.start, kept] = hidden_BTP[:, None]
        return self._hidden_text[window, span.start, kept]


def _spans(texts: Sequence[Text | None]) -> Iterator[Span]:
    start = 0
    for _, same in groupby(texts, key=id):
        rows = list(same)
        yield Span(start, start + len(rows), rows[0])
        start += len(rows)


def _of_text(text: Text | None, module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """A text's keys and values for this layer, `[G, P, D]`; a layer that slides has the newest alone."""
    if text is None:
        return None
    layer: Any = text.cache.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    return layer.keys[0], layer.values[0]


_CURRENT: ContextVar[_Looks] = ContextVar("_CURRENT")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """For transformers: queries `[B, H, T, D]`, the rows' own keys and values `[B, G, S, D]` -> `[B, T, H, D]`; or of
    beginnings, `[U, heads, 1, D]` -> `[U, 1, H, D]`."""
    looks = _CURRENT.get()
    if looks.once is None:
        return _looked(looks, module, query, key, value, settings.get("scaling")), None
    alike, cache = looks.once
    query, key, value = (alike.rows(states_UH1D[:, :, 0]).transpose(1, 2) for states_UH1D in (query, key, value))
    key, value = cache.update(key, value, int(module.layer_idx))  # type: ignore[arg-type]
    return alike.once(_looked(looks, module, query, key, value, settings.get("scaling")))[:, None], None


def _looked(looks: _Looks, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    window = window_of(module)
    hidden_own, (rows, heads, new, _) = looks.hidden(window), query.shape
    scale = scale or query.shape[-1] ** -0.5
    said_BTHD = query.new_empty(rows, new, heads, value.shape[-1])
    for span in looks.spans:
        keys_GPD, values_GPD = _of_text(span.text, module) or (key[0, :, :0], value[0, :, :0])
        text = keys_GPD.shape[1]
        hidden_text = looks.hidden_text(window, span, text)
        tokens = max(1, min(new, SCORES // (heads * (text + key.shape[2]))))
        each = max(1, SCORES // (heads * tokens * (text + key.shape[2])))
        for row, token in product(range(span.start, span.end, each), range(0, new, tokens)):
            some, part = slice(row, min(row + each, span.end)), slice(token, token + tokens)
            scores_BHTX = _scores(query[some, :, part].float() * scale, key[some].float(), keys_GPD.float())
            scores_BHTX[..., text:].masked_fill_(hidden_own[some, :, part], UNSEEN)
            if hidden_text is not None:
                here = slice(some.start - span.start, some.stop - span.start)
                scores_BHTX[..., :text].masked_fill_(hidden_text[here, :, part], UNSEEN)
            chances_BHTX = F.softmax(scores_BHTX, -1).to(query.dtype)
            said_BTHD[some, part] = _mixed(chances_BHTX, value[some], values_GPD).transpose(1, 2)
    return said_BTHD


def _scores(query_BHTD: Tensor, key_BGSD: Tensor, keys_GPD: Tensor) -> Tensor:
    """Against the text and against a row's own, beside each other: `[B, H, T, P + S]`."""
    rows, heads, new, dim = query_BHTD.shape
    groups, text, own = len(keys_GPD), keys_GPD.shape[1], key_BGSD.shape[2]
    each = heads // groups * new  # queries of a row that look at the same keys
    query_BGYD = query_BHTD.reshape(rows, groups, each, dim)
    query_GXD = query_BGYD.transpose(0, 1).reshape(groups, rows * each, dim)
    scores_BGYP = torch.bmm(query_GXD, keys_GPD.mT).view(groups, rows, each, text).transpose(0, 1)
    return torch.cat([scores_BGYP, query_BGYD @ key_BGSD.mT], -1).view(rows, heads, new, text + own)


def _mixed(chances_BHTX: Tensor, value_BGSD: Tensor, values_GPD: Tensor) -> Tensor:
    """The values of the text and of a row's own, `[B, H, T, D]`."""
    rows, heads, new, _ = chances_BHTX.shape
    groups, text, dim = values_GPD.shape
    each = heads // groups * new
    chances_BGYX = chances_BHTX.view(rows, groups, each, -1)
    chances_GXP = chances_BGYX[..., :text].transpose(0, 1).reshape(groups, rows * each, text)
    of_text_BGYD = torch.bmm(chances_GXP, values_GPD).view(groups, rows, each, dim).transpose(0, 1)
    return (of_text_BGYD + chances_BGYX[..., text:] @ value_BGSD).reshape(rows, heads, new, dim)


AttentionInterface.register(_NAME, _attend)
