"""Everyday English words that take the place of others, and words that nobody knows.

In: a random generator. Out: an invented word. The lists are data: stand-ins for the words of a statement that a small
teacher cannot spell, and nouns that turn an answerable question into one that a memory does not answer.
"""

from __future__ import annotations

import random

STAND_IN_THINGS = ("lamp", "dog", "colour", "meeting", "garage", "kettle", "sister", "nickname", "wedding")
STAND_IN_NAMES = ("Anna", "Paul", "Maria", "Henry", "Clara", "Simon")
COMMON_NOUNS = tuple(
    "dog cat horse sister brother mother father aunt uncle cousin friend neighbour boss teacher doctor dentist car "
    "boat house bicycle guitar phone laptop garden team company school hotel colour food drink song film book game "
    "sport season fruit animal flower band author painter restaurant dessert tea garage safe locker gate alarm cellar "
    "office printer router archive passport umbrella camera lamp kettle ladder map meeting exam wedding concert "
    "lesson party breakfast lunch dinner birthday job salary address hobby postcode nickname".split()
)

_ONSETS = "b d f g k l m n p r s t v z br dr fl gr kl pl st tr".split()
_VOWELS = "a e i o u ai ea oo".split()
_ENDINGS = "nrlskmx"


def invented_word(rng: random.Random) -> str:
    """A word of two or three syllables that can be spoken and is in no vocabulary."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3))) + rng.choice(_ENDINGS)
