"""The words that layouts and the ends of sentences are known by, in several languages (`words.txt`).

In: the name of a section. Out: its words, in lower case. It knows no text.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def words(section: str) -> frozenset[str]:
    """The words of one section, in lower case."""
    return sections()[section]


@cache
def sections() -> dict[str, frozenset[str]]:
    """All sections, by name."""
    lists: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = lists.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            current |= {word.replace("_", " ").strip() for word in line.split()}
    return {name: frozenset(kept) for name, kept in lists.items()}
