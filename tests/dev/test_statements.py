"""Statements are counted as said, by package and by family, and two checkouts stand side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev import sizes
from dev.statements import Count, count, family_of, package_of, report

SOURCE = '''"""A module."""

import os
from pathlib import Path


class Record:
    """A record."""

    size: int = 3
    """In bytes."""


def here() -> Path:
    """The folder."""
    if os.name:
        return Path()
    return Path("/")
'''


def checkout(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / "stillhouse" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


def test_strings_that_stand_by_themselves_are_no_statements() -> None:
    assert count(SOURCE) == Count(statements=8, without_imports=6)


@pytest.mark.parametrize(
    ("file", "package", "family"),
    [
        ("serve/engine/batch.py", "serve/engine", "decoding"),
        ("serve/_cache.py", "serve", "decoding"),
        ("serve/service.py", "serve", "server"),
        ("_lora_sites.py", "lora", "lora"),
        ("gate/_trials.py", "gate", "consolidation"),
        ("__init__.py", "__init__", "commands"),
        ("errors.py", "errors", "ground"),
    ],
)
def test_old_and_new_places_have_one_family(file: str, package: str, family: str) -> None:
    assert (package_of(file), family_of(file)) == (package, family)


def test_two_checkouts_stand_side_by_side(tmp_path: Path) -> None:
    old = checkout(tmp_path / "old", {"lora.py": "a = 1\nb = 2\n", "_lora_sites.py": "c = 3\n"})
    new = checkout(tmp_path / "new", {"lora/bank.py": "import os\na = 1\n", "work.py": "d = 4\n"})
    rows = [line.split() for line in report((old, new))]
    packages, families = rows[: rows.index([])], rows[rows.index([]) + 1 :]
    assert packages[1:] == [
        ["lora", "3", "2", "3", "1", "-2"],
        ["work", "0", "1", "0", "1", "+1"],
        ["all", "3", "3", "3", "2", "-1"],
    ]
    assert [row[0] for row in families] == ["family", "ground", "lora", "all"]


def test_the_command_compares_and_says_where_there_is_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sizes.main(["--against", str(checkout(tmp_path / "old", {"lora.py": "a = 1\n"}))]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "all"
    with pytest.raises(SystemExit):
        sizes.main(["--against", str(tmp_path / "nothing")])
    assert "give the root of a checkout" in capsys.readouterr().err
