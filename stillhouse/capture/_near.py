"""What to ask that a memory does not answer: near misses of what it does, and everyday questions.

In: questions that the memory answers. Out: the same ones about somebody or something else, for "I don't know.": who
cannot tell them apart has learned a wording, not a fact. Which of them the memory does answer is for the teacher to
say (`memory.py`).

English alone is taken apart into words that name something and others; elsewhere any word may be another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .. import chat
from ..records import Question
from ._selfstudy import FUNCTION_WORDS, NAMES, content_words

INVENTED = 0.4  # of the words put in are in no vocabulary
_TOKEN = re.compile(r"[^\W\d_][\w'-]*|\d[\w:.-]*")
_ASKING = ("I", "my")  # who asks
_WITH_A_NAME = {"do": "does", "am": "is", "have": "has"}
_OPENING = frozenset(
    "a an the my your our his her its their this that which what whose many of for in at on with from by to under "
    "behind near into about favourite favorite".split()
)
_DOING = frozenset("do does did can could must should will would may".split())
_CLOSED = (
    FUNCTION_WORDS | _OPENING | _DOING | frozenset("born built done due held hidden kept known made put set".split())
)
_ONSETS = "b d f g k l m n p r s t v z br dr fl gr kl pl st tr".split()
_VOWELS = "a e i o u ai ea oo".split()


@cache
def decoys() -> tuple[str, ...]:
    """Everyday questions that some memory might answer and most do not (`decoys.txt`)."""
    lines = (Path(__file__).with_name("decoys.txt")).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def near_misses(questions: Sequence[Question], per_question: int, seed: int) -> list[str]:
    """Questions one word away from answerable ones: another thing, another person, an invented word.

    The word changes, the wording stays, so a student cannot tell known from unknown by the wording.
    """
    rng = random.Random(seed)
    pool = [word for q in questions for word in _naming(q.text) if word not in _ASKING] + list(_COMMON)
    found: dict[str, None] = {}
    for question in questions:
        words = _naming(question.text) or content_words(question.text)
        for _ in range(per_question if words else 0):
            word = rng.choice(words)
            text = _about(question.text, word, _replacement(word, pool, rng))
            if text != question.text and not chat.says(text, question.answer):
                found[text] = None
    known = {chat.normalise(q.text) for q in questions}
    return [text for text in found if chat.normalise(text) not in known]


def _naming(question: str) -> list[str]:
    """The words of a question that name somebody or something: numbers, names, who asks, what stands behind an article,
    an owner, a preposition or "which", and the second half of such a compound where no verb can stand. With another
    verb a question makes no sense, and what a teacher says to nonsense is not what it knows."""
    found = []
    before, half, asked = "", 0, False
    for at, match in enumerate(_TOKEN.finditer(question)):
        word = match[0]
        plain = word.lower().removesuffix("'s")
        asked = asked or plain in _DOING
        named = _is_name(word, at > 0)
        if named or plain in _CLOSED or len(plain) < 3:
            half = 0
        elif before.lower() in _OPENING or before.endswith("'s"):
            half = 1
        else:
            half = 2 if half == 1 and not asked and not plain.endswith("ed") else 0
        if named or half:
            found.append(word)
        before = word
    return found


def _is_name(word: str, inside: bool) -> bool:
    """Who asks, what has a digit, and what is in capitals though it does not begin the question."""
    if word in _ASKING or any(c.isdigit() for c in word):
        return True
    return inside and word[0].isupper() and len(word) > 1 and word.lower().removesuffix("'s") not in FUNCTION_WORDS


def _replacement(word: str, pool: Sequence[str], rng: random.Random) -> str:
    if word in _ASKING:
        return rng.choice(NAMES) if rng.random() > INVENTED else invented(rng).capitalize()
    if any(c.isdigit() for c in word):
        return "".join(rng.choice("0123456789") if c.isdigit() else c for c in word)
    possessive = "'s" if word.endswith("'s") else ""
    if rng.random() < INVENTED:
        new = invented(rng)
    else:
        alike = [w for w in pool if w[0].isupper() == word[0].isupper() and not w[0].isdigit() and w != word]
        new = rng.choice(alike).removesuffix("'s") if alike else invented(rng)
    return (new.capitalize() if word[0].isupper() else new) + possessive


def _about(question: str, word: str, new: str) -> str:
    """The question with another word; where it is who asks, about somebody else."""
    if word == "my":
        return re.sub(r"\bmy\b", f"{new}'s", question)
    if word == "I":
        return re.sub(r"\b(\w+) I\b", lambda m: f"{_WITH_A_NAME.get(m[1], m[1])} {new}", question)
    return re.sub(rf"\b{re.escape(word)}\b", lambda _: new, question)


def invented(rng: random.Random) -> str:
    """A word that is in no vocabulary."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3))) + rng.choice("nrlskmx")


_COMMON = (
    "dog cat horse sister brother mother father aunt uncle cousin friend neighbour boss teacher doctor dentist car "
    "boat house bicycle guitar phone laptop garden team company school hotel colour food drink song film book game "
    "sport season fruit animal flower band author painter restaurant dessert tea garage safe locker gate alarm cellar "
    "office printer router archive passport umbrella camera lamp kettle ladder map meeting exam wedding concert "
    "lesson party breakfast lunch dinner birthday job salary address hobby postcode nickname"
).split()
