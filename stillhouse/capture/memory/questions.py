"""What to ask about a memory: the teacher's written questions, checked, and questions the memory does not answer.

In: the teacher's replies to `chat.writing_request`, one per statement. Out: candidate `Question`s tied to the statement
they target: differently worded forward questions, reverse ones (the answer becomes part of the question: without them
a fact is learned in one direction only, Berglund et al. 2023), and near misses for "I don't know.".

Every rule here is about text; whether a question is any good is for the teacher to show by answering it
(`memory.py`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from ...records import Question, Statement
from ...text.answers import normalise, says

_LINE = re.compile(
    r"^\s*(?:[-*•]|\(?\d+[.):])?\s*(?:Q(?:uestion)?\s*\d*\s*:\s*)?(?P<q>[^|\n]+?)\s*\|\s*(?:A(?:nswer)?\s*:\s*)?(?P<a>[^|\n]+?)\s*$"
)
_CONTENT = re.compile(r"[A-Za-z][\w'-]{2,}|\d[\w:.-]*")
_AFTER_PRONOUN = re.compile(r"\b(?:I|we|We|he|He|she|She|they|They|you|You) (\w+)")
_COMPOUND = re.compile(r"\b(?!(?:[Tt]he|[Mm]y|a|is|of)\b)[A-Za-z]{3,} (?:name|number|code|size|type|key|visit|time)\b")
_TWO_WORDS = re.compile(
    r"(?:\b(?:[Mm]y|[Oo]ur|[Tt]he|[Aa]n?|[Hh]is|[Hh]er|[Tt]heir)|'s) ([a-z]{3,} [a-z]{2,}[a-rt-z])\b(?<!ed)"
)
_FUNCTION_WORDS = frozenset(
    "what which who whom whose where when why how the and for with from are was were does did do can could you tell me "
    "my your his her its our their that this there have has had say says said name names called named like many much "
    "city date day time place know remember get got live lives work works called into about who's what's not is am on "
    "in at it of to be number kind type sort please give one".split()
)
_ENDINGS = ("'s", "s", "es", "d", "ed", "ing", "ly")
_TWICE = re.compile(r"\b((?:[\w-]+ )?[\w-]+)(?:'s)? \1\b", re.IGNORECASE)
_AROUND = re.compile(r"\b((?:[\w-]+ )?[\w-]+) of (\S+)'s \1\b", re.IGNORECASE)
COPIED = 0.7  # similarity from which a word is a bad copy and not another word
_ONSETS = "b d f g k l m n p r s t v z br dr fl gr kl pl st tr".split()
_VOWELS = "a e i o u ai ea oo".split()


@cache
def decoys() -> tuple[str, ...]:
    """Everyday questions that some memory might answer and most do not (`decoys.txt`)."""
    lines = (Path(__file__).with_name("decoys.txt")).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def parse(reply: str) -> list[tuple[str, str]]:
    """`question | answer` lines of a teacher's reply; numbering, bullets and Q:/A: labels are dropped."""
    found = []
    for line in reply.splitlines():
        match = _LINE.match(line)
        if match and match["q"].strip():
            found.append((match["q"].strip(), match["a"].strip()))
    return found


def candidates(reply: str, statement: Statement) -> list[Question]:
    """Usable questions of a reply. The answer most lines share is the statement's own; a line is a reverse question
    when it asks with that answer inside. Answers must stand in the statement; no question may hold its own answer."""
    pairs = [(q, a) for q, a in parse(reply) if len(q) >= 8 and normalise(a) and not says(q, a)]
    grounded = [normalise(a) for _, a in pairs if _grounded(a, statement.text)]
    if not grounded:
        return []
    main, _ = Counter(grounded).most_common(1)[0]
    found: dict[str, Question] = {}
    for question, answer in pairs:
        if _stutters(question, statement.text):
            continue
        forward = normalise(answer) == main
        if not forward and not (says(question, main) and _touches(answer, statement.text)):
            continue
        key = normalise(question)
        found.setdefault(key, Question(question, answer, statement.index, "forward" if forward else "reverse"))
    return list(found.values())


