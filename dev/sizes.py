"""How big things are: `python -m dev.sizes` prints one line per folder and fails where a limit is passed.

In: the Python files of the repository and the model that ships. Out: counts on stdout; exit code 1 and one line per
breach. `tests/test_architecture.py` keeps the same limits for the package. Statements per package follow
(`dev/statements.py`); with `--against PATH`, those of another checkout stand before this one's.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev import statements

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("stillhouse", "tiny", "tests", "benchmarks", "examples", "dev")
FILE_LINES = 450
FUNCTION_LINES = 60
MODEL_BYTES = 20_000_000


@dataclass(frozen=True)
class Function:
    """A function or method: where it starts and how many lines it has, signature and docstring included."""

    path: Path
    name: str
    line: int
    lines: int


def files(folder: Path) -> list[Path]:
    """The Python files under a folder, sorted; none when it does not exist."""
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file, nested ones included; decorators do not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(path, node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)


def line_count(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def breaches(folder: Path) -> list[str]:
    """One line for each file and each function over its limit."""
    found = []
    for path in files(folder):
        if (lines := line_count(path)) > FILE_LINES:
            found.append(f"{path.relative_to(ROOT)}: {lines} lines; at most {FILE_LINES}: it does two things, cut it")
        found += [
            f"{path.relative_to(ROOT)}:{f.line}: {f.name} has {f.lines} lines; at most {FUNCTION_LINES}"
            for f in functions(path)
            if f.lines > FUNCTION_LINES
        ]
    return found


def summary(folder: Path) -> str:
    """Files, lines, and the median and 95th percentile of function lengths, as one table row."""
    paths = files(folder)
    lengths = sorted(f.lines for p in paths for f in functions(p)) or [0]
    p95 = lengths[min(len(lengths) - 1, round(0.95 * len(lengths)))]
    total, longest = sum(map(line_count, paths)), max(map(line_count, paths), default=0)
    return (
        f"{folder.name:<12}{len(paths):>6}{total:>8}{longest:>9}"
        f"{len(lengths):>11}{statistics.median(lengths):>8.0f}{p95:>6}{lengths[-1]:>6}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 1 when something is too big."""
    parser = argparse.ArgumentParser(prog="python -m dev.sizes", description="how big things are")
    parser.add_argument("--against", metavar="PATH", type=Path, help="another checkout, to compare statements with")
    other = parser.parse_args(arguments).against
    if other and not files(other / "stillhouse"):
        parser.error(f"--against {other}: no Python files in {other / 'stillhouse'}; give the root of a checkout")
    print(f"{'folder':<12}{'files':>6}{'lines':>8}{'longest':>9}{'functions':>11}{'median':>8}{'p95':>6}{'max':>6}")
    present = [ROOT / name for name in FOLDERS if files(ROOT / name)]
    for folder in present:
        print(summary(folder))
    model = ROOT / "stillhouse" / "assets" / "tiny"
    size = sum(p.stat().st_size for p in model.rglob("*") if p.is_file())
    print(f"{model.relative_to(ROOT)}: {size / 1e6:.1f} MB of {MODEL_BYTES / 1e6:.0f}")
    print("", *statements.report((other, ROOT) if other else (ROOT,)), sep="\n")
    wrong = [line for folder in present for line in breaches(folder)]
    if size > MODEL_BYTES:
        wrong.append(f"{model.relative_to(ROOT)}: {size} bytes; at most {MODEL_BYTES}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
