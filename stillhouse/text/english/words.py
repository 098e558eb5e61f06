"""English words: which ones carry meaning, and which forms of a word belong together.

In: a text or a word. Out: its content words, its noun compounds, its forms. The rules compare spelling only: they know
no dictionary, and take "banking" and "bank" for one word.
"""

from __future__ import annotations

import re

# Words that a comparison of two short answers leaves out: articles, possessives, forms of "be", locating words.
DROPPED_WORDS = frozenset("a an the my your our its his her their is are in on at".split())

# Words that no question is about.
FUNCTION_WORDS = frozenset(
    "what which who whom whose where when why how the and for with from are was were does did do can could you tell me "
    "my your his her its our their that this there have has had say says said name names called named like many much "
    "city date day time place know remember get got live lives work works called into about who's what's not is am on "
    "in at it of to be number kind type sort please give one".split()
)

POSSESSIVE = "'s"

# A word long enough to be a damaged copy of another one.
LONG_WORD = re.compile(r"[A-Za-z][\w-]{3,}")

# What a small model writes twice, and how it reads once: "the desk number's desk number", "the cat of Emma's cat".
REPETITIONS = (
    (re.compile(r"\b((?:[\w-]+ )?[\w-]+)(?:'s)? \1\b", re.IGNORECASE), r"\1"),
    (re.compile(r"\b((?:[\w-]+ )?[\w-]+) of (\S+)'s \1\b", re.IGNORECASE), r"\1 of \2"),
)

_CONTENT = re.compile(r"[A-Za-z][\w'-]{2,}|\d[\w:.-]*")
_AFTER_PRONOUN = re.compile(r"\b(?:I|we|We|he|He|she|She|they|They|you|You) (\w+)")
_COMPOUND = re.compile(r"\b(?!(?:[Tt]he|[Mm]y|a|is|of)\b)[A-Za-z]{3,} (?:name|number|code|size|type|key|visit|time)\b")
_NOUN_PAIR = re.compile(
    r"(?:\b(?:[Mm]y|[Oo]ur|[Tt]he|[Aa]n?|[Hh]is|[Hh]er|[Tt]heir)|'s) ([a-z]{3,} [a-z]{2,}[a-rt-z])\b(?<!ed)"
)
_OWNED = re.compile(r"^(.{1,60}?)(?:['’]s|(?<=s)['’]) (.{1,60})$")
_OWNER = re.compile(r"^(?:the )?(.{1,60}?) of (?:the |my |your |his |her |our |their )?(.{1,60})$", re.IGNORECASE)
_ENDINGS = ("'s", "s", "es", "d", "ed", "ing", "ly")
_SHORTEST_STEM = 3  # letters


def content_words(text: str) -> list[str]:
    """The words and numbers of `text` that are no function words, in order, as they are written there."""
    return [w for w in _CONTENT.findall(text) if w.lower().removesuffix(POSSESSIVE) not in FUNCTION_WORDS]


def naming_words(text: str) -> list[str]:
    """The content words that say what a sentence is about: no numbers, and no verb behind a pronoun."""
    verbs = set(_AFTER_PRONOUN.findall(text))
    return [w.removesuffix(POSSESSIVE) for w in content_words(text) if w not in verbs and not w[0].isdigit()]


def owner_and_owned(text: str) -> list[str]:
    """The owner and the thing of "Emma's desk number" or "the desk number of Emma"; empty where `text` is neither."""
    owned, owner = _OWNED.match(text), _OWNER.match(text)
    parts = [owner[2], owner[1]] if owner else [owned[1], owned[2]] if owned else []
    return [part for part in parts if part.lower() not in FUNCTION_WORDS]


def forms(word: str) -> set[str]:
    """`word`, in lower case already, and what is left of it without each English ending it has."""
    return {word} | {word.removesuffix(e) for e in _ENDINGS if len(word) - len(e) >= _SHORTEST_STEM}


def compounds(text: str) -> list[str]:
    """Two words that name one thing and end in a common head: "tax code", "desk number"."""
    return _COMPOUND.findall(text)


def noun_pairs(text: str) -> list[str]:
    """Two lower-case words behind an article or an owner: "call sign" of "the call sign". Some are no compound."""
    return _NOUN_PAIR.findall(text)
