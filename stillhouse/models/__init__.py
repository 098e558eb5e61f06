"""A model reference becomes a model, its tokenizer and a fingerprint."""

from __future__ import annotations

from .fingerprints import fingerprint
from .loading import DEFAULT, choose_device, load, load_tokenizer, locate, outline
from .model import Device, Model
from .quiet import silence
from .text_model import TextModel
from .tokens import render, stop_ids, token_bytes

__all__ = [
    "DEFAULT",
    "Device",
    "Model",
    "TextModel",
    "choose_device",
    "fingerprint",
    "load",
    "load_tokenizer",
    "locate",
    "outline",
    "render",
    "silence",
    "stop_ids",
    "token_bytes",
]
