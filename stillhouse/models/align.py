"""Two tokenizers over the same bytes: where their tokens meet, and which ids mean the same.

In: what every id of either vocabulary stands for (bytes), and token sequences of one text. Out: chunks, the shortest
runs of tokens that cover the same bytes on both sides (a number that one tokenizer keeps whole and the other splits
into digits is one chunk), and a table from ids to ids. Matching the likelihood of chunks is Minixhofer et al. 2025
(arXiv 2503.20083); cutting logits to the shorter vocabulary compares unrelated tokens and is not done.

It does not know models, templates or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


class Chunk(NamedTuple):
    """Tokens `[teacher, teacher_end)` on one side and `[student, student_end)` on the other cover the same bytes."""

    teacher: int
    teacher_end: int
    student: int
    student_end: int

    @property
    def single(self) -> bool:
        """Whether it is one token on both sides."""
        return self.teacher_end - self.teacher == self.student_end - self.student == 1


def same_vocabulary(teacher: Sequence[bytes], student: Sequence[bytes]) -> bool:
    """Whether ids mean the same on both sides, padding rows and ids that only one side has aside.

    One family's models differ in how far they pad their embeddings (151,936 against 152,064); those are the same.
    """
    common = list(zip(teacher, student, strict=False))
    known = [(a, b) for a, b in common if a and b]
    return len(known) > len(common) // 2 and all(a == b for a, b in known)


def token_map(teacher: Sequence[bytes], student: Sequence[bytes], special: Sequence[bool] = ()) -> list[int]:
    """For every id of the teacher the student's id of the same bytes, or -1. Special tokens map to nothing."""
    first: dict[bytes, int] = {}
    for index, text in enumerate(student):
        first.setdefault(text, index)
    first.pop(b"", None)
    marked = list(special) or [False] * len(teacher)
    return [-1 if mark else first.get(text, -1) for text, mark in zip(teacher, marked, strict=True)]


def chunks(teacher: Sequence[bytes], student: Sequence[bytes]) -> list[Chunk]:
    """The chunks of two tokenisations of the same bytes; bytes after the last place where both end are left out.

    Tokens that stand for nothing belong to the chunk before them, at the very beginning to the first.
    """
    left, right = list(accumulate(map(len, teacher))), list(accumulate(map(len, student)))
    result: list[Chunk] = []
    i = j = start_i = start_j = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            end_i, end_j = _last_at(left, i), _last_at(right, j)
            if left[i]:
                result.append(Chunk(start_i, end_i, start_j, end_j))
                start_i, start_j = end_i, end_j
            i, j = end_i, end_j
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return result


def pieces(text: bytes, ids: Sequence[int], vocabulary: Sequence[bytes]) -> list[bytes] | None:
    """The bytes of `text` that each of `ids` covers; None where the ids spell another text.

    The space that some tokenizers put before every text does not count.
    """
    tokens = [vocabulary[i] for i in ids]
    spelt = b"".join(tokens)
    if spelt == b" " + text and tokens and tokens[0].startswith(b" "):
        tokens[0] = tokens[0][1:]
        return tokens
    return tokens if spelt == text else None


def whole_characters(text: bytes) -> bytes:
    """`text` without a character that is cut off at its end."""
    for cut in range(4):
        part = text[: len(text) - cut]
        try:
            part.decode()
        except UnicodeDecodeError:
            continue
        return part
    return text


def _last_at(ends: Sequence[int], i: int) -> int:
    """One past the last token that ends where token `i` does."""
    while i + 1 < len(ends) and ends[i + 1] == ends[i]:
        i += 1
    return i + 1
