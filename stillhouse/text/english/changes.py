"""How English says that something is no longer as it was: "was changed to", "moved to", "is now called".

In: a sentence. Out: the same in the words of a plain fact ("The password was changed to x" -> "The password is x"), and
whether it spoke of a change. It reads patterns of words, nothing behind them.
"""

from __future__ import annotations

import re

_CHANGED = re.compile(
    r"\s(?:(?:has|have|had)\s+)?(?:(?:been|was|were|got|is|are)\s+)*(?:just\s+|now\s+|recently\s+)?"
    r"(?:changed|updated|reset|switched|raised|lowered|increased|reduced|cut|rescheduled|postponed|moved|replaced|renamed|"
    r"went up|gone up|went down|bumped|upgraded)(?:\s+from\s+.{1,60}?)?\s+(?:to|by|with|into)\s+",
    re.IGNORECASE,
)
_BE = re.compile(r"\s(?:has|have|had|been|was|were|got|is|are)\s", re.IGNORECASE)
_MOVED = re.compile(
    r"^(?P<who>i|we|[a-z][\w'’-]*(?: [\w'’-]+){0,3}?)(?:\s+|['’])(?:have\s+|has\s+|ve\s+|s\s+)?"
    r"(?:just\s+|now\s+|recently\s+)?"
    r"(?:moved|relocated)(?:\s+(?:out\s+)?from\s+.{1,60}?)?\s+(?:to|into)\s+",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"^(?P<who>i|we|[a-z][\w'’-]*(?: [\w'’-]+){0,2}?)\s+(?:now\s+)?(?:joined|left\s+.{1,60}?\s+(?:for|to join)|"
    r"switched from\s+.{1,60}?\s+to|changed jobs(?: from\s+.{1,60}?)? to|started (?:working )?(?:at|for))\s+",
    re.IGNORECASE,
)
RENAMED = re.compile(
    r"^(?P<old>.{1,60}?) (?:is|are|goes) (?:now |by now )?(?:called|named|known as|by) (?P<new>[^,.;]{1,60})",
    re.IGNORECASE,
)
_USED_TO = re.compile(r"\b(?:used to|formerly|previously)\b", re.IGNORECASE)
_NO_LONGER = re.compile(
    r"\b(?:no longer|(?:do|does|did|is|are|am|was|can|will|have|has)(?:n['’]t| not)(?=.*\b(?:any ?more|any longer)\b))"
    r"|\bany ?more\b|\bany longer\b|\bstopped\b|\bquit\b",
    re.IGNORECASE,
)


def plain_forms(sentence: str) -> list[str]:
    """What a sentence that tells of a change states now, in the words of plain facts; empty for another sentence."""
    forms: list[str] = []
    if (moved := _MOVED.match(sentence)) is not None:
        who, rest = moved["who"], sentence[moved.end() :]
        forms += [f"{who} {verb} in {rest}" for verb in ("live", "lives")]
    if (joined := _JOINED.match(sentence)) is not None:
        who, rest = joined["who"], sentence[joined.end() :]
        forms += [f"{who} {verb} {word} {rest}" for verb in ("work", "works") for word in ("for", "at")]
    changed = _CHANGED.search(sentence)
    if changed is not None and (moved is None or _BE.search(changed[0])):
        forms += [f"{sentence[: changed.start()]} {verb} {sentence[changed.end() :]}" for verb in ("is", "are")]
    return forms


def ended(sentence: str) -> str:
    """What a sentence says has ended ("I no longer work here" -> "I work here"); empty for another sentence."""
    for pattern in (_NO_LONGER, _USED_TO):
        if pattern.search(sentence):
            return " ".join(pattern.sub(" ", sentence).split())
    return ""
