"""The index's tables, as numbered steps: a step, once released, is never edited; a change is a new step at the end.

In: nothing. Out: SQL (DuckDB). It does not know when it is run (`registry.py`).
"""

from __future__ import annotations

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE signals (
        digest VARCHAR PRIMARY KEY, user_id VARCHAR, memory VARCHAR, base VARCHAR, shard VARCHAR, study VARCHAR,
        examples BIGINT, positions BIGINT, memory_tokens BIGINT, config JSON);
    CREATE TABLE candidates (
        digest VARCHAR PRIMARY KEY, user_id VARCHAR, kind VARCHAR, base VARCHAR, adapter VARCHAR,
        steps BIGINT, last_loss DOUBLE, config JSON);
    CREATE TABLE verdicts (
        digest VARCHAR PRIMARY KEY, candidate VARCHAR, passed BOOLEAN, gates BIGINT, failed VARCHAR);
    CREATE TABLE gate_results (
        verdict VARCHAR, position BIGINT, gate VARCHAR, value DOUBLE, threshold DOUBLE, at_least BOOLEAN,
        passed BOOLEAN, n BIGINT, low DOUBLE, high DOUBLE, note VARCHAR, PRIMARY KEY (verdict, position));
    CREATE TABLE versions (
        digest VARCHAR PRIMARY KEY, user_id VARCHAR, number BIGINT, approved BOOLEAN, candidate VARCHAR,
        verdict VARCHAR, base VARCHAR, base_ref VARCHAR, created VARCHAR);
    CREATE TABLE lineage (child VARCHAR, parent VARCHAR, child_kind VARCHAR, PRIMARY KEY (child, parent));
    CREATE TABLE aliases (
        user_id VARCHAR, name VARCHAR, number BIGINT, since VARCHAR, why VARCHAR, PRIMARY KEY (user_id, name));
    """,
)
