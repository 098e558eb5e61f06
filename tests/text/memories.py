"""Texts as people and hypothesis write them, for the tests of everything that reads a memory."""

from __future__ import annotations

from hypothesis import strategies as st

PIECES = st.sampled_from(
    [
        "My dog is Rex. ", "He is old. ", "\n", "\n\n", "- ", "1. ", "# Title here\n", "User: ", "Is it so? ",
        "Dr. A. B. ", "... ", "“Yes,” she said loudly. ", "naïve Zoë \U0001f600 says hi", "and it goes on so", "\t",
        "\r", "\u2028", "|a|b|\n", "```", "  ", '!)" A',
    ]
)  # fmt: skip
TEXTS = st.text() | st.lists(PIECES, max_size=25).map("".join)
