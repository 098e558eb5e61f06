"""What a writer is asked for about one statement of a memory, and how its reply is read.

In: a statement as a reader is shown it (`Statement.told()`), perhaps one of its values. Out: messages for a writer, and
the values or questions in its reply. Three things are asked for, each by a request of its own: the values that one
could ask for, questions that a given value answers, and questions that the statement does not answer. A base is taught
these requests once (`stillhouse prime`), and a larger model is shown examples of them.

The words belong to the language (`english/wording.py`). It does not know models, nor whether a question is a good one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .language import NEAR_REQUEST, QUESTIONS_REQUEST, VALUES_REQUEST
from .prompts import Message

_SEPARATOR = " | "
_NUMBERED = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s+")  # how models like to begin the lines of a list


def values_request(statement: str) -> list[Message]:
    """What one could ask for in a statement."""
    return _request(VALUES_REQUEST.format(statement=statement))


def questions_request(statement: str, value: str) -> list[Message]:
    """Questions about a statement that `value` answers."""
    return _request(QUESTIONS_REQUEST.format(statement=statement, value=value))


def near_request(statement: str) -> list[Message]:
    """Questions about the same people and things that a statement does not answer."""
    return _request(NEAR_REQUEST.format(statement=statement))


def values_reply(values: Sequence[str]) -> str:
    """The reply to `values_request` that a writer is taught."""
    return _SEPARATOR.join(values)


def questions_reply(questions: Sequence[str]) -> str:
    """The reply to the other two requests that a writer is taught."""
    return "\n".join(questions)


def read_values(reply: str) -> list[str]:
    """The values in a reply, each once, in order; they may stand in one line or in several."""
    parts = (part for line in reply.splitlines() for part in line.split(_SEPARATOR.strip()))
    return _each_once(parts)


def read_questions(reply: str) -> list[str]:
    """The questions in a reply, each once, in order: a line is one. A list's numbers and dashes are left out."""
    return _each_once(reply.splitlines())


def _request(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _each_once(parts: Iterable[str]) -> list[str]:
    cleaned = (_NUMBERED.sub("", part).strip() for part in parts)
    return list(dict.fromkeys(part for part in cleaned if part))
