"""Many talks with teachers at once: whatever they want to know next is asked in one batch.

In: talks, generators that yield what they wish of teachers, several wishes at a time, are sent the replies to each, and
return what they made of them. Out: what each returns. A talk goes as it would go alone; a step of a network that is
mostly its start, as on an accelerator or with few rows, is taken once for all of them.

It does not know what is talked about.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from ...generate import Sampling
from .teacher import Asking, Writing, answer, write

R = TypeVar("R")
Wishes = Sequence[Writing | Asking]
Talk = Generator[Wishes, list[Any], R]  # sent: list[str] for Writing, list[Answer] for Asking


def held(talks: Iterable[Talk[R]], at_once: int) -> Iterator[tuple[int, R]]:
    """Number and result of every talk, as they end; talks begin in order, so many at once."""
    coming = enumerate(talks)
    turns: list[tuple[int, Talk[R], list[Any] | None]] = []
    while True:
        turns += [(number, talk, None) for number, talk in islice(coming, at_once - len(turns))]
        if not turns:
            return
        waiting: list[tuple[int, Talk[R], Wishes]] = []
        for number, talk, replies in turns:
            try:
                waiting.append((number, talk, talk.send(replies)))  # type: ignore[arg-type]  # None begins it
            except StopIteration as end:
                yield number, end.value
        replied = _replies([wishes for _, _, wishes in waiting])
        turns = [(number, talk, replies) for (number, talk, _), replies in zip(waiting, replied, strict=True)]


def _replies(asked: Sequence[Wishes]) -> list[list[Any]]:
    """The replies to each talk's wishes."""
    found: dict[int, Any] = {}
    writings: dict[Sampling, list[Writing]] = {}
    askings: dict[int, list[Asking]] = {}
    for wish in (wish for wishes in asked for wish in wishes):
        if isinstance(wish, Writing):
            writings.setdefault(wish.sampling, []).append(wish)
        else:
            askings.setdefault(wish.max_new_tokens, []).append(wish)
    for written in writings.values():
        found |= zip(map(id, written), write(written), strict=True)
    for answered in askings.values():
        found |= zip(map(id, answered), answer(answered), strict=True)
    return [[found[id(wish)] for wish in wishes] for wishes in asked]
