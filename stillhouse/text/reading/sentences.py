"""Where sentences end, in the languages and scripts that people write.

In: a paragraph, its line breaks being spaces. Out: the spans of its sentences, signs and quotes at their ends included.

Borders are those of `sentencex`, in the language that the text seems to be in. What it cannot know is mended here: text
in several languages, ordinals before nouns ("im 2. Stock"), values that must not be cut, labels such as "Plan B.", and
Thai, where a space between two longer runs of letters parts sentences. The time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sentencex import get_sentence_boundaries

from ..values import atoms
from .languages import language
from .words import words

_WORD_BEFORE = re.compile(r"[^\s(\[{<\"“„«‘*_`~…,;:!?/]+$")
_NEXT = re.compile(r"[\s\"'“„«‘(\[{*_`~¿¡-]*(?P<word>[\w'’.]*)")
_SPACED_LETTERS = re.compile(r"(?:(?<!\w)[^\W\d_]\.\s?){1,3}[^\W\d_]$")
_LETTER = re.compile(r"[^\W\d_]")
_STREET = re.compile(r"(?:\w{3,}str|\w{2,}stras)$")
_LABELLED = re.compile(r"(?P<before>\w+) \w\.\s+(?=(?P<word>[^\W\d_]['’\w]*))")
_MAY_END = re.compile(r"[^\w\s,;:()'\"/&%+*#@<>$€=-]\W{0,8}\w|[;:]\s|\w\)\s|[\u0e01-\u0e5b] ")  # all that could end one
_SMALL = re.compile(r"(?<=\w\w)\.\s+(?=[^\W\d_A-Z])")  # a full stop before what may be a small letter
_WHOLE = re.compile(r"!?\[[^\[\]\n]{1,300}\]\([^()\s]{1,500}\)|`[^`\n]{1,200}`|~~[^~\n]{1,300}~~")  # never cut
_INITIALS = re.compile(r"(?:[^\W\d_]\.-?){1,3}[^\W\d_]")
_THAI = re.compile(r"(?<=[\u0e01-\u0e5b]) +(?=[\u0e01-\u0e5b])")
_THAI_RUN = 10  # letters on either side of a space that parts two sentences
_LONGEST_WORD = 40
_DOUBTFUL = re.compile(r"(?:\b\w{1,3}|\d|\.\w+)\.\s*$")  # a full stop that may stand within a value
_NEAR = 60  # characters on either side of a cut that show whether it parts a value
_MOST_CHECKED = 500  # cuts of one paragraph
_WINDOW, _CONTEXT = 2048, 256  # characters that are read at a time, and those of them that only give context


def sentences(text: str, otherwise: str = "en") -> list[tuple[int, int]]:
    """The spans of the sentences, in order, without the space around them. `otherwise`: the language of the document,
    for a text that does not tell."""
    if not _MAY_END.search(text):
        return list(_bare(text, [(0, len(text))]))
    cuts = {cut for cut in _borders(text, language(text, otherwise)) if not _sticks(text, cut)}
    cuts |= {match.end() for match in _THAI.finditer(text) if _parts_thai(text, match)}
    cuts |= {match.end() for match in _LABELLED.finditer(text) if _is_label(match)}
    small = {match.end() for match in _SMALL.finditer(text)} - cuts
    for match in _WHOLE.finditer(text):
        cuts.difference_update(range(match.start() + 1, match.end()))
    spans: list[tuple[int, int]] = []
    begin = 0
    checked = 0
    for cut in sorted(cuts | small):
        if cut <= begin or (cut in small and not _is_small(text, begin)) or _runs_on(text, begin, cut):
            continue
        if checked < _MOST_CHECKED and _DOUBTFUL.search(text, max(begin, cut - 24), cut):
            checked += 1
            if _in_value(text, cut):
                continue
        spans.append((begin, cut))
        begin = cut
    return list(_bare(text, [*spans, (begin, len(text))]))


def _borders(text: str, code: str) -> Iterator[int]:
    """Where `sentencex` cuts. It reads a long text in windows, for its time is not linear in what is in quotes."""
    begin = 0
    while begin < len(text):
        window = text[begin : begin + _WINDOW]
        starts = [begin + border["start_index"] for border in get_sentence_boundaries(code, window)][1:]
        if begin + _WINDOW >= len(text):
            yield from starts
            return
        sure = [start for start in starts if start < begin + _WINDOW - _CONTEXT]
        yield from sure
        begin = sure[-1] if sure else begin + _WINDOW - _CONTEXT


def _in_value(text: str, cut: int) -> bool:
    """Whether a cut would part a value: "A. Klein", "3. Mai", "12 St. Mary Road"."""
    first = max(0, cut - _NEAR)
    at = first + len(text[first:cut].rstrip()) - first
    return any(atom.start < at < atom.end for atom in atoms(text[first : cut + _NEAR]))


def _sticks(text: str, cut: int) -> bool:
    """Whether a sign of the Latin script stands at a cut without a space behind it: of a file, or before a mark."""
    return 0 < cut < len(text) and text[cut - 1] in ".!?…" and not text[cut].isspace()


def _bare(text: str, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans without the space at their edges; none that is nothing else."""
    for start, end in spans:
        piece = text[start:end]
        if bare := piece.strip():
            first = start + len(piece) - len(piece.lstrip())
            yield first, first + len(bare)


