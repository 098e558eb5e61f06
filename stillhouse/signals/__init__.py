"""Sparse targets from a teacher, in Parquet shards."""

from __future__ import annotations

from .shards import (
    FORMAT,
    QUANTUM,
    SCHEMA,
    SCHEMAS,
    DistillArtifact,
    Kind,
    PositionTarget,
    Shard,
    position_targets,
    read,
    read_shard,
    shard,
    sparse_targets,
    write,
)

__all__ = [
    "FORMAT",
    "QUANTUM",
    "SCHEMA",
    "SCHEMAS",
    "DistillArtifact",
    "Kind",
    "PositionTarget",
    "Shard",
    "position_targets",
    "read",
    "read_shard",
    "shard",
    "sparse_targets",
    "write",
]
