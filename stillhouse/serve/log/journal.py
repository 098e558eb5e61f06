"""The journal: what users sent, what was answered, and their feedback; on disk before it is acknowledged.

In: records. Out: `<home>/journal/`, segments of JSON lines (docs/formats/journal.md). Many threads append. One thread
writes what has gathered, syncs once, and resolves the futures of all. Every process has a segment of its own, so none
waits for another. DuckDB reads the sealed segments with `read_json`. It does not know models, adapters or policies, and
it does not look for one user's words in another's records.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import Busy, InputError, StoreError
from ...records import canonical
from ...storage.files import discard, make_folder, sync_folder, write_atomic
from ...storage.locks import locked
from .journal_records import LASTING, Exchange, Feedback, Forgotten, Record, new_id, now, record_of
from .jsonl import decode, encode
from .segments import SEALED, Segment, lines, recover, rewrite, segments

_USER = re.compile(rb'"user":"(?:[^"\\]|\\.)*"')  # in a text quotes are escaped, so only the field matches
_FEEDBACK = b'"kind":"feedback"'
_BATCH = 4 << 20  # bytes written before the next sync
_MOST_PENDING = 64 << 20  # bytes that may wait for the disk
_ROUNDS = 3


@dataclass(frozen=True)
class Config:
    """How the journal is cut into files, and what it keeps."""

    segment_bytes: int = 64 << 20
    """Bytes of a segment, at least 1; a larger one is sealed, and DuckDB can read it."""
    keep_days: float | None = None
    """Days, more than 0, after which exchanges, feedback and session ends are dropped; None, as by default: never."""

    def __post_init__(self) -> None:
        if self.segment_bytes < 1:
            raise InputError(f"journal.segment_bytes: {self.segment_bytes} is not allowed; it must be at least 1")
        if self.keep_days is not None and self.keep_days <= 0:
            raise InputError(f"journal.keep_days: {self.keep_days} is not allowed; it must be more than 0")


Pending = tuple[bytes, "Future[None]"] | Callable[[], None]
"""What waits for the thread that writes: a line with its future, or something to do in turn."""


class Journal:
    """The journal of a home, opened by one process. Any number of threads may use it."""

    def __init__(self, home: Path, config: Config = Config()) -> None:
        """Open or create it; what killed processes left is mended first. `StoreError`: it cannot be written."""
        self.folder, self.config = Path(home).expanduser() / "journal", config
        make_folder(self.folder)
        recover(self.folder)
        self._lock = threading.Lock()
        self._users: dict[str, set[bytes]] = {}  # of sealed segments, by file name
        self._feedback: dict[bytes, Future[None]] = {}  # by user and idempotency id
        self._pending: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._segment: Segment | None = None
        self._closed = False
        for path in segments(self.folder):
            self._index_segment(path)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()
        for note in sorted(self.folder.glob(".forgetting-*")):
            with contextlib.suppress(Busy):
                self.forget(note.read_text(encoding="utf-8"))

    def submit(self, record: Record) -> Future[None]:
        """Hand in a record; the future is done once it is on disk. Feedback with a known id is not written again.

        The future raises `StoreError` when the disk refuses. `Busy` here when the disk is far behind; `InputError` when
        a text is no Unicode.
        """
        line = encode({"kind": record.kind, **asdict(record)})
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise Busy("the journal is closed: the server is shutting down; try again")
            if self._pending_bytes > _MOST_PENDING:
                raise Busy(f"{self._pending_bytes} bytes wait for the disk already; try again later")
            if isinstance(record, Feedback) and (known := self._first_with_id(record, done)) is not done:
                return known
            self._pending_bytes += len(line)
            self._pending.put((line, done))
        return done

    def append(self, record: Record) -> None:
        """`submit`, and wait until it is on disk."""
        self.submit(record).result()

    def records(self, *kinds: str, user: str | None = None) -> Iterator[Record]:
        """All records in order (per process that wrote them), or those of some kinds or of one user.

        `StoreError` for a damaged line of a sealed segment.
        """
        token = _token(user) if user is not None else None
        paths = [p for p in segments(self.folder) if token is None or token in self._users.get(p.name, {token})]
        return _records(paths, kinds, user)

    def find(self, response_id: str) -> Exchange | None:
        """The exchange of a response id, looked for from the newest segment backwards."""
        token = b'"id":%b' % json.dumps(response_id, ensure_ascii=False).encode(errors="replace")
        for path in reversed(segments(self.folder)):
            for _, line in lines(path, lambda line: token in line):
                record = record_of(line)
                if isinstance(record, Exchange) and record.id == response_id:
                    return record
        return None

    def seal(self) -> None:
        """End the open segment, so that DuckDB sees all that was acknowledged before."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                return
            self._pending.put(lambda: _run_for(done, self._seal))
        done.result()

    def forget(self, user: str) -> dict[str, int]:
        """Remove every record of a user; returns how many were `removed`, and how many `remaining` a search finds (0).

        If this process is killed, the next one that opens the journal ends the forgetting. `Busy`: another process that
        lives has records of the user in its open segment; ask that process.
        """
        who = hashlib.sha256(user.encode()).hexdigest()
        note, token = self.folder / f".forgetting-{who}", _token(user)
        write_atomic(note, user.encode())
        removed, touched = 0, []
        for _ in range(_ROUNDS):
            self.seal()
            with locked(self.folder / ".lock", "the journal is being rewritten"):
                matched = [p for p in segments(self.folder) if _mentions(p, token)]
                for path in (p for p in matched if p.suffix == SEALED):
                    removed += rewrite(path, lambda line: token not in line)
                    touched.append(path.name)
                    self._index_segment(path)
            if not matched:
                break
        remaining = sum(1 for p in segments(self.folder) for _ in lines(p, lambda line: token in line))
        if remaining:
            raise Busy(
                f"user {user!r} still speaks through another process: stop it or ask it to forget, then try again"
            )
        if removed:
            self.append(Forgotten(new_id("forgotten"), who, now(), removed, tuple(dict.fromkeys(touched))))
        discard(note)
        sync_folder(self.folder)
        return {"removed": removed, "remaining": remaining}

    def drop_old(self, today: datetime.datetime | None = None) -> int:
        """Drop records older than `keep_days`, but no memories or proofs; returns how many.

        It seals this process's open segment first. A segment that another process has open keeps its old records until
        that process seals it.
        """
        if self.config.keep_days is None:
            return 0
        self.seal()
        oldest = (today or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(days=self.config.keep_days)

        def keep(line: bytes) -> bool:
            fields = decode(line)
            return (
                fields is None or fields["kind"] in LASTING or datetime.datetime.fromisoformat(fields["time"]) >= oldest
            )

        removed = 0
        with locked(self.folder / ".lock", "the journal is being rewritten"):
            for path in sorted(self.folder.glob(f"*{SEALED}")):
                removed += rewrite(path, keep)
                self._index_segment(path)
        return removed

    def close(self) -> None:
        """Write what is pending, seal, stop. Appending afterwards raises `Busy`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            done: Future[None] = Future()
            self._pending.put(lambda: _run_for(done, self._seal))
        self._thread.join()
        done.result()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _first_with_id(self, record: Feedback, done: Future[None]) -> Future[None]:
        """The future of the first feedback with this user and id; if it failed, this one takes its place."""
        key = _feedback_key(record)
        first = self._feedback.get(key)
        if first is None or (first.done() and first.exception()):
            self._feedback[key] = first = done
        return first

    def _write(self) -> None:
        while not (self._closed and self._pending.empty()):
            batch = self._batch()
            if callable(batch):
                batch()
                continue
            try:
                self._append(b"".join(line for line, _ in batch))
            except (StoreError, OSError) as error:
                for _, done in batch:
                    done.set_exception(error)
            else:
                for _, done in batch:
                    done.set_result(None)

    def _batch(self) -> list[tuple[bytes, Future[None]]] | Callable[[], None]:
        """All lines that are pending, up to a limit; or something to do, once the lines before it are written."""
        first = self._pending.get()
        if callable(first):
            return first
        batch, size = [first], len(first[0])
        while size < _BATCH and not self._pending.empty():
            following = self._pending.get()
            if callable(following):
                self._pending.put(following)  # it may come later than its turn, never before what it waits for
                break
            batch.append(following)
            size += len(following[0])
        with self._lock:
            self._pending_bytes -= size
        return batch

    def _append(self, data: bytes) -> None:
        if self._segment is None:
            self._segment = Segment(self.folder)
        try:
            self._segment.write(data)
        except StoreError:
            self._seal()  # a disk that failed may write half: the next batch begins a new file
            raise
        if self._segment.size >= self.config.segment_bytes:
            self._seal()

    def _seal(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None and (sealed := segment.seal()) is not None:
            self._index_segment(sealed)

    def _index_segment(self, path: Path) -> None:
        """Note whose records a sealed segment holds, and the ids of its feedback."""
        users: set[bytes] = set()
        for _, line in _unchecked_lines(path):
            users.update(_USER.findall(line))
            if _FEEDBACK in line and isinstance(record := record_of(line), Feedback):
                self._feedback.setdefault(_feedback_key(record), _DONE)
        if path.suffix == SEALED:
            self._users[path.name] = users


def read(home: Path, *kinds: str, user: str | None = None) -> Iterator[Record]:
    """`Journal.records` for a process that only reads. A record that is just being written is left out."""
    return _records(segments(Path(home).expanduser() / "journal"), kinds, user)


def _records(paths: Sequence[Path], kinds: Sequence[str], user: str | None) -> Iterator[Record]:
    token = _token(user) if user is not None else b""
    wanted = [b'"kind":"%b"' % kind.encode() for kind in kinds] or [b""]
    for path in paths:
        for _, line in lines(path, lambda line: token in line and any(kind in line for kind in wanted)):
            record = record_of(line)
            if (not kinds or record.kind in kinds) and (user is None or getattr(record, "user", None) == user):
                yield record


def _unchecked_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines whose checksums are not looked at: opening a large journal has to be quick."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from enumerate((line for line in file if line.endswith(b"\n")), 1)


def _mentions(path: Path, token: bytes) -> bool:
    return any(token in line for _, line in _unchecked_lines(path))


def _token(user: str) -> bytes:
    return b'"user":%b' % canonical(user)


def _feedback_key(feedback: Feedback) -> bytes:
    return hashlib.sha256(canonical([feedback.user, feedback.id])).digest()[:12]


def _done_future() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


_DONE = _done_future()


def _run_for(done: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except (StoreError, OSError) as error:
        done.set_exception(error)
    else:
        done.set_result(None)
