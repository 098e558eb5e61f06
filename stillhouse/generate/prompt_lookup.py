"""What a text may go on with: what stood there before (Saxena 2023, prompt lookup decoding,
https://github.com/apoorvumang/prompt-lookup-decoding).

In: the tokens of a text as they come. Out: guesses. It does not know networks.
"""

from __future__ import annotations

from collections.abc import Sequence


class Copied:
    """Of one text: what stood behind its last two tokens where they stood before, at most `most` tokens of it."""

    def __init__(self, text: Sequence[int], most: int) -> None:
        self.most = most
        self.ids: list[int] = []
        self._behind: dict[tuple[int, int], int] = {}
        if most:
            self.said(text)

    def said(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        if not self.most:
            return
        for token in tokens:
            if len(self.ids) >= 2:
                self._behind[self.ids[-2], self.ids[-1]] = len(self.ids)
            self.ids.append(token)

    def next(self, room: int) -> list[int]:
        """At most `room` tokens that may come."""
        at = self._behind.get((self.ids[-2], self.ids[-1])) if len(self.ids) >= 2 else None
        return self.ids[at : at + min(self.most, room)] if at is not None and room > 0 else []
