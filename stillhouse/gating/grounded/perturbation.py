"""A tenth of a corpus removed, in three ways.

In: passages, and how often each was cited. Out: ids to remove, by the name of the way: at random; whole sources, drawn
at random until a tenth is gone; what is cited most. Seeds are fixed.

It does not know what happens to the answers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import ceil

from .corpus import Passage

SHARE = 0.1


def removals(
    passages: Sequence[Passage], cited: Mapping[str, int], share: float = SHARE, seed: int = 0
) -> dict[str, frozenset[str]]:
    """Ids by the way of removing them. A way that would remove nothing or everything is left out: one source alone, or
    no citations."""
    count = ceil(share * len(passages))
    ids = [p.id for p in passages]
    ways = {
        "random": frozenset(random.Random(seed).sample(ids, count)),
        "by source": _sources(passages, count, seed),
        "most cited": frozenset(_ranked(ids, cited)[:count]) if any(cited.get(i) for i in ids) else frozenset(),
    }
    return {name: gone for name, gone in ways.items() if 0 < len(gone) < len(ids)}


def _sources(passages: Sequence[Passage], count: int, seed: int) -> frozenset[str]:
    """All passages of sources drawn one after another until `count` are gone."""
    sources = sorted({p.source for p in passages})
    random.Random(seed).shuffle(sources)
    gone: set[str] = set()
    for source in sources:
        if len(gone) >= count:
            break
        gone.update(p.id for p in passages if p.source == source)
    return frozenset(gone)


def _ranked(ids: Sequence[str], cited: Mapping[str, int]) -> list[str]:
    """Most cited first; of equals the earlier one."""
    return sorted(ids, key=lambda i: -cited.get(i, 0))
