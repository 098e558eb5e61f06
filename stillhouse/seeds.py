"""One seed for one purpose: a number that depends on its parts alone, on every machine and in every version of Python.

In: whole numbers and texts that name what is drawn. Out: a seed. `hash` is none: Python salts it for texts and may
change it for numbers.
"""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """A seed below 2^63 from `parts`, in their order: the first 63 bits of BLAKE2b over what they are, kind by kind."""
    named = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest(), "big") >> 1
