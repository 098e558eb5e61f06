"""Three ways to remove a tenth of a corpus: passages at random, whole sources at random, the passages cited most.

In: passages, and how often each was cited. Out: ids to remove, by the name of the way. Whole sources are drawn until a
tenth of the passages is gone. Seeds are fixed.

It does not know the answers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import ceil

from .corpus import CorpusPassage

SHARE = 0.1


def removals(
    passages: Sequence[CorpusPassage], cited: Mapping[str, int], share: float = SHARE, seed: int = 0
) -> dict[str, frozenset[str]]:
    """Ids to remove, by the way of removing them. `cited`: citations by passage id; `share`: of the passages to remove.

    A way that would remove nothing or everything is left out, as for a single source or without citations.
    """
    count = ceil(share * len(passages))
    ids = [p.id for p in passages]
    ways = {
        "random": frozenset(random.Random(seed).sample(ids, count)),
        "by source": _sources(passages, count, seed),
        "most cited": frozenset(_ranked(ids, cited)[:count]) if any(cited.get(i) for i in ids) else frozenset(),
    }
    return {name: removed for name, removed in ways.items() if 0 < len(removed) < len(ids)}


def _sources(passages: Sequence[CorpusPassage], count: int, seed: int) -> frozenset[str]:
    """The ids of all passages of some sources. Sources are drawn one after another until there are `count` passages."""
    sources = sorted({p.source for p in passages})
    random.Random(seed).shuffle(sources)
    removed: set[str] = set()
    for source in sources:
        if len(removed) >= count:
            break
        removed.update(p.id for p in passages if p.source == source)
    return frozenset(removed)


def _ranked(ids: Sequence[str], cited: Mapping[str, int]) -> list[str]:
    """The ids, most cited first. Of equals the earlier one comes first."""
    return sorted(ids, key=lambda i: -cited.get(i, 0))
