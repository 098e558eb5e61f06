"""Memory that a stage frees is there for its next step without the kernel clearing it again; then it is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.commands import ROOT

FAULTS = """
import resource
from stillhouse.compute.allocator import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [bytearray(8 << 20) for _ in range(12)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

usual = faults()
with kept_memory():
    faults()
    kept = faults()
    inside = resident()
print(usual, kept, inside - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    usual, kept, returned = map(int, done.stdout.split())
    assert kept < usual / 10
    assert returned > 64 << 20
