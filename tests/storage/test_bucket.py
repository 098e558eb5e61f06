"""Blobs in a bucket, spoken to over a socket: a local server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from stillhouse.errors import InputError, NotFound, StoreError
from stillhouse.records import Candidate
from stillhouse.storage.bucket import BucketBlobs
from stillhouse.store import Store
from stillhouse.store.layout import use_bucket
from tests.store.samples import save

URL = "s3://stillhouse-blobs/team/a"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """A client for the same server, with an empty bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="stillhouse-blobs")
    for row in client.list_objects_v2(Bucket="stillhouse-blobs").get("Contents", ()):
        client.delete_object(Bucket="stillhouse-blobs", Key=row["Key"])
    return client


def test_two_machines_share_what_one_of_them_put(s3: object, tmp_path: Path) -> None:
    one, other = BucketBlobs(tmp_path / "one", URL), BucketBlobs(tmp_path / "other", URL)
    (tmp_path / "file").write_bytes(b"a file")
    digests = [one.put(b"some bytes"), one.put(b""), one.put_file(tmp_path / "file"), one.put(b"some bytes")]
    assert [other.get(d) for d in digests] == [b"some bytes", b"", b"a file", b"some bytes"]
    assert other.path(digests[0]).read_bytes() == b"some bytes"
    assert list(other) == sorted(set(digests))
    assert digests[0] in other
    assert "0" * 64 not in other
    assert one.verify() == other.verify() == []
    other.remove(digests[0])
    assert digests[0] not in one
    for missing in (digests[0], "0" * 64, "../../etc", ""):
        with pytest.raises(NotFound):
            other.get(missing)


def test_damage_is_found_and_mended_where_it_can_be(s3: object, tmp_path: Path) -> None:
    blobs = BucketBlobs(tmp_path / "one", URL)
    digest = blobs.put(b"some bytes")
    copy = tmp_path / "one" / digest[:2] / digest
    copy.write_bytes(b"some bites")
    assert len(blobs.verify()) == 1
    assert blobs.get(digest) == b"some bytes", "a damaged copy is fetched again"
    key = f"team/a/{digest[:2]}/{digest}"
    s3.put_object(Bucket="stillhouse-blobs", Key=key, Body=b"some bites", ChecksumAlgorithm="SHA256")  # type: ignore[attr-defined]
    s3.put_object(Bucket="stillhouse-blobs", Key="team/a/notes.txt", Body=b"x")  # type: ignore[attr-defined]
    assert [line.split(": ")[1] for line in blobs.verify()] == [digest, "'team/a/notes.txt' is not named by a digest"]
    copy.unlink()
    with pytest.raises(StoreError, match="is damaged"):
        blobs.get(digest)
    assert list((tmp_path / "one" / digest[:2]).iterdir()) == [], "nothing half fetched is left"


def test_a_home_changes_over_to_a_bucket(s3: object, tmp_path: Path) -> None:
    home = tmp_path / "home"
    version = save(Store(home), user="alice", seed="1")
    assert use_bucket(home, URL) == use_bucket(home, URL) == 4
    for folder in (home / "blobs").iterdir():
        for copy in folder.iterdir():
            copy.unlink()
    store = Store(home)
    save(store, user="alice", seed="2")
    candidate = store.get(Candidate, version.candidate)
    assert store.blobs.get(candidate.adapter).startswith(b"adapter 1 alice")
    assert store.verify() == []
    counts = store.forget("alice")
    assert (counts["blobs"], counts["remaining"]) == (8, 0)
    assert list(store.blobs) == []


@pytest.mark.parametrize("url", ["", "s3://", "s3://x", "https://bucket/x", "s3://bucket/../x y", "s3://UPPER/x"])
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="is no bucket"):
        BucketBlobs(tmp_path, url)


def test_a_bucket_that_is_not_there_is_one_line(s3: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="cannot reach s3://no-such-bucket: 404"):
        BucketBlobs(tmp_path, "s3://no-such-bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="cannot reach"):
        BucketBlobs(tmp_path, URL)
