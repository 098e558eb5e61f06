"""A model reference becomes a model, its tokenizer and a fingerprint."""

from __future__ import annotations

from ..weights.fingerprints import fingerprint
from .chat import default_system, render, takes_system
from .loading import choose_device, load, load_tokenizer, outline
from .model import Device, Model
from .quiet import silence
from .references import DEFAULT, found_again, here, locate, recorded
from .text_model import TextModel
from .tokens import stop_ids, token_bytes

__all__ = [
    "DEFAULT",
    "Device",
    "Model",
    "TextModel",
    "choose_device",
    "default_system",
    "fingerprint",
    "found_again",
    "here",
    "load",
    "load_tokenizer",
    "locate",
    "outline",
    "recorded",
    "render",
    "silence",
    "stop_ids",
    "takes_system",
    "token_bytes",
]
