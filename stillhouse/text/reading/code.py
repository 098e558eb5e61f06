"""Code: what is fenced, what is indented and looks like it, what is pasted as it is.

In: lines. Out: whether they are code, and how many. A fenced block in which every line is a setting (`key = value`,
`key: value`), in a language of settings or in none, is no code but text. It does not know any programming language.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .fields import is_setting
from .lines import Line

_FENCE = re.compile(r"\s*(?P<mark>`{3,}|~{3,})\s*(?P<language>[^`]*)")
_SETTINGS = {
    "",
    "ini",
    "toml",
    "yaml",
    "yml",
    "json",
    "env",
    "dotenv",
    "conf",
    "config",
    "cfg",
    "properties",
    "text",
    "txt",
}
_COMMENT = re.compile(r"\s*(?:[#;]|//).*|\s*\[{1,2}[\w .:\"'-]+\]{1,2}\s*|\s*---\s*")
_SIGNS = re.compile(
    r"[;{]\s*$|^\s*[})\]]+[;,]?\s*$|=>|->|==|!=|\+=|&&|\|\||::|\w\(\)|\w\([^()]*\)\s*[:;{]?\s*$|</?\w+[^<>]*>\s*$|^\s*<\w+"
    r"|^\s*(?:\$|>>>|%|#!)\s+\S|^\s*(?:def|class|import|from|return|if|elif|else|for|while|try|except|with|func|fn|let|const|"
    r"var|public|private|static|void|int|export|sudo|git|cd|pip|npm|docker|kubectl|apt-get|curl|echo|ssh|SELECT|INSERT|UPDATE|"
    r"CREATE|#include|package|struct|enum)\b.*[(){}=:;$/\\|&<>-]|^\s*[\w.\[\]]+\s*=\s*(?:[\w.]+\(|[\[{(\"'])|^\s*@\w+|^\s*(?://|/\*|\*/)"
)
_SENTENCE = re.compile(r"^\s*[A-ZÀ-ÞА-Я][^{}=<>;]*[.!?]\s*$")


@dataclass(frozen=True)
class Fence:
    """A fenced block: the lines behind its first one up to the last, and whether they are settings."""

    end: int
    """Line behind the block."""
    closed: bool
    settings: bool


def fence(lines: Sequence[Line], i: int) -> Fence | None:
    """The fenced block that begins at line `i`. One without an end reaches to the first line that is blank."""
    opening = _FENCE.fullmatch(lines[i].text)
    if opening is None or (opening["mark"][0] == "`" and "`" in opening["language"]):
        return None
    mark = opening["mark"]
    for at in range(i + 1, len(lines)):
        text = lines[at].bare
        if text.startswith(mark) and not text.strip(mark[0]):
            language = opening["language"].strip(" {}.").lower().split(" ")[0]
            return Fence(at + 1, True, language in _SETTINGS and _are_settings(lines[i + 1 : at]))
    at = i + 1
    while at < len(lines) and lines[at].bare:
        at += 1
    return Fence(at, False, False)


def _are_settings(lines: Sequence[Line]) -> bool:
    filled = [line.text for line in lines if line.bare and not _COMMENT.fullmatch(line.text)]
    return bool(filled) and all(is_setting(text) for text in filled)


def looks_like_code(lines: Sequence[Line]) -> bool:
    """Whether most of some lines are code by their signs."""
    filled = [line.text for line in lines if line.bare]
    signs = sum(_SIGNS.search(text[:400]) is not None and not _is_text(text) for text in filled[:200])
    return len(filled) > 0 and signs * 2 >= len(filled[:200])


def _is_text(line: str) -> bool:
    return _SENTENCE.match(line) is not None or is_setting(line)
