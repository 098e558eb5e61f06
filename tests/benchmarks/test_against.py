"""Two checkouts are measured in turns, each with its own script and package, and compared figure by figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._against import WALL, compare, rows, table_values
from benchmarks._machine import Figure, table

SCRIPT = """
import stillhouse
print("machine: a line that is no figure")
print("figure              measured  target")
print(f"tokens a second  {stillhouse.SPEED:>11.4g}  >= 10  PASS")
"""


def checkout(root: Path, speed: float) -> Path:
    (root / "stillhouse").mkdir(parents=True)
    (root / "stillhouse" / "__init__.py").write_text(f"SPEED = {speed}\n", encoding="utf-8")
    (root / "script.py").write_text(SCRIPT, encoding="utf-8")
    return root


def test_each_checkout_runs_its_own_package(tmp_path: Path) -> None:
    old, new = checkout(tmp_path / "old", 20.0), checkout(tmp_path / "new", 30.0)
    a, b = compare(old, new, ["script.py"], 1)
    assert (a["tokens a second"], b["tokens a second"]) == ([20.0, 20.0], [30.0, 30.0])
    assert len(a[WALL]) == len(b[WALL]) == 2
    assert rows(a, b)[1].split()[:6] == ["tokens", "a", "second", "20", "30", "1.500"]


def test_a_run_without_figures_is_an_error(tmp_path: Path) -> None:
    old, new = checkout(tmp_path / "old", 20.0), checkout(tmp_path / "new", 30.0)
    (old / "script.py").write_text("print('nothing')\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no figures"):
        compare(old, new, ["script.py"], 1)


def test_figures_are_read_as_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    table(
        [
            Figure("whole command", 12.34, "s", 30.0, at_least=False, note="median of 3, 12.0 to 13.0"),
            Figure("  one stage", 1.5, "s"),
            Figure("rows with the same tokens", 1.0, "%", 1.0),
            Figure("against another", 2.5, "x", 2.0, interval=(2.4, 2.6)),
            Figure("plain", 1234567.0),
        ]
    )
    assert table_values(capsys.readouterr().out) == {
        "whole command": 12.34,
        "  one stage": 1.5,
        "rows with the same tokens": 100.0,
        "against another": 2.5,
        "plain": 1.235e6,
    }
