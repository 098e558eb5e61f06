"""Which tokens a token looks at: those of its own row that are not behind it, all or the newest of them.

In: where the tokens of a rectangle of rows are. Out: masks, one for each window that a layer asks for. It does not know
networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Visible:
    """The S columns of B rows, of which the last T are new. A row's tokens stand in its columns in their order.

    `position_BS`: the position of each column's token in its row, with B = 1 where that is the same for all rows.
    `own_BS`: False where a column holds nothing that counts, such as padding. None: every column counts.
    """

    def __init__(self, position_BS: Tensor, own_BS: Tensor | None, new: int) -> None:
        self._position_BS, self._own_BS, self._new = position_BS, own_BS, new
        self._allowed: dict[int | None, Tensor] = {}

    @property
    def new_BT(self) -> Tensor:
        """Positions of the new tokens."""
        return self._position_BS[:, -self._new :]

    def allowed(self, window: int | None) -> Tensor:
        """`[B, 1, T, S]`, True where a new token looks at a column. Each looks at itself, padding too: a softmax over
        nothing is not a number."""
        if window not in self._allowed:
            column_S = torch.arange(self._position_BS.shape[1], device=self._position_BS.device)
            new_T1 = column_S[-self._new :, None]
            allowed_BTS = (column_S <= new_T1)[None]
            if self._own_BS is not None:
                allowed_BTS = allowed_BTS & self._own_BS[:, None] | (column_S == new_T1)
            if window is not None:
                allowed_BTS = allowed_BTS & (self.new_BT[:, :, None] - self._position_BS[:, None] < window)
            self._allowed[window] = allowed_BTS[:, None]
        return self._allowed[window]

    def mask(self, window: int | None) -> Tensor | None:
        """The same; None where torch's causal attention without a mask comes to it."""
        columns = self._position_BS.shape[1]
        whole = self._own_BS is None and (window is None or columns <= window)
        return None if whole and self._new in (1, columns) else self.allowed(window)
