"""Running text becomes pieces: sentences, fields, answers with their questions.

In: the lines of one paragraph and its context. Out: `Piece`s. Lines of one sentence are joined, wherever they were
wrapped; lines that stand for themselves are not. A question is left out, unless its answer stands behind it: then both
are one statement. It knows no blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...records import Context
from .fields import Field, field_of
from .inline import shown, without_words
from .lines import Joined, Line
from .pieces import NOTICE, QUESTION, SHORT, Piece, count_words, left
from .sentences import sentences
from .words import words

LEAST_WORDS = 3  # of a sentence that stands alone
LONGEST_ANSWER = 5  # words of an answer on a line below its question
NARROWEST, WIDEST = 40, 130  # columns at which people wrap their lines
_ENDS = re.compile(r"[.!?…:;。！？｡؟۔।॥։።](?:[\"'”’“»›)\]}*_`~」』）】》]*)$")
_ASKS = re.compile(r"[?？؟⁇⁈⁉;][\"'”’“»›)\]}*_`~」』）】》]*$")
_STOPS = re.compile(r"[.。।۔။။](?:[\"'”’“»›)\]}*_`~」』）】》]*)$")
_QUESTION_LABEL = re.compile(
    r"(?:Q|F|P|В|问|問|سؤال|Question|Frage|Pregunta|Domanda|Вопрос)\s*\d*\s*[:.：)]\s*", re.IGNORECASE
)
_ANSWER_LABEL = re.compile(
    r"(?:A|R|О|答|جواب|Answer|Antwort|Réponse|Respuesta|Risposta|Ответ)\s*\d*\s*[:.：)]\s*", re.IGNORECASE
)
_LAST_WORD = re.compile(r"[\w'’]+$")
_BRACKETED = re.compile(r"<[^<>\n]{1,80}>|\[[^\[\]\n]{1,80}\]|‎?\S{1,20} omitted")


def prose(lines: Sequence[Line], context: Context, chat: bool = False, wrapped: bool = False) -> Iterator[Piece]:
    """The pieces of a paragraph. `chat`: it is a message, so short exclamations are none. `wrapped`: it is a point of a
    list, whose lines belong together."""
    question: Piece | None = None
    asked_in = -1
    for number, group in enumerate(groups(lines, wrapped)):
        for piece in _group(group, context, chat):
            if question is not None:
                if piece.reason in ("", SHORT) and _answers(piece, asked_in == number, chat):
                    yield _answered(question, piece)
                    question = None
                    continue
                yield replace(question, text="")
            question = piece if piece.reason == QUESTION else None
            asked_in = number
            if question is None:
                yield piece
    if question is not None:
        yield replace(question, text="")


def groups(lines: Sequence[Line], wrapped: bool = False) -> list[list[Line]]:
    """Lines that are one text each: a line that goes on with the one before it is in its group."""
    bare = [line for line in lines if line.bare]
    width = max((len(line.text.rstrip()) for line in bare[:200]), default=0)
    closed = bool(bare) and _ENDS.search(bare[-1].bare) is not None
    result: list[list[Line]] = []
    for line in bare:
        if result and _goes_on(result[-1], line, width if closed else 0, wrapped):
            result[-1].append(line)
        else:
            result.append([line])
    return result


def _goes_on(group: Sequence[Line], line: Line, width: int, wrapped: bool) -> bool:
    """Whether `line` goes on with the group. `width`: columns that the paragraph is wrapped at; 0: unknown."""
    last, text = group[-1].bare, line.bare
    if _ENDS.search(last) or _QUESTION_LABEL.match(text) or _ANSWER_LABEL.match(text):
        return False
    word = _LAST_WORD.search(last[-40:])
    if last.endswith((",", "،", "、", "-", "(", "–", "—", "/", "’s", "'s")) or (
        word is not None and word[0].lower() in words("unfinished")
    ):
        return True
    is_field = field_of(text) is not None
    first = re.search(r"[^\W\d_]", group[0].bare)
    if text[:1].islower() and not is_field:
        return first is not None and first[0].isupper() and field_of(last) is None
    if is_field or field_of(group[0].bare) is not None:
        return False
    if wrapped:
        return True
    longest = text.split(maxsplit=1)[0]
    full = NARROWEST <= width <= WIDEST and len(group[-1].text.rstrip()) + len(longest) >= width
    return full and count_words(last) > LEAST_WORDS


def _group(lines: Sequence[Line], context: Context, chat: bool) -> Iterator[Piece]:
    """The pieces of one text."""
    joined = Joined.of(lines)
    if _BRACKETED.fullmatch(joined.text) and chat:
        yield left(*joined.span(0, len(joined.text)), NOTICE)
        return
    yield from texts(joined, context, chat)


def texts(joined: Joined, context: Context, chat: bool = False) -> Iterator[Piece]:
    """The sentences of a text, or the field that it is."""
    whole = field_of(joined.text)
    spans = sentences(joined.text)
    for number, (start, end) in enumerate(spans):
        under = context
        if whole is not None and number and not chat:  # "Alarm: The code is 6621. It is armed at night."
            under = replace(context, headings=(*context.headings, whole.key))
        yield _sentence(joined, start, end, under, whole if not number else None, chat)


def _sentence(joined: Joined, start: int, end: int, context: Context, whole: Field | None, chat: bool) -> Piece:
    raw = joined.text[start:end]
    text = shown(raw)
    place = joined.span(start, end)
    if not re.search(r"\w", text):
        return left(*place, without_words(raw))
    if _ASKS.search(text) and text[-1:] != ";":
        label = _QUESTION_LABEL.match(text)
        return Piece(*place, text[label.end() :] if label else text, context, QUESTION)
    if whole is not None:
        value = text.partition(whole.key)[2].lstrip(" :：=-–—→") or whole.value
        return Piece(*place, text, context, "", whole.key, value)
    return Piece(*place, text, context, "" if stands(text, context, chat) else SHORT)


def stands(text: str, context: Context, chat: bool = False) -> bool:
    """Whether a text that is no field states something: three words, or less in a place that tells what it is about."""
    count = count_words(text)
    return (
        count >= LEAST_WORDS
        or (bool(context.headings) and not chat and count > 0)
        or (count == LEAST_WORDS - 1 and _STOPS.search(text) is not None and not chat)
    )


def _answers(piece: Piece, same_line: bool, chat: bool) -> bool:
    """Whether a piece right behind a question answers it: "What's my dog called? Zorvik."."""
    if chat:
        return same_line and piece.reason == SHORT
    short = piece.reason == SHORT or (count_words(piece.text) <= LONGEST_ANSWER and not piece.key)
    return same_line or short or _ANSWER_LABEL.match(piece.text) is not None


def _answered(question: Piece, answer: Piece) -> Piece:
    label = _ANSWER_LABEL.match(answer.text)
    text = answer.text[label.end() :] if label else answer.text
    return replace(
        answer, start=question.start, text=f"{question.text} {text}", reason="", key=question.text, value=text
    )
