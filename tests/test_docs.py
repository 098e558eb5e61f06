"""What the pages say is true: the README's commands and Python blocks run, and files, modules and settings exist.

`docs/log.md` is left out: it tells of files as they were called on that day.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dev.sizes import files
from stillhouse import kinds
from stillhouse.consolidation import Settings
from stillhouse.serve.service import Config

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)
NAMING_PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if path.name not in ("log.md", "CHANGELOG.md")
)  # fmt: skip
FILES = [
    path for folder in ("stillhouse", "tests", "examples", "benchmarks", "tiny", "dev") for path in files(ROOT / folder)
]
SECTIONS = {**vars(Settings()), **vars(Config())}
del SECTIONS["capture"]  # settings of that name are those of whichever kind of capture a page speaks of


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [line.split("  #")[0].split(" # ")[0] for line in lines if line.startswith("stillhouse ")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_python_blocks_run(page: str, tmp_path: Path) -> None:
    """`adapters rollback` needs an earlier version, so it may say that there is none, in one line."""
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = commands(page)
    assert len(found) >= 5

    def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    for command in found:
        done = run(shlex.split(command))
        nothing_earlier = "rollback" in command and done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.returncode == 0 or nothing_earlier, f"{command}\n{done.stderr}"
    for block in blocks(page, "python"):
        done = run([sys.executable, "-c", block])
        assert done.returncode == 0, done.stderr
        assert "True" in done.stdout and "Zorvik" in done.stdout


def named(page: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("page", NAMING_PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    scripts = named(page, r"(?<![\w/])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)\b")
    missing = {name for name in scripts if not any(path.as_posix().endswith(f"/{name}") for path in FILES)}
    assert not missing, f"{page} names {sorted(missing)}"


@pytest.mark.parametrize("page", NAMING_PAGES)
def test_functions_that_a_page_names_exist(page: str) -> None:
    for name in named(page, r"`(stillhouse\.[a-z_]+\.[A-Za-z_.]+)`"):
        owner, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(owner), attribute), f"{page} names {name}"


@pytest.mark.parametrize("page", NAMING_PAGES)
def test_commands_that_a_page_names_exist(page: str) -> None:
    commands = named(page, r"(?:^|`|\$ )stillhouse ([a-z]+)\b")
    assert commands <= set(kinds.names("commands")), f"{page} names {sorted(commands - set(kinds.names('commands')))}"


@pytest.mark.parametrize("page", NAMING_PAGES)
def test_settings_that_a_page_names_exist(page: str) -> None:
    settings = named(page, rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)(?:`|=)")
    missing = [name for name in settings if not hasattr(SECTIONS[name.split(".")[0]], name.split(".")[1])]
    assert not missing, f"{page} names {sorted(missing)}"
