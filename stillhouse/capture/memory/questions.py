"""What to ask about a memory: the teacher's written questions, checked, and questions the memory does not answer.

In: a teacher's reply to `prompts.writing_request` about one statement. Out: candidate `Question`s about that statement,
and near misses, to which the right answer is "I don't know.". Among the candidates are reverse questions, in which the
answer becomes part of the question: without them a fact is learned in one direction only (Berglund et al. 2023).

Every rule here is about text, and knows no language by itself (`text/language.py`). Whether a question is any good is
for the teacher to show by answering it (`study.py`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher

from ...records import Question, Statement
from ...text.answers import mentions, normalise
from ...text.language import (
    ANSWER_LABEL,
    COMMON_NOUNS,
    COMPLETION_REQUEST,
    FUNCTION_WORDS,
    LONG_WORD,
    POSSESSIVE,
    QUESTION_LABEL,
    REPETITIONS,
    STAND_IN_NAMES,
    STAND_IN_THINGS,
    compounds,
    content_words,
    forms,
    invented_word,
    naming_words,
    noun_pairs,
)
from ...text.values import widen
from .grounding import grounded

_LINE = re.compile(
    rf"^\s*(?:[-*•]|\(?\d+[.):])?\s*(?:{QUESTION_LABEL}\s*)?(?P<q>[^|\n]+?)\s*\|\s*(?:{ANSWER_LABEL}\s*)?"
    r"(?P<a>[^|\n]+?)\s*$"
)
SHORTEST = 8  # characters of a question
COPIED = 0.7  # similarity from which a word is a bad copy and not another word
INVENTED = 0.4  # share of near misses that get a word nobody knows


def parse(reply: str) -> list[tuple[str, str]]:
    """`question | answer` lines of a teacher's reply; numbering, bullets and labels of question and answer are cut."""
    matches = (_LINE.match(line) for line in reply.splitlines())
    return [(match["q"].strip(), match["a"].strip()) for match in matches if match and match["q"].strip()]


def candidates(reply: str, statement: Statement) -> list[Question]:
    """The usable questions of a reply.

    Every answer has to be a whole value of the statement, or one that shows which value it was cut from. The answer
    that most lines share is the statement's own. A line with that answer is a forward question; a line that asks with
    that answer inside is a reverse one. No question may contain its own answer.
    """
    lines = [(q, grounded(a, statement.text)) for q, a in parse(reply) if len(q) >= SHORTEST and normalise(a)]
    pairs = [(q, a) for q, a in lines if a is not None and not mentions(q, a)]
    if not pairs:
        return []
    main, _ = Counter(normalise(a) for _, a in pairs).most_common(1)[0]
    usable: dict[str, Question] = {}
    for question, answer in pairs:
        forward = normalise(answer) == main
        if _stutters(question, statement.text) or not (forward or mentions(question, main)):
            continue
        key = normalise(question)
        usable.setdefault(key, Question(question, answer, statement.index, "forward" if forward else "reverse"))
    return list(usable.values())


def lost_words(reply: str, statement: Statement) -> list[str]:
    """Content words of the statement that no line of the reply repeats.

    A small teacher miscopies words it never saw, and asks about something else. A compound counts as one word.
    """
    text = " ".join(f"{q} {a}" for q, a in parse(reply))
    used = {w.lower() for w in content_words(text)}
    used |= {form for word in used for form in forms(word)}
    lost = [w for w in dict.fromkeys(naming_words(statement.text)) if not used & forms(w.lower())]
    pairs = [pair for pair in compounds(statement.text) if pair.lower() not in text.lower()]
    pairs += [pair for pair in noun_pairs(statement.text) if set(pair.split()) <= set(lost)]
    return list(dict.fromkeys([*pairs, *(w for w in lost if not any(w in pair.split() for pair in pairs))]))


def hardest(statement: Statement, tokens: Callable[[str], int]) -> list[str]:
    """The compound that a statement is about, else its word of most tokens; empty where it has no such word."""
    pairs = [pair for pair in noun_pairs(statement.text) if not FUNCTION_WORDS & set(pair.split()[1:])]
    words = compounds(statement.text) or pairs or sorted(naming_words(statement.text), key=tokens, reverse=True)
    return words[:1]


