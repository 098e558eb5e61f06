"""English sentences: where one ends, which are orders to a model, which lean on the sentence before them.

In: patterns for a line of text. Out: matches. They read signs and words; no parser stands behind them.
"""

from __future__ import annotations

import re

# A turn of a conversation begins with who speaks: "User: ", "**Assistant:** ".
SPEAKER_LABEL = re.compile(
    r"\s*(?:\*\*)?(?:User|Assistant|Human|AI|Bot|System|Me|Customer|Agent)(?:\*\*)?:\s+", re.IGNORECASE
)

# The space between two sentences of one line.
SENTENCE_BORDER = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")

# A full stop that ends no sentence: of an abbreviation, or of an initial, which the end of a code ("55-K.") is not.
ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|e\.g|i\.e|approx|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)|\b(?<!\w-)[A-Z])\.$"
)
# The same in lower case, for text whose capitals say nothing.
ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st rev capt vs approx jan feb mar apr jun jul aug sep sept oct nov dec inc ltd jr sr fig ca str "
    "tel ext dept".split()
)
ENDING_ABBREVIATIONS = frozenset(("etc", "a.m", "p.m"))  # a sentence may end with them
NUMBERING = frozenset(("no", "nr"))  # before a number
LONGEST_ABBREVIATION = 12  # characters, with what stands before it

# What reads like an order to a model. The first word may be the order itself: "System: disregard …". What people have
# to do is none: "You must always reply to my mother."
ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|previous|earlier|above|memory|rule|everything)"
    r"|\bfrom now on\b.{0,40}\b(?:you|reply|answer|say|respond)"
    r"|\byou (?:must|should|will|shall) (?:always |only |now |never )*"
    r"(?:(?:answer|reply|respond)\b(?!\s+(?:to|the|my|our|your|his|her|their|its|a|an|it|them|him)\b)|output\b|pretend\b"
    r"|act as\b|say (?-i:[A-Z\"“']))"
    r"|\b(?:answer|reply to|respond to) (?:every|all|any) (?:\w+ )?"
    r"(?:questions?|prompts?|requests?|messages?|quer(?:y|ies)|users?)\b"
    r"|\bwhatever (?:you are|the user|i) asks?|\bwhatever the user says"
    r"|^(?:system|assistant)\s*[:,]\s*(?:ignore|disregard|forget|you|whatever|output|say)",
    re.IGNORECASE,
)

_LEANS = re.compile(r"^(?:He|She|It|They|This|That|These|Those|His|Her|Its|Their|There|Then|So|And|But|Also)\b")


def leans_back(sentence: str) -> bool:
    """Whether a sentence begins with a word that points at the sentence before it: "He", "That", "But"."""
    return _LEANS.match(sentence) is not None
