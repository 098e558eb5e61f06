"""Which way an answer takes: from the user's weights, from retrieved passages, from both, or from the base alone.

In: what is known of a user, as plain values. Out: the path. Pure. It does not look anything up and does not know
what the passages say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Route = Literal["adapted", "retrieval", "both", "base"]


@dataclass(frozen=True)
class Knowledge:
    """What there is of a user. `adapter`: a champion that was made for this base and can be loaded. `memory`: passages
    there are. `newer`: some of them are not in the adapter. `wanted`: the caller asked for the base alone if False."""

    adapter: bool = False
    memory: bool = False
    newer: bool = False
    wanted: bool = True


def route(known: Knowledge) -> Route:
    """The path: weights before passages, passages where the weights do not have them."""
    if not known.wanted:
        return "base"
    if known.adapter:
        return "both" if known.memory and known.newer else "adapted"
    return "retrieval" if known.memory else "base"