def lost_words(reply: str, statement: Statement) -> list[str]:
    """Content words of the statement that no line of the reply repeats: a small teacher miscopies words it never saw,
    and asks about something else."""
    said = {w.lower() for q, a in parse(reply) for w in _content(f"{q} {a}")}
    said |= {form for w in said for form in _forms(w)}
    words = _namely(statement)
    whole = " ".join(f"{q} {a}" for q, a in parse(reply)).lower()
    gone = [w for w in dict.fromkeys(words) if not said & _forms(w.lower())]
    pairs = [pair for pair in _COMPOUND.findall(statement.text) if pair.lower() not in whole]
    pairs += [pair for pair in _TWO_WORDS.findall(statement.text) if set(pair.split()) <= set(gone)]
    return list(dict.fromkeys([*pairs, *(w for w in gone if not any(w in pair.split() for pair in pairs))]))


def hardest(statement: Statement, tokens: Callable[[str], int]) -> list[str]:
    """The compound that a statement is about, or else its word of most tokens; nothing where it has no such word."""
    compounds = [pair for pair in _TWO_WORDS.findall(statement.text) if not _FUNCTION_WORDS & set(pair.split()[1:])]
    found = _COMPOUND.findall(statement.text) or compounds or sorted(_namely(statement), key=tokens, reverse=True)
    return found[:1]


def _namely(statement: Statement) -> list[str]:
    """The words that say what a statement is about, without numbers and what its subject does."""
    verbs = set(_AFTER_PRONOUN.findall(statement.text))
    return [w.removesuffix("'s") for w in _content(statement.text) if w not in verbs and not w[0].isdigit()]


def repair(reply: str, statement: Statement) -> str:
    """The reply with words that a small teacher nearly copied from the statement ("vegetain", "theregatta") put right,
    and what it said twice said once ("Emma's desk number's desk number", "the desk number of Emma's desk number").

    A word is taken for a copy when it is in neither form in the statement, and most of its letters, in order, are those
    of a word there (Ratcliff and Obershelp's similarity).
    """
    own = [w.removesuffix("'s") for w in _content(statement.text)]
    known = {form for w in own for form in _forms(w.lower())} | _FUNCTION_WORDS

    def put_right(match: re.Match[str]) -> str:
        word = match[0]
        if word.lower() in known or _forms(word.lower()) & known:
            return word
        nearest = max(own, key=lambda w: SequenceMatcher(None, word.lower(), w.lower()).ratio(), default=word)
        if SequenceMatcher(None, word.lower(), nearest.lower()).ratio() < COPIED:
            return word
        before = word.lower().removesuffix(nearest.lower())
        return f"{before} {nearest}" if before in _FUNCTION_WORDS else nearest

    said = re.sub(r"[A-Za-z][\w-]{3,}", put_right, reply)
    for pattern, once in ((_TWICE, r"\1"), (_AROUND, r"\1 of \2")):
        if not pattern.search(statement.text):
            said = pattern.sub(once, said)
    return said


def _stutters(question: str, statement: str) -> bool:
    """Whether a question says a word more than once that the statement does not: a small teacher lost its way."""
    counts = Counter(w.lower().removesuffix("'s") for w in _content(question))
    own = Counter(w.lower().removesuffix("'s") for w in _content(statement))
    return any(count > max(1, own[word]) for word, count in counts.items())


def _forms(word: str) -> set[str]:
    """A word, lower case, and what is left of it without an English ending."""
    return {word} | {word.removesuffix(e) for e in _ENDINGS if len(word) - len(e) >= 3}


