"""The route of an answer: from the user's weights, from retrieved passages, from both, or from the base alone.

In: what there is of a user, as plain values. Out: the route. Pure. It looks nothing up, and does not know what the
passages say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Route = Literal["adapted", "retrieval", "both", "base"]


@dataclass(frozen=True)
class Knowledge:
    """What there is of a user."""

    adapter: bool = False
    """A champion that was made for this base and can be loaded."""
    memory: bool = False
    """Passages that match the question."""
    newer: bool = False
    """Some of them state what the adapter was not made of."""
    base_only: bool = False
    """Whether the request names the base alone."""


def route(known: Knowledge) -> Route:
    """The route: weights before passages, and passages for what the weights do not know."""
    if known.base_only:
        return "base"
    if known.adapter:
        return "both" if known.memory and known.newer else "adapted"
    return "retrieval" if known.memory else "base"
