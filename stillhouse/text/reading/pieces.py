"""What the layouts hand over: pieces of a memory, taken or left out, each with its place and context.

In: values. Out: `Piece`s. It knows no layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...records import Context

NOWHERE = Context()
HEADING, QUESTION, CODE, SHORT, MARKUP = (
    "a heading",
    "a question",
    "code",
    "too short to state anything alone",
    "markup",
)
RULE, STAMP, IMAGE, STRUCK, NOTICE = "a rule", "a timestamp", "an image", "struck out", "a notice of the messenger"
CHAT_MARKUP, SCRIPT, MAIL_HEAD, LABEL = "chat markup", "a script", "the head of an e-mail", "who speaks"

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Piece:
    """A span of characters of the memory: what a reader is shown of it, or why it is left out."""

    start: int
    end: int
    text: str = ""
    context: Context = NOWHERE
    reason: str = ""
    key: str = ""
    """What the piece gives a value of: the key of a field, the label of a row."""
    value: str = ""
    row: bool = False
    """Whether it is a row of a table."""


def left(start: int, end: int, reason: str) -> Piece:
    """A piece that is left out."""
    return Piece(start, end, reason=reason)


def count_words(text: str) -> int:
    """Words of a text; two letters of a script without spaces count as one."""
    if text.isascii():
        return len(_WORD.findall(text))
    unspaced = len(_UNSPACED.findall(text))
    return len(_WORD.findall(_UNSPACED.sub(" ", text) if unspaced else text)) + (unspaced + 1) // 2