def repair(reply: str, statement: Statement) -> str:
    """The reply with its nearly copied words put right and its repetitions taken out.

    A word counts as a copy when the statement has no form of it, and most of its letters, in order, are those of a word
    of the statement (Ratcliff and Obershelp's similarity): "vegetain" for "vegetable". Two words run together are
    parted: "theregatta". Text that stands twice stands once afterwards: "Emma's desk number's desk number".
    """
    own = [w.removesuffix(POSSESSIVE) for w in content_words(statement.text)]
    known = {form for w in own for form in forms(w.lower())} | FUNCTION_WORDS

    def put_right(match: re.Match[str]) -> str:
        word = match[0]
        if word.lower() in known or forms(word.lower()) & known:
            return word
        nearest = max(own, key=lambda w: SequenceMatcher(None, word.lower(), w.lower()).ratio(), default=word)
        if SequenceMatcher(None, word.lower(), nearest.lower()).ratio() < COPIED:
            return word
        before = word.lower().removesuffix(nearest.lower())
        return f"{before} {nearest}" if before in FUNCTION_WORDS else nearest

    repaired = LONG_WORD.sub(put_right, reply)
    for pattern, once in REPETITIONS:
        if not pattern.search(statement.text):
            repaired = pattern.sub(once, repaired)
    return repaired


def mask(text: str, words: Sequence[str], turn: int) -> tuple[str, dict[str, str]]:
    """`text` with each of `words` replaced by an everyday word, and the word behind each stand-in.

    Numbers stay. In a very long text, words stay for which no stand-in is left. `turn` picks other stand-ins.
    """
    stand_ins: dict[str, str] = {}
    taken = {w.lower() for w in content_words(text)}
    for number, word in enumerate(w for w in words if not w[0].isdigit()):
        is_name = word[0].isupper() and not text.startswith(word)
        pool = [w for w in (STAND_IN_NAMES if is_name else STAND_IN_THINGS) if w.lower() not in taken]
        if not pool:
            continue
        new = pool[(turn - 1 + 3 * number) % len(pool)]
        new = new.capitalize() if word[0].isupper() else new
        taken.add(new.lower())
        stand_ins[new] = word
        text = re.sub(rf"\b{re.escape(word)}\b", new, text)
    return text, stand_ins


def unmask(reply: str, stand_ins: Mapping[str, str]) -> str:
    """The reply to a masked statement with the statement's own words back in place."""
    for new, word in stand_ins.items():
        reply = re.sub(rf"\b{re.escape(new)}\b", lambda _, w=word: w, reply, flags=re.IGNORECASE)  # type: ignore[misc]
    return reply


def cloze(statement: Statement) -> list[Question]:
    """The statement with its end left out, a whole value, for when the teacher wrote nothing usable about it."""
    text = " ".join(statement.text.rstrip(".!").split())
    spaces = [match.start() for match in re.finditer(" ", text)]
    wanted = [spaces[-1], spaces[max(1, (len(spaces) + 1) * 2 // 3) - 1]] if spaces else []
    cuts = dict.fromkeys(widen(text, space + 1, len(text))[0] for space in wanted)
    return [
        Question(COMPLETION_REQUEST.format(beginning=text[:cut].rstrip()), text[cut:], statement.index, "cloze")
        for cut in cuts
        if cut
    ]


def near_misses(questions: Sequence[Question], per_question: int, seed: int) -> list[str]:
    """Questions one content word away from answerable ones: another thing, another person, an invented word.

    The word changes and the wording stays, so a student cannot tell known from unknown by the wording.
    """
    rng = random.Random(seed)
    pool = [w for q in questions for w in content_words(q.text)] + list(COMMON_NOUNS)
    alike = {large: [w for w in pool if w[0].isupper() == large and not w[0].isdigit()] for large in (True, False)}
    misses: dict[str, None] = {}
    for question in questions:
        words = content_words(question.text)
        for _ in range(per_question if words else 0):
            word = rng.choice(words)
            new = _replacement(word, alike[word[0].isupper()], rng)
            text = re.sub(rf"\b{re.escape(word)}\b", new, question.text)
            if text != question.text and not mentions(text, question.answer):
                misses[text] = None
    known = {normalise(q.text) for q in questions}
    return [text for text in misses if normalise(text) not in known]


def _replacement(word: str, alike: Sequence[str], rng: random.Random) -> str:
    if word[0].isdigit():
        return "".join(rng.choice("0123456789") if c.isdigit() else c for c in word)
    possessive = POSSESSIVE if word.endswith(POSSESSIVE) else ""
    if rng.random() < INVENTED:
        new = invented_word(rng)
    else:
        others = [w for w in alike if w != word]
        new = rng.choice(others).removesuffix(POSSESSIVE) if others else invented_word(rng)
    return (new.capitalize() if word[0].isupper() else new) + possessive


def _stutters(question: str, statement: str) -> bool:
    """Whether a question repeats a word that the statement does not repeat: a small teacher lost its way."""
    counts = Counter(w.lower().removesuffix(POSSESSIVE) for w in content_words(question))
    own = Counter(w.lower().removesuffix(POSSESSIVE) for w in content_words(statement))
    return any(count > max(1, own[word]) for word, count in counts.items())
