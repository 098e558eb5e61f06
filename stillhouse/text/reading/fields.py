"""Fields: a key and its value on one line, as `Dog: Rex`, `ssid = heronnet`, `Door code – 8841`.

In: a line. Out: key and value, where the line has that form. It does not know what a key means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .inline import shown
from .pieces import count_words

LONGEST_KEY = 60  # characters
MOST_WORDS = 7  # of a key
_COLON = re.compile(r"(?P<key>[^\s:：=|<>{}\[\]][^:：=|<>{}\n]{0,80}?)\s*(?::\s+|：\s*)(?P<value>\S.*)", re.DOTALL)
_EQUALS = re.compile(r"(?P<key>[\w][\w .\-]{0,60}?)\s*(?:=>?|:=)\s*(?P<value>[^\s=].*)", re.DOTALL)
_DASH = re.compile(r"(?P<key>[\w][^\n–—→⇒|:]{0,60}?)(?:\s+[-–—→⇒]>?\s+|\t+)(?P<value>[^\s–—→⇒|][^\n–—→⇒|]{0,80})")
_SENTENCE_END = re.compile(r"[.!?。！？](?:\s|$)")
_QUOTED = re.compile(r"^([\"'])(.*)\1,?$", re.DOTALL)


@dataclass(frozen=True)
class Field:
    """A key and its value, as a reader is shown them."""

    key: str
    value: str


def field_of(text: str) -> Field | None:
    """The field that a line is; None where it is none."""
    plain = shown(text.replace("**:", ":**").replace("__:", ":__")) if "*" in text or "_" in text else text.strip()
    for pattern in (_COLON, _EQUALS):
        if (match := pattern.fullmatch(plain)) is not None and _is_key(match["key"]):
            return Field(_unquoted(match["key"]), _unquoted(match["value"]))
    if (match := _DASH.fullmatch(plain)) is not None and _is_key(match["key"]) and not plain.endswith((".", "!", "?")):
        short = count_words(match["key"]) <= 4 and count_words(match["value"]) <= 6
        return Field(match["key"].strip(), match["value"].strip()) if short else None
    return None


def is_setting(text: str) -> bool:
    """Whether a line of a block of code is a setting: `key = value` or `key: value`, and no code."""
    match = re.fullmatch(r"[\w][\w.\- ]{0,60}?\s*(?:=|:\s)\s*(?P<value>[^\s=].*)", text.strip())
    return match is not None and not re.search(r"[;{]\s*$|\(|=>|==", match["value"])


def lead(text: str) -> str:
    """The words of a line that only leads in what follows: "Kitchen:", "**My pets**:"; empty for another line."""
    plain = shown(text.replace("**:", ":**")) if "*" in text else text.strip()
    if not plain.endswith((":", "：")) or len(plain) > 160 or re.search(r"[.!?。！？]\s", plain):
        return ""
    words = plain.rstrip(":： ")
    return words if re.search(r"\w", words) else ""


def _is_key(key: str) -> bool:
    words = count_words(key)
    return 0 < words <= MOST_WORDS and len(key) <= LONGEST_KEY and not _SENTENCE_END.search(key)


def _unquoted(text: str) -> str:
    match = _QUOTED.match(text.strip())
    return match[2] if match else text.strip()
