"""The words that stand inside values: titles, months, units, street words, in several languages.

In: the name of a section of `value_words.txt`. Out: its words, and a regular expression of them. It knows no text.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def words(section: str) -> frozenset[str]:
    """The words of one section, in lower case."""
    return _sections()[section]


@cache
def pattern(section: str) -> str:
    """A group that matches any word of a section, the longest first, whatever the space inside it."""
    longest_first = sorted(words(section), key=lambda word: (-len(word), word))
    return "(?:" + "|".join(r"\s?".join(map(re.escape, word.split(" "))) for word in longest_first) + ")"


@cache
def _sections() -> dict[str, frozenset[str]]:
    sections: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in Path(__file__).with_name("value_words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            current |= {word.replace("_", " ") for word in line.split()}
    return {name: frozenset(kept) for name, kept in sections.items()}
