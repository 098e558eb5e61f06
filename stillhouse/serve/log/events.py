"""The event log: one append-only log of what the system does, for others to follow.

In: facts, from any number of processes. Out: `<home>/events/<first number>.jsonl`, one event a line with a number that
rises by one. Readers ask for what came after a number, so a reader that was away misses nothing that is still kept.
Format: docs/formats/journal.md. It does not know who reads it, and keeps no text of any user.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, StoreError
from ...records import from_mapping
from ...storage.files import make_folder, sync_folder, writing
from ...storage.locks import locked
from .event_types import TYPES, Fact
from .journal_records import now
from .jsonl import decode, encode, intact_length
from .segments import rewrite

POLL_SECONDS = 0.2
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class Config:
    """How much of the log is kept."""

    file_bytes: int = 16 << 20
    """Bytes of a file, at least 1; the next event after that begins a new one."""
    keep_files: int = 16
    """Newest files that are kept, at least 1; with the default size 256 MB in all."""

    def __post_init__(self) -> None:
        for name in ("file_bytes", "keep_files"):
            if getattr(self, name) < 1:
                raise InputError(f"events.{name}: {getattr(self, name)} is not allowed; it must be at least 1")


@dataclass(frozen=True)
class Event:
    """A fact with its place in the log and its time (ISO 8601, UTC)."""

    seq: int
    time: str
    fact: Fact

    @property
    def user(self) -> str | None:
        """Whom it is about; None: nobody in particular."""
        return getattr(self.fact, "user", None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `seq`, `time`, `type` and the fields of the fact."""
        return {"seq": self.seq, "time": self.time, "type": self.fact.type, **asdict(self.fact)}

    def sse(self) -> str:
        """As a server-sent event; a browser that reconnects sends `id` back as `Last-Event-ID`."""
        return f"id: {self.seq}\nevent: {self.fact.type}\ndata: {json.dumps(self.as_dict(), ensure_ascii=False)}\n\n"


