"""Which language a text is in, as well as its letters and small words tell: enough to know its abbreviations.

In: a text. Out: a code of ISO 639-1, "en" where nothing tells. It reads the beginning of a long text.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from .words import sections, words

READ = 600  # characters
_SCRIPTS = (
    ("ja", "\u3041-\u30ff"), ("zh", "\u3400-\u9fff"), ("th", "\u0e00-\u0e7f"), ("hi", "\u0900-\u097f"),
    ("bn", "\u0980-\u09ff"), ("pa", "\u0a00-\u0a7f"), ("gu", "\u0a80-\u0aff"), ("ta", "\u0b80-\u0bff"),
    ("te", "\u0c00-\u0c7f"), ("kn", "\u0c80-\u0cff"), ("ml", "\u0d00-\u0d7f"), ("my", "\u1000-\u109f"),
    ("am", "\u1200-\u137f"), ("hy", "\u0530-\u058f"), ("he", "\u0590-\u05ff"), ("ar", "\u0600-\u06ff"),
    ("el", "\u0370-\u03ff"), ("ko", "\uac00-\ud7af"),
)  # fmt: skip
_SCRIPT = re.compile("|".join(f"(?P<{code}>[{letters}])" for code, letters in _SCRIPTS))
_CYRILLIC, _LETTER = re.compile("[\u0400-\u04ff]"), re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_LANGUAGE = "language "
_CYRILLIC_CODES = ("ru", "uk", "bg")


def language(text: str, otherwise: str = "en") -> str:
    """The language of `text`; `otherwise` where it has no word that tells."""
    text = text[:READ]
    cyrillic = False
    if not text.isascii():
        scripts = Counter(match.lastgroup or "" for match in _SCRIPT.finditer(text))
        letters = len(_LETTER.findall(text))
        if scripts and sum(scripts.values()) * 2 > letters:
            return "ja" if scripts["ja"] and scripts.keys() <= {"ja", "zh"} else scripts.most_common(1)[0][0]
        cyrillic = len(_CYRILLIC.findall(text)) * 2 > letters > 0
    marks = Counter(code for word in _WORD.findall(text.lower()) for code in _known(cyrillic).get(word, ()))
    if marks:
        return max(marks, key=lambda code: (marks[code], code == otherwise))
    return "ru" if cyrillic else otherwise


@cache
def _known(cyrillic: bool) -> dict[str, list[str]]:
    """The languages that a small word stands for, among those with these letters."""
    known: dict[str, list[str]] = {}
    for name in sections():
        if name.startswith(_LANGUAGE) and (name.removeprefix(_LANGUAGE) in _CYRILLIC_CODES) == cyrillic:
            for word in words(name):
                known.setdefault(word, []).append(name.removeprefix(_LANGUAGE))
    return known
