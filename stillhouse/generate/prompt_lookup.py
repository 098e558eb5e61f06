"""Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding).

The draft of the next tokens is what followed the same two tokens earlier in the text. In: the tokens of a text as they
come. Out: drafts. It does not know networks.
"""

from __future__ import annotations

from collections.abc import Sequence


class PromptLookup:
    """Drafts for one text, of at most `max_draft` tokens each. With 0 all drafts are empty."""

    def __init__(self, text: Sequence[int], max_draft: int) -> None:
        self.max_draft = max_draft
        self.ids: list[int] = []
        self._after: dict[tuple[int, int], int] = {}  # for two tokens, the place after their latest occurrence
        if max_draft:
            self.extend(text)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        if not self.max_draft:
            return
        for token in tokens:
            if len(self.ids) >= 2:
                self._after[self.ids[-2], self.ids[-1]] = len(self.ids)
            self.ids.append(token)

    def draft(self, room: int) -> list[int]:
        """At most `room` tokens that may come next."""
        start = self._after.get((self.ids[-2], self.ids[-1])) if len(self.ids) >= 2 else None
        return self.ids[start : start + min(self.max_draft, room)] if start is not None and room > 0 else []
