"""Running English text that every machine has: passages from the docstrings of Python's standard library.

In: how many passages, and a seed. Out: passages of 200 to 700 characters, in a fixed order for one Python version. A
student trains on `anchors`, so that it does not drift. Gates measure on `held_out`, which comes from other modules. A
user can pass another text instead.

It does not know any model.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .language import EVERYDAY_PROMPTS

HELD_OUT_MODULES = ("argparse", "email", "fractions", "http", "pathlib", "shelve", "statistics", "tarfile", "zipfile")
ANCHOR_MODULES = (
    "calendar", "collections", "configparser", "csv", "difflib", "functools", "gettext", "heapq", "inspect", "json",
    "locale", "logging", "mailbox", "optparse", "random", "shutil", "smtplib", "socket", "string", "subprocess",
    "tempfile", "textwrap", "threading", "typing", "urllib", "uuid", "wsgiref",
)  # fmt: skip


def anchors(n: int, seed: int = 0) -> list[str]:
    """`n` passages for training, drawn without replacement by `seed`."""
    return _draw(_passages(ANCHOR_MODULES), n, seed)


def held_out(n: int, seed: int = 0) -> list[str]:
    """`n` passages for measuring; never overlaps with `anchors`."""
    return _draw(_passages(HELD_OUT_MODULES), n, seed)


def prompts(n: int, seed: int = 0) -> list[str]:
    """`n` everyday requests that have nothing to do with any memory."""
    return _draw(EVERYDAY_PROMPTS, n, seed)


def _draw(passages: tuple[str, ...], n: int, seed: int) -> list[str]:
    return random.Random(seed).sample(passages, min(n, len(passages)))


@cache
def _passages(modules: tuple[str, ...]) -> tuple[str, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [f for m in modules for f in (sorted((root / m).rglob("*.py")) or [root / f"{m}.py"]) if f.is_file()]
    texts = [text for file in files if "test" not in file.parts for text in _docstrings(file)]
    return tuple(dict.fromkeys(texts))


def _docstrings(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    texts = [ast.get_docstring(n) for n in _walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    return [t[:700].rsplit("\n", 1)[0] if len(t) > 700 else t for t in texts if t and len(t) >= 200 and t.isascii()]


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of `ast.walk`, in its order, without expressions: no expression has a docstring."""
    todo = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        parts = (part for _, value in ast.iter_fields(node) if isinstance(value, list) for part in value)
        todo.extend(part for part in parts if isinstance(part, ast.stmt | ast.ExceptHandler | ast.match_case))
