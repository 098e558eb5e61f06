"""How small are signals? Stored bytes per target position with the default settings, and where they go.

    python benchmarks/signal_bytes.py [--model REF] [--quick]

For information: one capture per memory, written as the pipeline writes it. Dense is what full distributions in 16 bits
would take for the same positions; a shard also holds the examples' bytes and ids, which are in the figure.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._memories import users
from stillhouse import models, signals
from stillhouse.capture import memory as capture_memory


def column_bytes(shard: bytes) -> Counter[str]:
    """Compressed bytes per column of a Parquet file."""
    found: Counter[str] = Counter()
    about = pq.ParquetFile(io.BytesIO(shard)).metadata
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            part = about.row_group(group).column(column)
            found[part.path_in_schema.split(".")[0]] += part.total_compressed_size
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--memories", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one memory")
    args = parser.parse_args()
    model = models.load(args.model)
    print(machine())
    total = positions = examples = entries = 0
    columns: Counter[str] = Counter()
    for user, memory in users("bytes", 1 if args.quick else args.memories).items():
        say(f"capture {user}")
        made = capture_memory.capture(model, memory.text).artifacts
        shard = signals.write(made, {})
        columns += column_bytes(shard)
        total, examples = total + len(shard), examples + len(made)
        targets = [t for a in made for t in a.targets]
        positions += len(targets)
        entries += sum(len(t.ids) + len(t.draw_ids) for t in targets)
    per_position = total / positions
    for name, size in columns.most_common():
        print(f"  {name:<14} {size / positions:6.1f} B per position")
    return table(
        [
            Figure("stored bytes per target position", per_position, "B", note=f"{positions} positions"),
            Figure("kept entries per position, draws included", entries / positions),
            Figure("target positions per example", positions / examples, note=f"{examples} examples"),
            Figure("smaller than dense 16-bit distributions by", 2 * model.vocabulary / per_position, "x"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
