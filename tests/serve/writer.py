"""Append to a journal for ever from several threads: `python -m tests.serve.writer HOME SECONDS`.

Each id is printed once its record is acknowledged, so that whoever kills this process knows what has to be there.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from stillhouse.serve.log.journal import Config, Journal
from stillhouse.serve.log.journal_records import Exchange, Turn, new_id, now

THREADS = 4


def exchange(user: str = "alice", session: str = "s1", said: str = "My dog is called Zorvik.") -> Exchange:
    """One exchange with an id of its own."""
    turns = (Turn("user", said),)
    return Exchange(new_id("chatcmpl"), user, session, now(), turns, "Noted.", "tiny", "0" * 64, "base")


def main(home: Path, seconds: float) -> None:
    journal, end = Journal(home, Config(segment_bytes=20_000)), time.monotonic() + seconds
    said = threading.Lock()

    def speak(thread: int) -> None:
        while time.monotonic() < end:
            record = exchange(f"user{thread}", said="x" * 200)
            journal.append(record)
            with said:
                sys.stdout.write(record.id + "\n")
                sys.stdout.flush()

    threads = [threading.Thread(target=speak, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
