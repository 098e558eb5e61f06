"""Memories to calibrate on: short plain notes of invented facts that no model has met.

In: a seed. Out: the text of a memory, one statement a line. Names, places and codes are invented, so whoever knows one
of them has it from the memory. The sentences (`synthetic.txt`) are everyday English that any teacher understands.

It does not know models, and it is not what people write: calibrate on memories of your own where you have some.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

SMALLEST, LARGEST = 6, 12  # statements of a memory

_ONSETS = "b br d dr f g gl k kr l m n p pl r s st t tr v z".split()
_VOWELS = "a e i o u ai ea io".split()
_ENDS = "n r l x k nd st m s".split()
_MONTHS = "January February March April May June July August September October November December".split()
_DRAWN = {
    "animal": "dog cat horse parrot rabbit tortoise".split(),
    "relative": "sister brother aunt uncle cousin neighbour dentist landlord teacher".split(),
    "thing": ("garage", "safe", "wifi", "alarm", "printer", "cellar", "archive", "locker"),
    "room": "cellar attic kitchen garage shed hallway".split(),
    "taste": "tea soup author band colour dessert cheese".split(),
    "visit": ("dentist visit", "piano lesson", "yearly review", "driving test", "team meeting"),
    "food": "walnuts celery shellfish barley apricots".split(),
    "machine": ("backup server", "build server", "mail server", "game server"),
    "card": "library membership locker passport customer".split(),
}
_SLOT = re.compile(r"\{(\w+)\}")


def memory(seed: int) -> str:
    """A memory of `SMALLEST` to `LARGEST` statements; the same seed, the same text."""
    rng = random.Random(f"stillhouse/calibration/{seed}")
    drawn = rng.sample(_templates(), rng.randint(SMALLEST, LARGEST))
    lines = [_SLOT.sub(lambda slot: _filled(slot[1], rng), template) for template in drawn]
    return "# Notes\n\n" + "".join(f"- {line}\n" for line in lines)


@cache
def _templates() -> tuple[str, ...]:
    lines = Path(__file__).with_name("synthetic.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def _filled(slot: str, rng: random.Random) -> str:
    if slot in _DRAWN:
        return rng.choice(_DRAWN[slot])
    if slot == "number":
        return str(rng.randint(1000, 9999))
    if slot == "code":
        return f"{_invented(rng)}{rng.randint(10, 99)}"
    if slot == "day":
        return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}"
    if slot == "time":
        return f"{rng.randint(7, 20)}:{rng.choice(('15', '30', '45'))}"
    word = _invented(rng)
    return word if slot == "word" else word.capitalize()


def _invented(rng: random.Random) -> str:
    parts = (rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2))
    return "".join(parts) + rng.choice(_ENDS)
