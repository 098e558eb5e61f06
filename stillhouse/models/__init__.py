"""A model reference becomes a model, its tokenizer and a fingerprint."""

from __future__ import annotations

from .chat import default_system, render, takes_system
from .fingerprints import fingerprint
from .loading import DEFAULT, choose_device, load, load_tokenizer, locate, outline
from .model import Device, Model
from .quiet import silence
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
    "load",
    "load_tokenizer",
    "locate",
    "outline",
    "render",
    "silence",
    "stop_ids",
    "takes_system",
    "token_bytes",
]
