"""Whether an answer is a whole value of its statement, as the statement writes it.

In: an answer that a teacher wrote or gave, and the text of the statement. Out: the answer, made whole where it was cut
and it is certain how it goes on; None where the statement does not say it.

It does not know questions, nor whether an answer is right: only that the text has it.
"""

from __future__ import annotations

from ...text.answers import normalise
from ...text.language import DROPPED_WORDS, FUNCTION_WORDS, owner_and_owned
from ...text.values import whole_span, widened


def grounded(answer: str, text: str) -> str | None:
    """`answer` if it is one whole span of `text`; what it was cut from if that is certain; else None.

    An answer may have other articles and owners at its edges than the text ("your dog", "in Paris"), and may turn an
    owner round ("David's dog" for "David has a dog"). One that only points ("you") is taken as it is.
    """
    words = answer.strip().strip(".!").split()
    if not words:
        return None
    if all(word.lower() in FUNCTION_WORDS for word in words) or whole_span(text, answer):
        return answer
    core = " ".join(_without_edges(words))
    if core and whole_span(text, core):
        return answer
    parts = owner_and_owned(core)
    if parts and all(whole_span(text, part) for part in parts):
        return answer
    return widened(text, core) if core else None


def is_cut_of(answer: str, whole: str, text: str) -> bool:
    """Whether `answer` is a cut form of the value `whole` of `text`."""
    made_whole = grounded(answer, text)
    return made_whole is not None and made_whole != answer and normalise(made_whole) == normalise(whole)


def _without_edges(words: list[str]) -> list[str]:
    """The words without articles, owners and locating words at the beginning."""
    first = next((at for at, word in enumerate(words) if word.lower() not in DROPPED_WORDS), len(words))
    return words[first:]
