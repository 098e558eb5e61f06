from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.errors import NotFound, StoreError
from stillhouse.storage.blobs import Blobs
from stillhouse.storage.files import PARTIAL, hash_file, write_atomic


def partials(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PARTIAL}*"))


def test_bytes_come_back_and_are_stored_once(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "a" / "b")
    digest = blobs.put(b"hello")
    assert digest == hashlib.sha256(b"hello").hexdigest()
    assert blobs.put(b"hello") == digest
    assert blobs.get(digest) == b"hello"
    assert list(blobs) == [digest]
    assert blobs.path(digest) == tmp_path / "a" / "b" / digest[:2] / digest
    assert digest in blobs
    assert "0" * 64 not in blobs
    assert blobs.verify() == []


def test_a_file_is_stored_like_its_bytes(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    digest = blobs.put_file(tmp_path / "file")
    assert blobs.put_file(tmp_path / "file") == digest == hash_file(tmp_path / "file")
    assert blobs.get(digest) == b"x" * 3_000_000
    assert not partials(tmp_path)
    with pytest.raises(NotFound, match="no file"):
        blobs.put_file(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "ab", "A" * 64, "0" * 63 + "/"])
def test_what_is_no_digest_names_nothing(tmp_path: Path, name: str) -> None:
    blobs = Blobs(tmp_path)
    assert name not in blobs
    with pytest.raises(NotFound, match="64 lower-case hexadecimal"):
        blobs.get(name)
    blobs.remove(name)


def test_damage_is_named_and_put_heals_it(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    digest = blobs.put(b"right")
    blobs.path(digest).write_bytes(b"wrong")
    (tmp_path / "stray").write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        blobs.get(digest)
    assert len(blobs.verify()) == 2
    blobs.put(b"right")
    assert blobs.get(digest) == b"right"
    (tmp_path / "stray").unlink()
    assert blobs.verify() == []
    blobs.remove(digest)
    blobs.remove(digest)
    with pytest.raises(NotFound):
        blobs.get(digest)


def test_write_atomic_replaces_or_keeps(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(tmp_path / "folder", b"")
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(path / "below a file", b"")
    assert not partials(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files makes the operating system refuse bytes, as a full disk does."""
    script = """
import resource, sys
from pathlib import Path
from stillhouse.storage.blobs import Blobs
from stillhouse.storage.files import write_atomic
from stillhouse.errors import DiskFull
root = Path(sys.argv[1])
blobs = Blobs(root / "blobs")
write_atomic(root / "file", b"before")
(root / "big").write_bytes(bytes(200_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for act in (lambda: write_atomic(root / "file", bytes(200_000)), lambda: blobs.put(bytes(200_000)),
            lambda: blobs.put_file(root / "big")):
    try:
        act()
    except DiskFull as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.startswith("disk is full: ") for line in lines] == [True] * 3
    assert (tmp_path / "file").read_bytes() == b"before"
    assert not partials(tmp_path)
    assert list(Blobs(tmp_path / "blobs")) == []
