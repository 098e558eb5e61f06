"""Which model it is: a digest of configuration, tokenizer and weights, so an adapter is tied to exactly its base."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..storage.files import write_atomic

_DECIDING = frozenset(  # files beside the weights that change what a model answers
    "config.json generation_config.json tokenizer.json tokenizer.model tokenizer_config.json vocab.json merges.txt "
    "special_tokens_map.json added_tokens.json chat_template.jinja".split()
)


def fingerprint(path: Path, cache: Path | None = None) -> str:
    """SHA-256 over the names and bytes of configuration, tokenizer, chat template and weights.

    Hashing a large model takes seconds per gigabyte, so a file's digest is kept in `cache` under its path, size and
    modification time.
    """
    known = _read_cache(cache)
    whole = hashlib.sha256()
    for name in sorted({p.name for p in path.glob("*.safetensors")} | _DECIDING):
        file = path / name
        if file.is_file():
            whole.update(f"{name}\0{_file_digest(file, known)}\n".encode())
    _write_cache(cache, known)
    return whole.hexdigest()


def file_digest(file: Path, cache: Path | None = None) -> str:
    """SHA-256 (hex) of one file, remembered in `cache` too."""
    known = _read_cache(cache)
    digest = _file_digest(file, known)
    _write_cache(cache, known)
    return digest


def _file_digest(file: Path, known: dict[str, str]) -> str:
    about = file.stat()
    key = f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    if key not in known:
        with file.open("rb") as handle:
            known[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return known[key]


def _read_cache(cache: Path | None) -> dict[str, str]:
    try:
        return dict(json.loads(cache.read_text())) if cache else {}
    except (OSError, ValueError, TypeError):
        return {}  # a cache that cannot be read is made again


def _write_cache(cache: Path | None, known: dict[str, str]) -> None:
    if cache is None or known == _read_cache(cache):
        return
    write_atomic(cache, json.dumps(known).encode())