def mask(text: str, words: Sequence[str], turn: int) -> tuple[str, dict[str, str]]:
    """`text` with each of `words` replaced by an everyday word, and what each stands for. Numbers stay, and in a very
    long text the words for which there is no other everyday word."""
    stand_ins: dict[str, str] = {}
    taken = {w.lower() for w in _content(text)}
    for number, word in enumerate(w for w in words if not w[0].isdigit()):
        pool = [
            w
            for w in (_NAMES if word[0].isupper() and not text.startswith(word) else _THINGS)
            if w.lower() not in taken
        ]
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
    """The statement with its end left out, for when the teacher wrote nothing usable about it."""
    words = statement.text.rstrip(".!").split()
    cuts = sorted({max(1, len(words) - 1), max(1, len(words) * 2 // 3)}, reverse=True)
    return [
        Question(f"Complete: {' '.join(words[:cut])} ...", " ".join(words[cut:]), statement.index, "cloze")
        for cut in cuts
        if cut < len(words)
    ]


def near_misses(questions: Sequence[Question], per_question: int, seed: int) -> list[str]:
    """Questions one content word away from answerable ones: another thing, another person, an invented word.

    The word changes, the wording stays, so a student cannot tell known from unknown by the wording.
    """
    rng = random.Random(seed)
    pool = [w for q in questions for w in _content(q.text)] + list(_COMMON)
    alike = {large: [w for w in pool if w[0].isupper() == large and not w[0].isdigit()] for large in (True, False)}
    found: dict[str, None] = {}
    for question in questions:
        words = _content(question.text)
        for _ in range(per_question if words else 0):
            word = rng.choice(words)
            new = _replacement(word, alike[word[0].isupper()], rng)
            text = re.sub(rf"\b{re.escape(word)}\b", new, question.text)
            if text != question.text and not says(text, question.answer):
                found[text] = None
    known = {normalise(q.text) for q in questions}
    return [text for text in found if normalise(text) not in known]


def invented(rng: random.Random) -> str:
    """A word that is in no vocabulary."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3))) + rng.choice("nrlskmx")


def _grounded(answer: str, statement: str) -> bool:
    """Whether every content word of the answer stands in the statement: "for breakfast", "David's dog", "you"."""
    words = [w for w in _words(answer) if w not in _FUNCTION_WORDS]
    return set(words) <= set(_words(statement))


def _touches(answer: str, statement: str) -> bool:
    """Whether the answer of a reverse question has a content word of the statement, or none ("you")."""
    words = {w for w in _words(answer) if w not in _FUNCTION_WORDS}
    return not words or bool(words & set(_words(statement)))


def _words(text: str) -> list[str]:
    return [w for w in normalise(text.replace("'s ", " ")).split() if len(w) > 1 or w.isdigit()]


def _content(text: str) -> list[str]:
    return [w for w in _CONTENT.findall(text) if w.lower().removesuffix("'s") not in _FUNCTION_WORDS]


def _replacement(word: str, alike: Sequence[str], rng: random.Random) -> str:
    if word[0].isdigit():
        return "".join(rng.choice("0123456789") if c.isdigit() else c for c in word)
    possessive = "'s" if word.endswith("'s") else ""
    if rng.random() < 0.4:
        new = invented(rng)
    else:
        others = [w for w in alike if w != word]
        new = rng.choice(others).removesuffix("'s") if others else invented(rng)
    return (new.capitalize() if word[0].isupper() else new) + possessive


_THINGS = ("lamp", "dog", "colour", "meeting", "garage", "kettle", "sister", "nickname", "wedding")
_NAMES = ("Anna", "Paul", "Maria", "Henry", "Clara", "Simon")
_COMMON = (
    "dog cat horse sister brother mother father aunt uncle cousin friend neighbour boss teacher doctor dentist car "
    "boat house bicycle guitar phone laptop garden team company school hotel colour food drink song film book game "
    "sport season fruit animal flower band author painter restaurant dessert tea garage safe locker gate alarm cellar "
    "office printer router archive passport umbrella camera lamp kettle ladder map meeting exam wedding concert "
    "lesson party breakfast lunch dinner birthday job salary address hobby postcode nickname"
).split()
