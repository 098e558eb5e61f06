"""Blocks of a text: headings, lists in lists, quotations, tables, code, settings, messages, paragraphs.

In: lines and where they stand. Out: `Piece`s. Headings, the parents of a nested list and a line that leads in
("Kitchen:") are the context of what stands below them. It follows Markdown where people do, and not where Markdown
would take their words away: indented text is text unless it looks like code, and a line of dashes under a sentence is a
rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ...records import Context
from . import code, markup
from .chat import head
from .dates import entry
from .fields import field_of, lead
from .headings import ATX, ITEM, SENTENCE, Headings, Scope, heading, heading_pieces, is_item
from .inline import shown
from .lines import Line
from .mail import mail, quoted
from .pieces import CODE, HEADING, LABEL, MAIL_HEAD, RULE, STAMP, Piece, count_words, left
from .prose import groups, prose
from .tables import table

_RULE = re.compile(r"\s*(?:[-*_=~+#–—•·.]\s*){3,}")
_TASK = re.compile(r"\[(?P<state>[ xX✓✔-]?)\]\s+(?=\S)")
_QUOTE = re.compile(r"\s{0,3}>[ \t]?")
_DEFINITION = re.compile(r"\s{0,3}:\s+(?=\S)")
_COMMENT = re.compile(r"\s*(?:%%|\[//\]:|\[comment\]:).*", re.IGNORECASE)
DEEPEST = 50  # lists and quotations in each other
LOOK_AHEAD = 30  # lines between two paragraphs of one message


Read = tuple[int, list[Piece]]  # the line behind what was read, and its pieces


def outline(lines: Sequence[Line], scope: Scope) -> Iterator[Piece]:
    """The pieces of some lines."""
    headings = Headings(scope)
    i = 0
    while i < len(lines):
        if not lines[i].bare:
            i += 1
        elif (top := heading(lines, i)) is not None:
            level, words, end = top
            yield from heading_pieces(lines[i:end], words, headings.scope())
            headings.put(level, words)
            i = end
        else:
            i, pieces = _block(lines, i, headings.scope())
            yield from pieces


def _block(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """The block that begins at line `i`."""
    for reader in (_fenced, _rule, _markup, _mail, _message, _table, _pasted, _led):
        end, pieces = reader(lines, i, scope)
        if end > i:
            return end, pieces
    for reader in (_quotation, _item) if scope.depth < DEEPEST else ():
        end, pieces = reader(lines, i, scope)
        if end > i:
            return end, pieces
    return _paragraph(lines, i, scope)


def _fenced(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    block = code.fence(lines, i)
    if block is None:
        return i, []
    inner = lines[i + 1 : block.end - block.closed]
    marks = [left(lines[i].first, lines[i].end, CODE)]
    if block.closed and not block.settings:
        return block.end, [left(lines[i].first, lines[block.end - 1].end, CODE)]
    if block.closed:
        marks.append(left(lines[block.end - 1].first, lines[block.end - 1].end, CODE))
    elif code.looks_like_code(inner):
        return block.end, [left(lines[i].first, lines[block.end - 1].end, CODE)]
    return block.end, sorted([*marks, *outline(inner, scope)], key=lambda piece: piece.start)


def _rule(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    line = lines[i]
    if _COMMENT.fullmatch(line.text):
        return i + 1, [left(line.first, line.end, "a comment")]
    return (
        (i + 1, [left(line.first, line.end, RULE)])
        if _RULE.fullmatch(line.text[:400]) and len(line.text) < 400
        else (i, [])
    )


def _markup(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """A block of HTML: up to a blank line behind which nothing is open."""
    if not markup.begins_block(lines[i].text):
        return i, []
    end, pending = i, 0
    while end < len(lines) and (lines[end].bare or pending > 0):
        text = lines[end].text.lower()
        pending += len(re.findall(r"<(?:table|ul|ol|div|details|script|style|pre|!--)\b|<!--", text))
        pending -= len(re.findall(r"</(?:table|ul|ol|div|details|script|style|pre)>|-->", text))
        end += 1
        if end < len(lines) and not lines[end].bare and end - i > 2000:
            break
    text = "\n".join(line.text for line in lines[i:end])
    whole = all(b.start - a.start - len(a.text) == 1 for a, b in zip(lines[i:end], lines[i + 1 : end], strict=False))
    if not whole:  # in a quotation or with other line breaks: line by line
        return i + 1, markup.pages(lines[i].text, lines[i].start, scope.context)
    return end, markup.pages(text, lines[i].start, scope.context)


def _mail(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """The head of an e-mail; its text reaches to the next one."""
    top = mail(lines, i)
    if top is None:
        return i, []
    end = i + top.lines
    while end < len(lines) and mail(lines, end) is None:
        end += 1
    context = replace(scope.under(top.subject).context, speaker=top.speaker, date=top.date or scope.context.date)
    pieces = [left(line.first, line.end, MAIL_HEAD) for line in lines[i : i + top.lines] if line.bare]
    inner = replace(scope, context=context, depth=scope.depth + 1)
    return end, [*pieces, *outline(lines[i + top.lines : end], inner)]


def _message(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """A message of a conversation: its head, and the lines up to the next one."""
    top = head(lines[i], scope.voices)
    if top is None or scope.chat:
        return i, []
    end = i + 1
    while end < len(lines) and head(lines[end], scope.voices) is None and heading(lines, end) is None:
        if not lines[end].bare and not any(head(line, scope.voices) for line in lines[end : end + LOOK_AHEAD]):
            break
        end += 1
    context = replace(scope.context, speaker=top.speaker, date=top.date or scope.context.date)
    inner = replace(scope, context=context, chat=True, depth=scope.depth + 1)
    label = Piece(lines[i].first, lines[i].start + len(lines[i].text[: top.length].rstrip()), reason=LABEL)
    return end, [label, *outline([lines[i].behind(top.length), *lines[i + 1 : end]], inner)]


def _table(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    return table(lines, i, scope.context)


def _pasted(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """Code without a fence: lines up to a blank one that look like it; a single line only where it is indented."""
    if i and lines[i - 1].bare:
        return i, []
    end = i
    while end < len(lines) and lines[end].bare and not lines[end].bare.startswith(("```", "~~~")):
        end += 1
    block = lines[i:end]
    if (len(block) > 1 or lines[i].indent >= 4) and not is_item(lines[i]) and code.looks_like_code(block):
        return end, [left(block[0].first, block[-1].end, CODE)]
    return i, []


def _led(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """A line that leads in what follows: "Kitchen:", "On 4 May 2024, Kim wrote:"."""
    line = lines[i]
    words = "" if is_item(line) else lead(line.bare)
    if not words:
        return i, []
    end = _led_end(lines, i)
    if end == i + 1:
        return i + 1, [left(line.first, line.end, HEADING)]
    by = quoted(line.bare)
    inner = scope.under("" if by else words)
    if by:
        inner = replace(inner, context=replace(inner.context, speaker=by[0], date=by[1]))
    return end, [left(line.first, line.end, LABEL if by else HEADING), *outline(lines[i + 1 : end], inner)]


def _led_end(lines: Sequence[Line], i: int) -> int:
    """The line behind what a line leads in: deeper lines, else a list or quotation, else the paragraph below it."""
    start = i + 1
    while start < len(lines) and not lines[start].bare and start - i <= 2:
        start += 1
    if start >= len(lines) or not lines[start].bare or heading(lines, start) is not None:
        return i + 1
    first, end = lines[start], start
    if first.indent > lines[i].indent:
        while end < len(lines) and (not lines[end].bare or lines[end].indent > lines[i].indent):
            end += 1
        return end
    if is_item(first) or _is_quotation(first):
        kind = is_item if is_item(first) else _is_quotation
        while end < len(lines) and (
            kind(lines[end]) or lines[end].indent > first.indent or _goes_on_below(lines, end, kind)
        ):
            end += 1
        return end
    if start > i + 1:
        return i + 1
    while (
        end < len(lines)
        and lines[end].bare
        and heading(lines, end) is None
        and not (end > start and lead(lines[end].bare))
    ):
        end += 1
    return end


def _goes_on_below(lines: Sequence[Line], at: int, kind: Callable[[Line], bool]) -> bool:
    """Whether a line is blank and the list goes on behind it."""
    return not lines[at].bare and at + 1 < len(lines) and kind(lines[at + 1])


def _is_quotation(line: Line) -> bool:
    return _QUOTE.match(line.text) is not None


def _quotation(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    if not _is_quotation(lines[i]):
        return i, []
    end = i
    while end < len(lines) and _is_quotation(lines[end]):
        end += 1
    inner = []
    for line in lines[i:end]:
        match = _QUOTE.match(line.text)
        inner.append(line.behind(match.end() if match else 0))
    return end, list(outline(inner, replace(scope, depth=scope.depth + 1)))


def _item(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """A point of a list with all that belongs to it."""
    match = ITEM.match(lines[i].text) if is_item(lines[i]) else None
    if match is None:
        return i, []
    line = lines[i]
    end = i + 1
    while end < len(lines):
        if lines[end].bare and lines[end].indent <= line.indent:
            break
        if not lines[end].bare and not _goes_deeper(lines, end, line.indent):
            break
        end += 1
    while end < len(lines) and lines[end].bare and end == i + 1 and _is_lazy(lines, end):
        end += 1
    content = line.behind(match.end())
    if (task := _TASK.match(content.text)) is not None and not task["state"].strip():
        content = content.behind(task.end())
    return end, list(_item_pieces([content, *lines[i + 1 : end]], scope))


def _goes_deeper(lines: Sequence[Line], at: int, indent: int) -> bool:
    """Whether what follows some blank lines is indented more."""
    while at < len(lines) and not lines[at].bare:
        at += 1
    return at < len(lines) and lines[at].indent > indent


def _is_lazy(lines: Sequence[Line], at: int) -> bool:
    """Whether a line that is not indented goes on with the point before it."""
    text = lines[at].bare
    return text[:1].islower() and not SENTENCE.search(lines[at - 1].bare) and not is_item(lines[at])


def _item_pieces(lines: Sequence[Line], scope: Scope) -> Iterator[Piece]:
    """The text of a point; what is nested in it stands below it."""
    top = 1
    while top < len(lines) and lines[top].bare and not _begins_block(lines[top]):
        top += 1
    own, nested = lines[:top], lines[top:]
    words = lead(own[-1].bare) if len(own) == 1 else ""
    fields = [field_of(line.bare) for line in own]
    if nested and any(line.bare for line in nested):
        label = words or shown(" ".join(line.bare for line in own)).rstrip(".")
        bare = bool(words) or (len(own) == 1 and fields[0] is None and count_words(label) < 3)
        if bare:
            yield left(own[0].first, own[-1].end, HEADING)
        else:
            yield from _text(own, scope, wrapped=True)
        yield from outline(nested, scope.under(label if len(label) <= 120 else ""))
    elif len(own) > 1 and all(f is not None for f in fields):
        yield _record(own, scope)
    elif top < len(lines) or not _begins_block(own[0]):
        yield from _text(own, scope, wrapped=True)
    else:
        yield from outline(own, replace(scope, depth=scope.depth + 1))


def _begins_block(line: Line) -> bool:
    return is_item(line) or line.bare.startswith(("```", "~~~", "|", ">")) or ATX.match(line.text) is not None


def _record(lines: Sequence[Line], scope: Scope) -> Piece:
    """Fields that belong together, as one statement: "name: Ilka; phone: 4471"."""
    pairs = [f for f in (field_of(line.bare) for line in lines) if f is not None]
    text = "; ".join(f"{f.key}: {f.value.rstrip(';,')}" for f in pairs)
    return Piece(lines[0].first, lines[-1].end, text, scope.context, "", pairs[0].value, text)


def _paragraph(lines: Sequence[Line], i: int, scope: Scope) -> Read:
    """Lines up to a blank one or one that begins another block."""
    end = i + 1
    while end < len(lines) and lines[end].bare and not _interrupts(lines, end, scope):
        end += 1
    return end, list(_text(lines[i:end], scope))


def _interrupts(lines: Sequence[Line], at: int, scope: Scope) -> bool:
    line = lines[at]
    return (
        _begins_block(line)
        or _RULE.fullmatch(line.text[:400]) is not None
        or heading(lines, at) is not None
        or head(line, scope.voices) is not None
        or markup.begins_block(line.text)
        or (bool(lead(line.bare)) and at + 1 < len(lines) and lines[at + 1].indent > line.indent)
    )


def _text(lines: Sequence[Line], scope: Scope, wrapped: bool = False) -> Iterator[Piece]:
    """Running text, with the date of an entry where a line begins with one, and definitions below their terms."""
    entries = [entry(line.bare) for line in lines]
    diary = entries[0] is not None and not any(entries[1:])  # one entry: its date holds for all of its lines
    run: list[Line] = []
    context = scope.context
    for line, top in zip(lines, entries, strict=True):
        if top is None and not _DEFINITION.match(line.text):
            run.append(line)
            continue
        if top is not None:
            yield from _run(run, context, scope, diary, wrapped)
            length = line.first - line.start + top.length
            yield left(line.first, line.start + len(line.text[:length].rstrip()), STAMP)
            context, run = replace(scope.context, date=top.date), [line.behind(length)]
        elif run and context is scope.context:
            yield from prose(run[:-1], context, scope.chat)
            yield left(run[-1].first, run[-1].end, HEADING)
            context = scope.under(shown(run[-1].bare)).context
            run = [_definition(line)]
        else:
            yield from prose(run, context, scope.chat)
            run = [_definition(line)]
    yield from _run(run, context, scope, diary, wrapped)


def _definition(line: Line) -> Line:
    match = _DEFINITION.match(line.text)
    return line.behind(match.end() if match else 0)


def _run(lines: Sequence[Line], context: Context, scope: Scope, diary: bool, wrapped: bool) -> Iterator[Piece]:
    """Lines of one entry; without a diary, the date holds for its first sentence's lines alone."""
    parts = groups(lines, wrapped) if context.date != scope.context.date and not diary else []
    if len(parts) > 1:
        yield from prose(parts[0], context, scope.chat)
        yield from prose([line for part in parts[1:] for line in part], scope.context, scope.chat)
    else:
        yield from prose(lines, context, scope.chat, wrapped)
