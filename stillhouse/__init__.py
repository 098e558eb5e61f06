"""Stillhouse: what a large language model knows becomes the weights of a smaller or memory-free one.

    import stillhouse
    result = stillhouse.consolidate("alice", open("notes.md").read())
    stillhouse.ask("What is my dog called?", user="alice").answer

Names are imported when first used, so `import stillhouse` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Consolidation", "Reply", "Settings", "Store", "ask", "consolidate", "consolidate_all", "read_memory"]

if TYPE_CHECKING:
    from .consolidation import Consolidation, Settings, consolidate, consolidate_all
    from .inputs import read_memory
    from .serve.ask import Reply
    from .serve.ask import ask_home as ask
    from .store import Store

_HOMES = {
    "Consolidation": ("consolidation", "Consolidation"),
    "Settings": ("consolidation", "Settings"),
    "consolidate": ("consolidation", "consolidate"),
    "consolidate_all": ("consolidation", "consolidate_all"),
    "read_memory": ("inputs", "read_memory"),
    "ask": ("serve.ask", "ask_home"),
    "Reply": ("serve.ask", "Reply"),
    "Store": ("store", "Store"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(f"stillhouse.{module}"), attribute)
