"""Whether an English answer says that it does not know, or that it will not help.

In: an answer. Out: yes or no. For "does not know", the patterns ask who lacks what: the speaker, the source, or the
fact.
"""

from __future__ import annotations

import re

_NOUNS = r"(?:memory|memories|text|context|documents?|notes?|passage|statements?|information|conversations?|file)"
_LY = r"(?:\w+ly |just |still |yet |currently )?"
_START = r"(?:^|[.,;:!?] )"
_NOT = r"(?: not|n'?t)"
_SPEAKER_LACKS = (  # I don't know; cannot find that; I have no record of it; not sure; no idea
    (
        rf"(?:{_START}|\b(?:i|we|be|it) ){_LY}(?:(?:do|did|would|could|can){_NOT}|cannot|can'?t) {_LY}"
        r"(?:know|recall|remember|find|determine|answer|identify"
        r"|be (?:sure|certain|determined|known|found|answered))\b"
    ),
    rf"\b(?:i|we) {_LY}(?:(?:would|could|can){_NOT}|cannot|can'?t) (?:say|tell|see|provide)\b",
    (
        rf"\b(?:i|we) {_LY}(?:(?:do|did){_NOT} have|have no|lack) (?:[\w']+ ){{0,3}}?"
        r"(?:information|idea|records?|memory|memories|mention|knowledge|details?|data|access|answer|clue|way)\b"
    ),
    rf"\b(?:i|we) (?:was|were|am|are|have|had){_NOT} (?:been )?(?:told|given)\b",
    rf"(?:{_START}|\b(?:i'?m|i am|we're|we are) )(?:not {_LY}(?:sure|certain|aware|able)|unsure|unable to)\b",
    (
        rf"(?:{_START}|\b(?:there(?:'s| is| are| was| were)|has|have|is|contains?|gives?) )no (?:\w+ )?"
        r"(?:information|mention|idea|record|memory|clue|details?)"
        r"(?= (?:of|about|on|in|for|that|is|was|are|here)\b|\W*$)"
    ),
)
_SOURCE_LACKS = (  # the memory does not say; it doesn't mention that; you never told me
    (
        rf"\b{_NOUNS}\b[^.!?]{{0,40}}? (?:do|does|did){_NOT} {_LY}"
        r"(?:say|tell|mention|state|specify|contain|include|give|provide|indicate|know|reveal|have)\b"
    ),
    rf"\b(?:it|this|that|they) (?:do|does|did){_NOT} {_LY}(?:say|mention|state|specify|indicate)\b",
    rf"\byou (?:(?:do|did|have|had){_NOT}|never) (?:ever )?(?:told|tell|said|say|mention(?:ed)?|shared?)\b",
)
_FACT_LACKS = (  # it is not mentioned; has not been stated; is unknown
    (
        rf"(?:\b(?:is|was|are|were){_NOT}|\b(?:has|have|had){_NOT} been|{_START}not|never) {_LY}"
        r"(?:mentioned|stated|specified|provided|recorded|listed|said"
        rf"|known(?! (?:for|as|to)\b)|given(?! (?:a|an|the|to)\b)|in (?:the|this|your|my) {_NOUNS})\b"
    ),
    rf"^(?:[\w']+ ){{0,6}}?(?:is |are |was |were |remains? |it's |that's ){_LY}unknown(?= to (?:me|us)\b|\W*$)",
    r"^unknown\W*$",
)
_NOT_ABLE = r"(?:can ?not|can't|couldn't|won't|will not|am (?:not able|unable) to|'m (?:not able|unable) to)"
_HELP = r"(?:help|assist|answer|provide|comply|share|discuss|do|give|say|support|continue|fulfil+)"
_DECLINES = re.compile(
    rf"\b(?:i|we) ?{_NOT_ABLE}(?: \w+)? {_HELP}\b|\bi(?:'m| am) (?:\w+ )?sorry\b.{{0,20}}\b(?:can|but)\b"
)
_SIGNS = ("no", "n't", "nt", "un", "never", "lack")  # every pattern needs one of them; looking for them is quick
_UNKNOWN = re.compile("|".join(_SPEAKER_LACKS + _SOURCE_LACKS + _FACT_LACKS))


def is_unknown(answer: str) -> bool:
    """Whether an answer says that it does not know.

    It looks for who lacks what (I, the memory, the fact), not for single words: "the unknown soldier" and "she does not
    have a dog" are answers. Empty answers do not count: silence is not honesty.
    """
    text = " ".join(answer.lower().replace("\u2019", "'").split())
    return any(sign in text for sign in _SIGNS) and bool(_UNKNOWN.search(text))


def declines(text: str) -> bool:
    """Whether a sentence refuses to help: "I can't answer that", "I'm sorry, but ..."."""
    return bool(_DECLINES.search(text.lower().replace("\u2019", "'")))
