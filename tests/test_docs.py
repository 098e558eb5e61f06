"""What the README says is run: every `stillhouse` command and every Python block, in order, in one fresh home."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)


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