class EventLog:
    """The log of one home. Any number of threads and processes may write and read it."""

    def __init__(self, home: Path, config: Config = Config()) -> None:
        self.folder, self.config = Path(home).expanduser() / "events", config
        make_folder(self.folder)

    def append(self, *facts: Fact, sync: bool = True) -> int:
        """Log facts; returns the number of the last one. `sync=False`: progress that a power cut may lose."""
        with locked(self.folder / ".lock", "the event log is being written"):
            path, size, number = self._end()
            lines = [
                encode({"seq": number + i, "time": now(), "type": f.type, **asdict(f)}) for i, f in enumerate(facts, 1)
            ]
            if path is None or size > self.config.file_bytes:
                path = self._begin(number + 1)
            with writing(path):
                _extend(path, b"".join(lines), sync)
        return number + len(facts)

    def tail(self, after: int | None = None) -> LogReader:
        """A reader of what comes after a number; None: of what comes from now on."""
        return LogReader(self.folder, self.last() if after is None else after)

    def last(self) -> int:
        """The number of the newest event; 0 if there is none."""
        with locked(self.folder / ".lock", "the event log is being written"):
            return self._end()[2]

    def follow(self, after: int | None = None, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Events as they come, until `stop()`; looks every `POLL_SECONDS`."""
        tail = self.tail(after)
        while not stop():
            events = tail.next()
            yield from events
            if not events:
                time.sleep(POLL_SECONDS)

    def between(self, after: int, last: int) -> Iterator[Event]:
        """Events after one number up to another, oldest first."""
        tail = self.tail(after)
        while tail.after < last and (events := tail.next()):
            yield from (event for event in events if event.seq <= last)

    def forget(self, user: str) -> int:
        """Remove every event about a user; returns how many."""
        with locked(self.folder / ".lock", "the event log is being written"):
            number = self._end()[2]
            removed = sum(
                rewrite(path, lambda line: (decode(line) or {}).get("user") != user) for path in self._files()
            )
            if not self._files() or self._end()[2] < number:
                self._begin(number + 1)  # numbers are never used again
        return removed

    def _files(self) -> list[Path]:
        return _files(self.folder)

    def _begin(self, number: int) -> Path:
        path = self.folder / f"{number:012d}.jsonl"
        with writing(path):
            path.touch(mode=0o600)
            for old in self._files()[: -self.config.keep_files]:
                old.unlink()
            sync_folder(self.folder)
        return path

    def _end(self) -> tuple[Path | None, int, int]:
        """The newest file, its size and the newest number. A line that a killed writer left torn is cut off."""
        files = self._files()
        if not files:
            return None, 0, 0
        with files[-1].open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - _LONGEST_LINE))
            last = file.read()
        whole = last[: last.rfind(b"\n") + 1]
        fields = decode(whole[whole.rstrip(b"\n").rfind(b"\n") + 1 :])
        if fields is None or len(whole) < len(last):
            return self._truncated(files[-1], size) if size else (files[-1], 0, int(files[-1].stem) - 1)
        return files[-1], start + len(whole), _seq(files[-1], fields)

    def _truncated(self, path: Path, size: int) -> tuple[Path, int, int]:
        data = path.read_bytes()
        good = intact_length(data)
        path.chmod(0o600)
        with writing(path):
            os.truncate(path, good)
        fields = decode(data[data[:good].rstrip(b"\n").rfind(b"\n") + 1 : good])
        return path, good, _seq(path, fields) if fields else int(path.stem) - 1


class LogReader:
    """A reader of the log, and how far it has read. Not for two threads at once."""

    def __init__(self, folder: Path, after: int) -> None:
        self.after = after
        self._folder = folder
        self._at: tuple[Path, int, int] | None = None  # file, its inode, how far it was read

    def next(self, limit: int = 1000) -> list[Event]:
        """The events that are new since the last call, oldest first; at most `limit`."""
        events: list[Event] = []
        for path in self._due():
            events += self._read(path, limit - len(events))
            if len(events) >= limit:
                break
        return events

    def _due(self) -> Sequence[Path]:
        """The files that may hold something newer."""
        files = _files(self._folder)
        newer = [i for i, path in enumerate(files) if int(path.stem) > self.after + 1]
        return files[max(0, (newer[0] if newer else len(files)) - 1) :]

    def _read(self, path: Path, limit: int) -> list[Event]:
        events: list[Event] = []
        try:
            file = path.open("rb")
        except FileNotFoundError:  # rotated away meanwhile
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if self._at and self._at[:2] == (path, inode):
                file.seek(self._at[2])
            place = file.tell()
            for line in file:
                if len(events) >= limit or not line.endswith(b"\n"):
                    break
                place += len(line)
                event = _event(path, line)
                if event.seq > self.after:
                    events.append(event)
                    self.after = event.seq
            self._at = (path, inode, place)
        return events


def _event(path: Path, line: bytes) -> Event:
    fields = decode(line)
    if fields is None:
        raise StoreError(f"{str(path)!r} is damaged at {line[:60]!r}; restore it from a copy, or delete that line")
    kind = fields.pop("type", None)
    if kind not in TYPES:
        raise StoreError(f"{str(path)!r}: an event of type {kind!r}; this program knows {', '.join(TYPES)}: update it")
    seq, when = _seq(path, fields), fields.pop("time", "")
    fields.pop("seq")
    return Event(seq, when, from_mapping(TYPES[kind], fields))


def _seq(path: Path, fields: Mapping[str, Any]) -> int:
    if not isinstance(fields.get("seq"), int):
        raise StoreError(f"{str(path)!r}: an event without a number; another version wrote it: move the file elsewhere")
    return int(fields["seq"])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.jsonl"))


def _extend(path: Path, data: bytes, sync: bool) -> None:
    """Append all of `data` or, where the disk refuses, none of it."""
    if not path.stat().st_mode & 0o200:
        path.chmod(0o600)  # rewritten by `forget`
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(28, "No space left on device")
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
