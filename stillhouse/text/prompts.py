"""Chat messages for the two roles: a teacher that reads the memory, a student that does not.

In: a memory, a statement, a question. Out: messages in the `{"role", "content"}` form that every chat template takes.
The words themselves belong to the language (`english/wording.py`).

It does not know tokenizers or templates (`models/`) and never sees a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from .language import MEMORY_SYSTEM, PROMPTS_VERSION, SPEAKERS, UNKNOWN_ANSWER, WRITING_REQUEST

__all__ = [
    "MEMORY_SYSTEM",
    "PROMPTS_VERSION",
    "UNKNOWN_ANSWER",
    "Message",
    "transcript",
    "with_memory",
    "without_memory",
    "writing_request",
]

Message = dict[str, str]
_TURNS = tuple(f"{speaker}:" for speaker in SPEAKERS.values())
TRANSCRIPT_STOPS = tuple(f"\n{turn}" for turn in _TURNS)
"""Texts that end an answer in a transcript: the next turn begins."""


def with_memory(memory: str, question: str) -> list[Message]:
    """The teacher's messages: the memory in the system message, then one question."""
    return [{"role": "system", "content": MEMORY_SYSTEM.format(memory=memory)}, {"role": "user", "content": question}]


def without_memory(question: str) -> list[Message]:
    """The student's messages: the question alone. No byte of the memory is in them."""
    return [{"role": "user", "content": question}]


def transcript(messages: Sequence[Message]) -> str:
    """The conversation as text that any model can go on with, ready for the assistant's reply. What a system message
    says stands before it as it is. A line of a message that looks like the beginning of a turn is indented."""
    parts = []
    for message in messages:
        speaker, text = SPEAKERS.get(message["role"], message["role"].capitalize()), _own_lines(message["content"])
        parts.append(f"{text}\n\n" if message["role"] == "system" else f"{speaker}: {text}\n")
    return "".join([*parts, f"{SPEAKERS['assistant']}:"])


def _own_lines(text: str) -> str:
    return "\n".join(f" {line}" if line.startswith(_TURNS) else line for line in text.split("\n"))


def writing_request(statement: str, n: int) -> str:
    """The request that the teacher write `n` differently worded questions, and a reverse one, about one statement."""
    return WRITING_REQUEST.format(n=n, statement=statement)
