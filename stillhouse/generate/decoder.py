"""The decoder computes the rows of one batch, one forward a step.

In: prompts, each with the text before it, a draft of its answer, and a slot of an `AdapterBank`. Out: next-token logits
after every `step`. The caller chooses the tokens and returns them by `append`. The decoder does not know how tokens are
chosen or when an answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ..compute.attention import CachedRows, Distinct, Text, Visible, forward
from ..compute.threads import for_steps
from ..models import Model
from ..models.forward import head
from .forward import Bank, Ids, adapting
from .prefix import Prefix
from .prefix_tree import distinct_tokens


class Decoder:
    """The rows of one batch while they are being answered. Finished rows leave it.

    A row's own tokens are in the columns of the cache where `own_BS` is 1; `position_BS` has their positions. With
    `shares`, rows with the same text before them stand next to each other and attend to one copy of it. With `once`,
    the tokens that such rows have in common at their beginning are computed once as well.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Ids],
        drafts: Sequence[Ids] = (),
        texts: Sequence[Prefix | None] = (),
        shares: bool = False,
        once: bool = False,
        bank: Bank | None = None,
        slots: list[int] | None = None,
    ):
        self.model, self.bank, self.slots = model, bank, slots
        texts, self.drafts = texts or [None] * len(prompts), drafts or [[]] * len(prompts)
        width, self.draft_width = max(map(len, prompts)), max(map(len, self.drafts))
        pad = model.tokenizer.pad_token_id or 0
        rows, own = [], []
        for prompt, draft in zip(prompts, self.drafts, strict=True):
            left, right = width - len(prompt), self.draft_width - len(draft)
            rows.append([pad] * left + list(prompt) + list(draft) + [pad] * right)
            own.append([0] * left + [1] * (len(prompt) + len(draft)) + [0] * right)
        self.ids_BT = torch.tensor(rows, device=model.device)
        self.own_BS = torch.tensor(own, device=model.device)
        self.before_B1 = torch.tensor([[len(text.ids) if text else 0] for text in texts], device=model.device)
        self.position_BS = (self.own_BS.cumsum(1) - 1).clamp(min=0) + self.before_B1
        self._texts: list[Text | None] | None = None
        self._distinct: Distinct | None = None
        if shares:
            shared = {id(text): Text(text.cache, len(text.ids)) for text in texts if text}
            self.cache, self._texts = DynamicCache(), [shared.get(id(text)) for text in texts]
            if once:
                read = [[*prompt, *draft] for prompt, draft in zip(prompts, self.drafts, strict=True)]
                roots = list(zip(map(id, texts), slots or [0] * len(read), strict=True))
                starts = [width - len(prompt) for prompt in prompts]
                self._distinct = distinct_tokens(read, roots, starts, width + self.draft_width, model.device)
        else:  # all rows have the same text
            text = texts[0]
            self.cache = text.expand(len(prompts)) if text else DynamicCache(config=model.network.config)

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32: after the prompt, and after each token of the longest draft."""
        with for_steps(self.model, self.ids_BT.numel()):
            return self._step()

    def _step(self) -> Tensor:
        position_BT = self.position_BS[:, -self.ids_BT.shape[1] :]
        if self._texts is not None:
            rows = [self._rows(self._texts, *position_BT.shape)]
            if self._distinct is not None:
                distinct, self._distinct = self._distinct, None
                return self._first(rows, distinct)
            with adapting(self.bank, self.slots, self.model):
                logits_BKV: Tensor = forward(
                    self.model.network, self.ids_BT, position_BT, rows, logits_to_keep=self.draft_width + 1
                ).logits
            return logits_BKV.float()
        before_BP = self.own_BS.new_ones(len(self.own_BS), int(self.before_B1[0]))
        with adapting(self.bank, self.slots, self.model):
            logits_BKV = self.model.network(
                input_ids=self.ids_BT,
                attention_mask=torch.cat([before_BP, self.own_BS], dim=1),
                position_ids=position_BT,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=self.draft_width + 1,
            ).logits
        return logits_BKV.float()

    def _rows(self, texts: list[Text | None], rows: int, new: int) -> CachedRows:
        return CachedRows(0, rows, new, self.cache, Visible(self.position_BS, self.own_BS.bool(), new), texts)

    def _first(self, rows: list[CachedRows], distinct: Distinct) -> Tensor:
        """`_step` of the prompts, by a forward that computes common beginnings of rows once."""
        columns = self.ids_BT.shape[1]
        row_of = (distinct.source_U // columns).tolist()
        slots = [self.slots[row] for row in row_of] if self.slots is not None else None
        ids_U1, position_U1 = (distinct.pick(s_BT.flatten())[:, None] for s_BT in (self.ids_BT, self.position_BS))
        with adapting(self.bank, slots, self.model):
            hidden_U1H = forward(self.model.network.base_model, ids_U1, position_U1, rows, distinct).last_hidden_state
        assert distinct.place_T is not None, "of every column"
        place_BT = distinct.place_T.view(-1, columns)
        place_R, at_BK = place_BT[:, -self.draft_width - 1 :].unique(return_inverse=True)
        logits_RV: Tensor = head(self.model)(hidden_U1H[place_R, 0])
        return logits_RV.float()[at_BK]

    def accept(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft are the ones that greedy decoding gives. The others leave the cache."""
        if not self.draft_width:
            return [0] * len(greedy_BK)
        accepted = []
        for draft, greedy in zip(self.drafts, greedy_BK.tolist(), strict=True):
            wrong = (i for i, (guess, token) in enumerate(zip(draft, greedy, strict=False)) if guess != token)
            accepted.append(next(wrong, len(draft)))
        wrong_BK = (
            torch.arange(self.draft_width, device=greedy_BK.device)
            >= torch.tensor(accepted).to(greedy_BK.device)[:, None]
        )
        self.own_BS[:, -self.draft_width :].masked_fill_(wrong_BK, 0)
        return accepted

    def append(self, tokens: Sequence[int], drafts: Sequence[Ids] | None = None) -> None:
        """Append the next token of every row, and drafts of what follows it."""
        drafts = drafts or [[]] * len(tokens)
        self.drafts, self.draft_width = drafts, max(map(len, drafts))
        pad = self.model.tokenizer.pad_token_id or 0
        spare = [self.draft_width - len(draft) for draft in drafts]
        rows = [[token, *draft, *[pad] * n] for token, draft, n in zip(tokens, drafts, spare, strict=True)]
        self.ids_BT = torch.tensor(rows, device=self.model.device)
        new_BT = torch.tensor([[1] * (1 + self.draft_width - n) + [0] * n for n in spare], device=self.model.device)
        position_BT = self.own_BS.sum(1, keepdim=True) + new_BT.cumsum(1) - 1 + self.before_B1
        self.position_BS = torch.cat([self.position_BS, position_BT], dim=1)
        self.own_BS = torch.cat([self.own_BS, new_BT], dim=1)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""
        index = torch.tensor(rows, device=self.model.device)
        self.ids_BT, self.own_BS, self.position_BS, self.before_B1 = (
            s[index] for s in (self.ids_BT, self.own_BS, self.position_BS, self.before_B1)
        )
        if self._texts is not None:
            self._texts = [self._texts[row] for row in rows]
        self.cache.batch_select_indices(index)
        self.drafts = [self.drafts[r] for r in rows]
        self.slots = [self.slots[r] for r in rows] if self.slots is not None else None


def computes_once(model: Model) -> bool:
    """Whether the logits of this network are `head` of its last hidden state. Then a state that is computed once gives
    the logits of several rows. A trial decides it, because some networks scale their logits."""
    return model.once("generate.computes_once", lambda: _head_is_all(model))


@torch.inference_mode()
def _head_is_all(model: Model) -> bool:
    ids_BT = torch.tensor([[(7 * n + 5) % model.vocabulary for n in range(8)]], device=model.device)
    logits_BTV = model.network(input_ids=ids_BT, use_cache=False).logits
    ours_BTV = head(model)(model.network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state)
    difference_BT = (ours_BTV - logits_BTV).float().norm(dim=-1)
    return bool((difference_BT <= 1e-3 * logits_BTV.float().norm(dim=-1)).all())
