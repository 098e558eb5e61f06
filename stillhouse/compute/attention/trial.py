"""Whether rows can lie side by side in a network: its configuration says what may be tried, and a trial shows it.

In: a model. Out: yes or no, remembered on the model. There are networks that attend past transformers' interface, look
at a row's tokens by other means than attention (a convolution, a recurrent state) or count distances by column: for
them rows are padded. Others cache something else than what they attend to (DeepSeek's latents): for them rows with a
cache are padded, each with a cache of the network's own.
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
TEXT, ALIKE, OWN = 5, 2, 4  # tokens of a text, of those behind it that are alike in both rows, of a first step
END = TEXT + OWN  # a second step has one token
VOCABULARY = 97  # ids that are tried
Outcome = tuple[Tensor, Tensor]  # hidden states `[tokens, H]` with rows side by side, and those of a plain forward


class Remembering(Protocol):
    """What this file asks of a `Model`."""

    @property
    def network(self) -> PreTrainedModel: ...

    def once(self, name: str, make: Callable[[], bool]) -> bool: ...


def fits(model: Remembering, cached: bool = True) -> bool:
    """Whether rows of this model can lie side by side, as a trial shows. `cached`: also rows that go on from what the
    network itself has cached (`CachedRows`), not whole rows alone (`UncachedRows`)."""
    trial = _two_steps_behind_a_text if cached else _whole_rows
    return model.once(f"attention{trial.__name__}", lambda: _causal(model.network) and _agrees(model.network, trial))


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
def _agrees(network: PreTrainedModel, trial: Callable[[PreTrainedModel, Tensor, Tensor, Tensor], Outcome]) -> bool:
    """Whether a trial gives what a plain forward gives, within the rounding of their type, token by token. Its two rows
    begin alike."""
    size = min(VOCABULARY, network.config.get_text_config().vocab_size)
    ids_BT = (torch.arange(2 * (END + 1), device=network.device) * 7 % size).view(2, -1)
    ids_BT[1, : TEXT + ALIKE] = ids_BT[0, : TEXT + ALIKE]
    position_BT = torch.arange(END + 1, device=network.device).expand(2, -1)
    base: Any = network.base_model
    try:
        plain_BTH = base(input_ids=ids_BT, use_cache=False).last_hidden_state
        hidden_XH, expected_XH = trial(network, ids_BT, position_BT, plain_BTH)
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    exact = hidden_XH.dtype == torch.float32 and not torch.is_autocast_enabled(hidden_XH.device.type)
    apart_X = (hidden_XH - expected_XH).float().norm(dim=-1)
    return bool((apart_X <= (1e-3 if exact else 5e-2) * expected_XH.float().norm(dim=-1)).all())


def _whole_rows(network: PreTrainedModel, ids_BT: Tensor, position_BT: Tensor, plain_BTH: Tensor) -> Outcome:
    """Both rows, with what they begin with computed once."""
    distinct = _distinct(TEXT + ALIKE, END + 1, network.device)
    ids_U1, position_U1 = (distinct.pick(s_BT.flatten())[:, None] for s_BT in (ids_BT, position_BT))
    rows = UncachedRows([END + 1] * 2, 0, network.device)
    hidden_U1H = forward(network.base_model, ids_U1, position_U1, [rows], distinct).last_hidden_state
    return distinct.expand(hidden_U1H[:, 0]), plain_BTH.flatten(0, 1)


def _two_steps_behind_a_text(
    network: PreTrainedModel, ids_BT: Tensor, position_BT: Tensor, plain_BTH: Tensor
) -> Outcome:
    """A step of both rows behind a text that the network has cached, with what they begin with computed once; then one
    more token of each, beside a whole row."""
    base: Any = network.base_model
    begun, own = DynamicCache(config=network.config), DynamicCache()
    base(input_ids=ids_BT[:1, :TEXT], past_key_values=begun, use_cache=True)
    texts, distinct = [Text(begun, TEXT)] * 2, _distinct(ALIKE, OWN, network.device)
    ids_U1, position_U1 = (distinct.pick(s_BT[:, TEXT:END].flatten())[:, None] for s_BT in (ids_BT, position_BT))
    rows = CachedRows(0, 2, OWN, own, Visible(position_BT[:, TEXT:END], None, OWN), texts)
    first_U1H = forward(base, ids_U1, position_U1, [rows], distinct).last_hidden_state
    rows = CachedRows(0, 2, 1, own, Visible(position_BT[:, TEXT:], None, 1), texts)
    whole = UncachedRows([END + 1], 2, network.device)
    ids_1T, position_1T = (torch.cat([s_BT[:, END], s_BT[0]])[None] for s_BT in (ids_BT, position_BT))
    second_1TH = forward(base, ids_1T, position_1T, [rows, whole]).last_hidden_state
    expected = plain_BTH[:, TEXT:END].flatten(0, 1), plain_BTH[:, END], plain_BTH[0]
    return torch.cat([distinct.expand(first_U1H[:, 0]), second_1TH[0]]), torch.cat(expected)


def _distinct(alike: int, tokens: int, device: torch.device) -> Distinct:
    """Of two rows of so many tokens, the first of them alike."""
    place = [*range(tokens), *range(alike), *range(tokens, 2 * tokens - alike)]
    source = [*range(tokens), *range(tokens + alike, 2 * tokens)]
    return Distinct(*(torch.tensor(numbers, device=device) for numbers in (place, source)))