def _runs_on(text: str, begin: int, cut: int) -> bool:
    """Whether a sentence that began at `begin` does not end at `cut`, though it was cut there."""
    tail = text[max(begin, cut - _LONGEST_WORD) : cut].rstrip()
    following = _NEXT.match(text, cut, cut + _LONGEST_WORD)
    word = following["word"] if following else ""
    if not tail.endswith(".") or tail.endswith(".."):
        return False
    at = max(begin, cut - _LONGEST_WORD) + len(tail) - 1
    match = _WORD_BEFORE.search(text, max(begin, at - _LONGEST_WORD), at)
    before = match[0].lower().lstrip("'’-") if match else ""
    if not before:
        return word[:1].islower()
    if before.isdigit():
        return at - len(before) == begin or (len(before) <= 2 and _is_ordinal(text, begin, at - len(before), word))
    return _is_abbreviation(text, begin, at, before, word) or (word[:1].islower() and not _is_small(text, begin))


def _is_abbreviation(text: str, begin: int, at: int, before: str, following: str) -> bool:
    """Whether the full stop at `at` belongs to an abbreviation that something stands behind."""
    letters = _SPACED_LETTERS.search(text, max(begin, at - 12), at)
    if letters is not None and re.sub(r"\s", "", letters[0]).lower() in words("abbreviations"):
        return True
    if following[:1].isupper() and following.lower().rstrip(".") in words("starters"):
        return before in ("mr", "mrs", "dr", "prof", "e.g", "i.e", "z.b", "d.h", "bzw", "vs", "p.ex", "p.ej")
    if following[:1].isdigit() and before in words("number abbreviations"):
        return True
    if _INITIALS.fullmatch(before) and following[:1].isupper() and before not in words("may end"):
        return True
    if len(before) == 1 and text[at - 1].isupper() and following[:1].isupper():
        return text[max(begin, at - 24) : at - 1].strip().rpartition(" ")[2].lower() not in words("lettered")
    return before in words("abbreviations") or _STREET.search(before) is not None


def _is_ordinal(text: str, begin: int, first: int, following: str) -> bool:
    """Whether a number with a full stop is an ordinal: "am 3. Mai", "im 2. Stock"."""
    if following[:1].islower():
        return not _is_small(text, begin)
    before = text[max(begin, first - 20) : first].split()
    led = bool(before) and before[-1].lower() in words("ordinal leads")
    return led and following.lower() not in words("starters") and following[:1].isalpha()


def _is_small(text: str, begin: int) -> bool:
    """Whether the sentence that begins at `begin` begins with a small letter, as people type without capital ones."""
    first = _LETTER.search(text, begin, begin + _LONGEST_WORD)
    return first is not None and first[0].islower()


def _is_label(match: re.Match[str]) -> bool:
    return match["before"].lower() in words("lettered") and match["word"].lower() in words("starters")


def _parts_thai(text: str, match: re.Match[str]) -> bool:
    runs = (text[max(0, match.start() - _THAI_RUN) : match.start()], text[match.end() : match.end() + _THAI_RUN])
    return all(len(run) == _THAI_RUN and not re.search(r"[\sๆฯ]", run) for run in runs)
