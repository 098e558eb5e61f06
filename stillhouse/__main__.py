"""`python -m stillhouse`, and so `torchrun -m stillhouse`."""

from __future__ import annotations

from .cli import program

program()
