"""The text side of a model: what is computed once goes with one model, and not with a changed copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stillhouse.models import Model


def test_a_changed_copy_computes_anew(random_model: Callable[..., Model]) -> None:
    """Trials of the weights and what a network made of a text belong to that network alone."""
    model = replace(random_model("llama"))
    assert model.once("what is computed", lambda: "first") == "first"
    assert model.once("what is computed", lambda: "second") == "first"
    changed = replace(model, network=random_model("qwen3").network)
    assert changed.once("what is computed", lambda: "of the other network") == "of the other network"
    assert model.once("what is computed", lambda: "third") == "first"
