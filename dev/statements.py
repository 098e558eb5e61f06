"""How much code there is: statements per package and per family of files, of this checkout or of two side by side.

In: a checkout's `stillhouse/`. Out: one table row per package, then one per family. A statement is an `ast.stmt`; a
string that stands by itself is documentation and is not counted. The second number leaves out imports, because moving
code adds and removes them. A family holds what one job needs, wherever its files stand: it has the patterns of older
layouts beside those of this one, so that its sum can be compared after a move.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

PACKAGE = "stillhouse"
# The first pattern that matches a file's path within the package names its family. `*` also matches slashes.
FAMILIES = {
    "decoding": (
        *("generate*", "_generate_*", "runners/*", "serve/engine*", "serve/adapters.py", "serve/scheduler.py"),
        *(f"serve/_{part}.py" for part in "along cache execution door pace rows sampling stream text".split()),
    ),
    "consolidation": (
        "consolidation/*",
        "pipeline.py",
        "_pipeline_*",
        "prime.py",
        "gate/_trials.py",
        "gate/_sabotage*",
    ),
    "distillation": ("distillation/*", "distill.py", "_distill_*"),
    "text": ("text/*", "texts.py", "chat.py", "statements.py", "capture/_orders.py"),
    "capture": ("capture/*", "teachers/*"),
    "signals": ("signals/*", "artifacts.py", "_artifacts_*"),
    "training": ("train/*", "trainer/*", "feeds/*"),
    "gates": ("gate/*", "gating/*", "report/*"),
    "models": ("models*", "_models_*", "compute/*", "align.py"),
    "lora": ("lora*", "_lora_*"),
    "losses": ("losses*", "_losses_*"),
    "storage": ("storage/*", "blobs.py", "_blobs_*"),
    "store": ("store/*", "retrieve/*", "export/*"),
    "server": ("serve/*",),
    "commands": ("commands/*", "cli*", "demo.py", "__*__.py"),
    "ground": ("*",),
}


@dataclass(frozen=True)
class Count:
    """Statements of some files: all of them, and those that import nothing."""

    statements: int = 0
    without_imports: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.statements + other.statements, self.without_imports + other.without_imports)


def count(source: str) -> Count:
    """The statements of a Python source, strings that stand by themselves apart."""
    statements = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt)
        and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
    ]
    imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)
    return Count(len(statements), len(statements) - imports)


def package_of(file: str) -> str:
    """`serve/engine/batch.py` -> `serve/engine`, `_lora_sites.py` -> `lora`, `errors.py` -> `errors`."""
    folder, _, name = file.rpartition("/")
    return folder or (name.split("_")[1] if name.startswith("_") and name[1] != "_" else name.removesuffix(".py"))


def family_of(file: str) -> str:
    """The family of a file, given by its path within the package."""
    return next(family for family, patterns in FAMILIES.items() if any(fnmatch(file, p) for p in patterns))


def counts(checkout: Path, group_of: Callable[[str], str]) -> dict[str, Count]:
    """Statements of a checkout's package by group, groups in order of their names."""
    sums: dict[str, Count] = defaultdict(Count)
    for path in sorted((checkout / PACKAGE).rglob("*.py")):
        if "__pycache__" not in path.parts:
            file = path.relative_to(checkout / PACKAGE).as_posix()
            sums[group_of(file)] += count(path.read_text(encoding="utf-8"))
    return dict(sorted(sums.items()))


def table(title: str, checkouts: tuple[Path, ...], group_of: Callable[[str], str]) -> Iterator[str]:
    """A row per group: the checkouts' statements side by side, then those without imports, then what changed."""
    columns = [counts(checkout, group_of) for checkout in checkouts]
    groups = sorted(set().union(*columns))
    yield f"{title:<24}" + "".join(f"{name:>{11 * len(columns)}}" for name in ("statements", "no imports"))
    for group in [*groups, "all"]:
        row = [sum(c.values(), Count()) if group == "all" else c.get(group, Count()) for c in columns]
        numbers = [c.statements for c in row] + [c.without_imports for c in row]
        change = f"{row[-1].without_imports - row[0].without_imports:>+11}" if len(row) > 1 else ""
        yield f"{group:<24}" + "".join(f"{number:>11}" for number in numbers) + change


def report(checkouts: tuple[Path, ...]) -> Iterator[str]:
    """Both tables of one checkout, or of an older and a newer one side by side."""
    yield from table("package", checkouts, package_of)
    yield ""
    yield from table("family", checkouts, family_of)
