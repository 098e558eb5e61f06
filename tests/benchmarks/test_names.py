"""Scripts outside the package name only modules and attributes that it has."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dev.sizes import ROOT, files

SCRIPTS = [path for folder in ("benchmarks", "examples", "tiny") for path in files(ROOT / folder)]


def sources(path: Path) -> Iterator[ast.Module]:
    """The script itself, and the code that it gives other processes as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import stillhouse" in node.value:
            yield ast.parse(node.value)


def named(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, attribute) of everything of the package that is imported, and of what is used of imported modules."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stillhouse":
            for alias in node.names:
                yield str(node.module), alias.name
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "stillhouse":
                    yield alias.name, "__name__"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def module_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def exists(module: str, attribute: str) -> bool:
    found = module_or_none(module)
    if found is None:  # a function or class of a module: its own attributes are its tests' business
        owner, _, name = module.rpartition(".")
        return hasattr(module_or_none(owner), name)
    return hasattr(found, attribute) or module_or_none(f"{module}.{attribute}") is not None


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_names_what_exists(path: Path) -> None:
    missing = sorted({f"{m}.{a}" for tree in sources(path) for m, a in named(tree) if not exists(m, a)})
    assert not missing, f"{path.relative_to(ROOT)}: the package has no {', '.join(missing)}"


def test_the_test_sees_what_is_missing() -> None:
    tree = ast.parse("from stillhouse import models\nfrom stillhouse.pipeline import run\nmodels.nothing\n")
    assert {f"{m}.{a}" for m, a in named(tree) if not exists(m, a)} == {
        "stillhouse.pipeline.run",
        "stillhouse.models.nothing",
    }
