"""Tables: with pipes, drawn with signs, separated by tabs, commas or semicolons. A row is a statement.

In: lines. Out: how many of them are one table, and its pieces. Of two columns a row is "Door code: 8841", of more
"Name: Ilka; Phone: 4471". A row with nothing but its first cell is the heading of the rows below it. It does not know
what a cell means.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from ...records import Context
from .inline import shown
from .lines import Line
from .pieces import HEADING, RULE, SHORT, Piece, count_words, left
from .words import words

_DELIMITERS = re.compile(r"\|?\s*:?-{1,}:?\s*(?:[|+]\s*:?-{1,}:?\s*)*\|?")
_DRAWN = re.compile(r"[+|┌┬┐├┼┤└┴┘╔╦╗╠╬╣╚╩╝─━═│║=\-:\s]*[+┌┬┐├┼┤└┴┘╔╦╗╠╬╣╚╩╝─━═]+[+|┌┬┐├┼┤└┴┘╔╦╗╠╬╣╚╩╝─━═│║=\-:\s]*")
_PIPE = re.compile(r"(?<!\\)[|│║]")
_NUMBER = re.compile(r"\d")
LEAST_ROWS = 2
LONGEST_CELL = 60  # characters on average, of a table without drawn borders


@dataclass(frozen=True)
class Row:
    """A row and the line that it stands on."""

    line: Line
    cells: tuple[str, ...]


def table(lines: Sequence[Line], i: int, context: Context) -> tuple[int, list[Piece]]:
    """(line behind it, pieces) of the table that begins at line `i`; `i` itself where none does."""
    if not any(sign in lines[i].text for sign in "|│║+┌╔\t;,"):
        return i, []
    for reader in (_piped, _separated):
        end, pieces = reader(lines, i, context)
        if end > i:
            return end, pieces
    return i, []


def is_pipe_row(text: str) -> bool:
    """Whether a line looks like a row with pipes."""
    return text.startswith(("|", "│", "║")) and len(_PIPE.findall(text)) >= 2


def _piped(lines: Sequence[Line], i: int, context: Context) -> tuple[int, list[Piece]]:
    first, second = lines[i].bare, lines[i + 1].bare if len(lines) > i + 1 else ""
    drawn = _DRAWN.fullmatch(first) is not None and "+" in first + "┌╔" and is_pipe_row(second)
    ruled = "|" in first and _DELIMITERS.fullmatch(second) is not None and ("|" in second or "-" in second)
    if not (drawn or ruled or is_pipe_row(first)):
        return i, []
    rest = islice(lines, i, None)
    block = list(takewhile(lambda line: bool(line.bare) and (_PIPE.search(line.bare) or _is_rule(line.bare)), rest))
    rows: list[Row] = []
    rules: list[Piece] = []
    heads = 0
    for line in block:
        if _is_rule(line.bare):
            rules.append(left(line.first, line.end, RULE))
            heads = heads or len(rows)
        else:
            rows.append(Row(line, tuple(shown(cell) for cell in _cells(line.bare))))
    heads = heads if heads <= 1 else 0
    return i + len(block), sorted([*rules, *_pieces(rows, heads, context)], key=lambda piece: piece.start)


def _is_rule(text: str) -> bool:
    return len(text) >= 2 and (_DELIMITERS.fullmatch(text) or _DRAWN.fullmatch(text)) is not None


def _cells(text: str) -> list[str]:
    cells = _PIPE.split(text)
    cells = cells[1:] if text[0] in "|│║" else cells
    cells = cells[:-1] if text[-1] in "|│║" and not text.endswith("\\|") else cells
    return [cell.replace("\\|", "|").strip() for cell in cells]


def _separated(lines: Sequence[Line], i: int, context: Context) -> tuple[int, list[Piece]]:
    """A table whose cells are parted by tabs, semicolons or commas, the same number in every line."""
    for separator in ("\t", ";", ","):
        width = len(_split(lines[i].bare, separator))
        if width < 2:
            continue
        rows: list[Row] = []
        for line in islice(lines, i, None):
            cells = _split(line.bare, separator)
            if not line.bare or len(cells) != width:
                break
            rows.append(Row(line, tuple(shown(cell.strip()) for cell in cells)))
        end = i + len(rows)
        whole = end == len(lines) or not lines[end].bare
        if whole and len(rows) >= LEAST_ROWS and _is_data(rows, separator):
            return end, list(_pieces(rows, int(_has_header(rows)), context))
    return i, []


def _split(text: str, separator: str) -> list[str]:
    if separator not in text or len(text) > 10_000:
        return [text]
    try:
        return next(csv.reader([text], delimiter=separator))
    except csv.Error:
        return text.split(separator)


def _is_data(rows: Sequence[Row], separator: str) -> bool:
    """Whether rows are data and no sentences: short cells, and commas without spaces behind them."""
    cells = [cell for row in rows for cell in row.cells]
    if sum(map(len, cells)) > LONGEST_CELL * len(cells) or any(not row.cells[0] for row in rows[:1]):
        return False
    if separator == "\t":
        return True
    spaced = sum(len(re.findall(rf"{separator}\s", row.line.bare)) for row in rows)
    marks = sum(row.line.bare.count(separator) for row in rows)
    ended = sum(row.line.bare.endswith((".", "!", "?")) for row in rows)
    return spaced * 2 < marks and ended * 2 <= len(rows) and (len(rows) > LEAST_ROWS or len(rows[0].cells) > 1)


def _has_header(rows: Sequence[Row]) -> bool:
    """Whether the first row names the columns: it has no numbers, and no cell of it comes again below."""
    first, rest = rows[0].cells, rows[1:]
    if any(_NUMBER.search(cell) for cell in first) or not all(first) or not rest:
        return False
    if len(first) == 2 and first[1].lower() not in words("generic columns"):
        numbers = sum(bool(_NUMBER.search(row.cells[1])) for row in rest)
        return first[0].islower() == first[1].islower() and (numbers * 2 > len(rest) or first[0].islower())
    return all(len(cell) <= 40 for cell in first) and not any(set(first) & set(row.cells) for row in rest)


def _pieces(rows: Sequence[Row], heads: int, context: Context) -> Iterator[Piece]:
    """The pieces of a table whose first `heads` rows (0 or 1) name the columns."""
    columns = rows[0].cells if heads and rows else ()
    width = max((len(row.cells) for row in rows), default=0)
    for row in rows[:heads]:
        yield left(row.line.first, row.line.end, HEADING)
    section = ""
    for row in rows[heads:]:
        filled = [cell for cell in row.cells if cell]
        if width > 2 and len(filled) == 1 and row.cells[0]:
            section = filled[0]
            yield left(row.line.first, row.line.end, HEADING)
        else:
            headings = (*context.headings, section) if section else context.headings
            yield _row(row, columns, width, replace(context, headings=headings))


def _row(row: Row, columns: Sequence[str], width: int, context: Context) -> Piece:
    place = (row.line.first, row.line.end)
    named = [(columns[i] if i < len(columns) else "", cell) for i, cell in enumerate(row.cells) if cell]
    if not named:
        return left(*place, SHORT)
    key = named[0][1]
    if width <= 2:
        if len(named) == 2 and named[1][0] and named[1][0].lower() not in words("generic columns"):
            context = replace(context, headings=(*context.headings, named[1][0]))
        text = ": ".join(cell for _, cell in named)
        alone = len(named) == 1 and count_words(text) < 3 and not context.headings
        return left(*place, SHORT) if alone else Piece(*place, text, context, "", key, named[-1][1], row=True)
    text = "; ".join(f"{column}: {cell}" if column else cell for column, cell in named)
    return Piece(*place, text, context, "", key, text, row=True)
