"""Command lines that need no model, in this process: `typed(capsys, "keys", "list", …)`."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse import cli
from tests.commands import Done


def typed(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Done:
    """How the command line ends, and what it prints."""
    capsys.readouterr()
    code = cli.main(list(map(str, argv)))
    out, err = capsys.readouterr()
    return Done(code, out, err)
