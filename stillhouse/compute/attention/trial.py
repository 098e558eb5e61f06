"""Whether rows can lie side by side in a network: its configuration says what may be tried, and a trial shows it.

In: a model. Out: yes or no, remembered on the model. Networks attend past transformers' interface, look at a row's
tokens by other means than attention (a convolution, a recurrent state), count distances by column, or cache something
else than what they attend to: then rows are padded, and each has a cache of the network's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .layout import Distinct, forward
from .masks import Visible
from .rows import CachedRows, Text, UncachedRows

TYPES = {"full_attention", "sliding_attention"}
TEXT, ALIKE, OWN, VOCABULARY = 5, 2, 4, 97  # tokens: of a text, then alike in both rows, of their first step; ids' end


class Remembering(Protocol):
    """What this file asks of a `Model`."""

    @property
    def network(self) -> PreTrainedModel: ...

    def once(self, name: str, make: Callable[[], bool]) -> bool: ...


def fits(model: Remembering) -> bool:
    """Whether rows of this model can lie side by side: two steps of a trial give what a plain forward gives."""
    return model.once("attention.fits", lambda: _causal(model.network) and _agrees(model.network))


def _causal(network: PreTrainedModel) -> bool:
    """Whether all of its attention is causal, or causal in the one window that its configuration names: a trial is too
    short to show that."""
    config = network.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) is not None
    known = types <= TYPES and windowed == ("sliding_attention" in types)
    own = not getattr(config, "num_kv_shared_layers", 0) and getattr(config, "is_causal", True)
    return bool(known and own and network.is_backend_compatible())


@torch.no_grad()
def _agrees(network: PreTrainedModel) -> bool:
    """A step of two rows behind one text, in which what they begin with is computed once; then one more token of each
    beside a whole row."""
    base: Any = network.base_model
    size = min(VOCABULARY, network.config.get_text_config().vocab_size)
    ids_BT = (torch.arange(2 * (TEXT + OWN + 1), device=network.device) * 7 % size).view(2, -1)
    ids_BT[1, : TEXT + ALIKE] = ids_BT[0, : TEXT + ALIKE]
    position_BT = torch.arange(ids_BT.shape[1], device=network.device).expand(2, -1)
    end = TEXT + OWN
    place = [*range(OWN), *range(ALIKE), *range(OWN, 2 * OWN - ALIKE)]
    source_U = torch.tensor([*range(OWN), *range(OWN + ALIKE, 2 * OWN)], device=network.device)
    distinct = Distinct(torch.tensor(place, device=network.device), source_U)
    try:
        expected_BTH = base(input_ids=ids_BT, use_cache=False).last_hidden_state
        begun, cache = DynamicCache(config=network.config), DynamicCache()
        base(input_ids=ids_BT[:1, :TEXT], past_key_values=begun, use_cache=True)
        texts = [Text(begun, TEXT)] * 2
        ids_U1, position_U1 = (s_BT[:, TEXT:end].flatten()[source_U][:, None] for s_BT in (ids_BT, position_BT))
        rows = CachedRows(0, 2, OWN, cache, Visible(position_BT[:, TEXT:end], None, OWN), texts)
        first_U1H = forward(base, ids_U1, position_U1, [rows], distinct).last_hidden_state
        rows = CachedRows(0, 2, 1, cache, Visible(position_BT[:, TEXT:], None, 1), texts)
        whole = UncachedRows([ids_BT.shape[1]], 2, network.device)
        ids_1T, position_1T = (torch.cat([s_BT[:, end], s_BT[0]])[None] for s_BT in (ids_BT, position_BT))
        second_1TH = forward(base, ids_1T, position_1T, [rows, whole]).last_hidden_state
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    first_BTH = distinct.expand(first_U1H[:, 0]).view_as(expected_BTH[:, TEXT:end])
    return _close(first_BTH, expected_BTH[:, TEXT:end]) and _close(
        second_1TH[0], torch.cat([expected_BTH[:, end], expected_BTH[0]])
    )


def _close(hidden_XH: Tensor, expected_XH: Tensor) -> bool:
    """The same within the rounding of their type, token by token."""
    exact = hidden_XH.dtype == torch.float32 and not torch.is_autocast_enabled(hidden_XH.device.type)
    apart_X = (hidden_XH - expected_XH).float().norm(dim=-1)
    return bool((apart_X <= (1e-3 if exact else 5e-2) * expected_XH.float().norm(dim=-1)).all())
