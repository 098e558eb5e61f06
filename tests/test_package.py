"""What `import stillhouse` offers is there, and costs nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stillhouse


@pytest.mark.parametrize("name", stillhouse.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(stillhouse, name).__module__.startswith("stillhouse.")


def test_the_functions_stay_functions_whatever_was_imported() -> None:
    """A package of the same name would take the place of the function as soon as somebody imports it."""
    for name in ("ask", "consolidate", "consolidate_all", "read_memory"):
        assert callable(getattr(stillhouse, name))


def test_a_command_line_is_read_before_torch_is_imported() -> None:
    """Help and progress come at once, and processes can be started before this one is busy with torch."""
    code = """
import sys
from stillhouse.cli import main
try:
    main(["--version"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, stillhouse; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
