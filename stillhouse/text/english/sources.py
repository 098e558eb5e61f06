"""Whether an English answer speaks of the text it was taken from: "according to the memory", "the passage says".

In: an answer. Out: yes or no. It knows a list of nouns and verbs; other ways of naming a source go by unseen.
"""

from __future__ import annotations

import re

_SOURCE = (
    r"(?:provided |given |above |following |supplied )?"
    r"(?:memory|memories|passage|context|notes?|documents?|text|excerpt|conversation|information)"
)
_NAMES_SOURCE = re.compile(
    rf"\b(?:according to|based on|as (?:stated|mentioned|described|noted|written) in|mentioned in|stated in|from|"
    rf"in|per) (?:the|this|your) {_SOURCE}\b"
    rf"|\b(?:the|this|your) {_SOURCE} (?:says|states|mentions|tells|notes|indicates|does not|doesn't|do not|don't)\b"
    r"|\bas (?:stated|mentioned) (?:above|earlier|before)\b",
    re.IGNORECASE,
)


def names_source(text: str) -> bool:
    """Whether `text` names a source that its reader cannot see."""
    return _NAMES_SOURCE.search(text.replace("’", "'")) is not None
