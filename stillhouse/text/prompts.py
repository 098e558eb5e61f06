"""Chat messages for the two roles: a teacher that reads the memory, a student that does not.

In: a memory, a statement, a question. Out: messages in the `{"role", "content"}` form that every chat template takes.
The words themselves belong to the language (`english/wording.py`).

It does not know tokenizers or templates (`models/`) and never sees a tensor.
"""

from __future__ import annotations

from .language import MEMORY_SYSTEM, PROMPTS_VERSION, UNKNOWN_ANSWER, WRITING_REQUEST

__all__ = [
    "MEMORY_SYSTEM",
    "PROMPTS_VERSION",
    "UNKNOWN_ANSWER",
    "Message",
    "with_memory",
    "without_memory",
    "writing_request",
]

Message = dict[str, str]


def with_memory(memory: str, question: str) -> list[Message]:
    """The teacher's messages: the memory in the system message, then one question."""
    return [{"role": "system", "content": MEMORY_SYSTEM.format(memory=memory)}, {"role": "user", "content": question}]


def without_memory(question: str) -> list[Message]:
    """The student's messages: the question alone. No byte of the memory is in them."""
    return [{"role": "user", "content": question}]


def writing_request(statement: str, n: int) -> str:
    """The request that the teacher write `n` differently worded questions, and a reverse one, about one statement."""
    return WRITING_REQUEST.format(n=n, statement=statement)
