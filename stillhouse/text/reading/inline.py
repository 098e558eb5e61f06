"""Marks inside a line: what a reader is shown of a sentence with Markdown, a little HTML, entities.

In: a sentence as it is written. Out: the words without the marks. A link keeps its address behind its words; what is
struck out and images are gone. It reads no blocks.
"""

from __future__ import annotations

import html
import re

CHAT_TOKEN = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|\[/?(?:INST|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|<</?SYS>>"
    r"|</?(?:start|end)_of_turn>|</?s>"
)
IMAGE = re.compile(r"!\[[^\[\]\n]{0,300}\](?:\([^()\n]{0,1000}\)|\[[^\[\]\n]{0,100}\])|!\[\[[^\[\]\n]{1,300}\]\]")
LINKED_IMAGE = re.compile(rf"\[\s*(?:{IMAGE.pattern})\s*\]\([^()\n]{{0,1000}}\)")
STRUCK = re.compile(r"~~(?=\S)[^~\n]{1,400}~~|<(del|s|strike)>[^<\n]{0,400}</\1>", re.IGNORECASE)
TAGS = (
    "a abbr article aside b blockquote body br button center cite code col colgroup dd del details dfn div dl dt em "
    "figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins kbd label li link "
    "main mark meta nav ol option p picture pre q s samp script section select small source span strike strong style "
    "sub summary sup svg table tbody td textarea tfoot th thead time title tr tt u ul var video"
)
TAG = re.compile(
    rf"</?(?:{'|'.join(TAGS.split())})(?:\s[^<>]{{0,1000}})?/?>|<!--.{{0,5000}}?-->", re.DOTALL | re.IGNORECASE
)
LONGEST = 4000  # characters of a text whose marks are read
_MARKS = re.compile(r"[*_`~\[<&\\=!]")
_URL = r"<[^<>\n]{1,1000}>|[^()\s]{0,1000}(?:\([^()\s]{0,200}\)[^()\s]{0,200})?"
_LINK = re.compile(rf"\[(?P<words>[^\[\]\n]{{1,1000}})\]\((?P<url>{_URL})(?:\s+[\"'(][^\n]{{0,300}}[\"')])?\)")
_REFERENCE = re.compile(r"\[(?P<words>[^\[\]\n]{1,300})\]\[[^\[\]\n]{0,100}\]")
_FOOTNOTE = re.compile(r"\[\^[^\[\]\s]{1,40}\]")
_WIKI = re.compile(r"\[\[(?:[^\[\]|\n]{1,300}\|)?(?P<words>[^\[\]|\n]{1,300})\]\]")
_AUTOLINK = re.compile(r"<((?:https?|ftp|mailto):[^<>\s]{1,1000}|[^<>\s@]{1,64}@[^<>\s]{1,200})>")
_CODE = re.compile(r"(?<!`)(`{1,3})(?!`)(?P<words>[^\n]{1,1000}?)(?<!`)\1(?!`)")
_EMPHASIS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\*)\*\*\*(?=[^\s*])(?P<words>[^*\n]{1,400}?)(?<=[^\s*])\*\*\*(?!\*)",
        r"(?<!\*)\*\*(?=[^\s*])(?P<words>(?:[^*\n]|\*(?!\*)){1,400}?)(?<=[^\s])\*\*(?!\*)",
        r"(?<![\w_])__(?=[^\s_])(?P<words>[^\n]{1,400}?)(?<=[^\s_])__(?![\w_])",
        r"(?<![\w*])\*(?=[^\s*])(?P<words>[^*\n]{1,400}?)(?<=[^\s*])\*(?![\w*])",
        r"(?<![\w_])_(?=[^\s_])(?P<words>[^_\n]{1,400}?)(?<=[^\s_])_(?![\w_])",
        r"(?<!=)==(?=[^\s=])(?P<words>[^=\n]{1,400}?)(?<=[^\s=])==(?!=)",
    )
)
_ESCAPE = re.compile(r"\\([*_`#\[\]~|<>!])")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def shown(text: str) -> str:
    """What a reader is shown of `text`, in one line."""
    if len(text) <= LONGEST and _MARKS.search(text):
        for pattern in (CHAT_TOKEN, LINKED_IMAGE, IMAGE, STRUCK, _FOOTNOTE):
            text = pattern.sub(" ", text)
        text = _CODE.sub(lambda match: match["words"].strip(), text)
        text = _LINK.sub(_linked, _WIKI.sub(r"\g<words>", text))
        text = TAG.sub(_untagged, _AUTOLINK.sub(r"\1", _REFERENCE.sub(r"\g<words>", text)))
        for pattern in _EMPHASIS:
            text = pattern.sub(r"\g<words>", text)
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), _ESCAPE.sub(r"\1", text))
    return " ".join(text.split())


def _linked(match: re.Match[str]) -> str:
    words, url = match["words"].strip(), match["url"].strip("<>")
    plain = url.removeprefix("mailto:").removeprefix("https://").removeprefix("http://").rstrip("/")
    return (
        words if not url or url.startswith("#") or words.rstrip("/") in (url.rstrip("/"), plain) else f"{words} ({url})"
    )


def _untagged(match: re.Match[str]) -> str:
    """A tag that parts words becomes a space; others leave no trace."""
    return " " if re.match(r"</?(?:br|p|div|li|td|th|tr|h[1-6]|hr)\b|<!--", match[0], re.IGNORECASE) else ""


def without_words(text: str) -> str:
    """Why a text that shows nothing is left out."""
    if CHAT_TOKEN.search(text):
        return "chat markup"
    if STRUCK.search(text):
        return "struck out"
    return "an image" if IMAGE.search(text) else "markup"
