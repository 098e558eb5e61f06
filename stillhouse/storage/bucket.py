"""Blobs in a bucket of an S3-compatible object store; a folder keeps copies of those that were used here.

In: `s3://bucket/prefix`. Out: what `Blobs` promises, with the bucket as the truth: a blob is put once the bucket has
it, under `prefix/ab/abcdef…`, and the store itself checks its SHA-256 on arrival. A copy is checked when it is fetched;
a damaged one is fetched again. Endpoint, region and credentials are found as boto3 finds them (`AWS_ENDPOINT_URL_S3`,
`AWS_PROFILE`, an instance's role …). It does not know what the bytes mean, and deletes no bucket's old versions.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError, NotFound, StoreError
from .blobs import DIGEST, Blobs
from .files import discard, hash_file, make_folder, new_partial, sync_folder, writing

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9/_.=-]*))?")
_ABSENT = {"404", "NoSuchKey", "NotFound"}


class BucketBlobs(Blobs):
    """Bytes by digest in a bucket. Any number of machines may use it at once."""

    def __init__(self, root: Path, url: str) -> None:
        """`root` holds the copies. `InputError`: it is no address; `StoreError`: it cannot be reached."""
        super().__init__(root)
        match = _URL.fullmatch(url)
        if match is None:
            raise InputError(f"{url[:200]!r} is no bucket: expected s3://BUCKET or s3://BUCKET/PREFIX")
        self.url, self._bucket, self._prefix = url, match["bucket"], (match["prefix"] or "").strip("/")
        self._client = _client()
        with self._translated_errors("reach"):
            self._client.head_bucket(Bucket=self._bucket)

    def put(self, data: bytes) -> str:
        """Store `data`; returns its digest once the bucket has it."""
        digest = super().put(data)
        self._send(digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes; returns their digest once the bucket has them."""
        digest = super().put_file(path)
        self._send(digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes; a damaged copy is fetched again. `NotFound`; `StoreError` if the bucket's own are damaged."""
        try:
            return super().get(digest)
        except NotFound:
            raise
        except StoreError:
            discard(self.root / digest[:2] / digest)
            return super().get(digest)

    def path(self, digest: str) -> Path:
        """A copy here, fetched if there is none. `NotFound` if the bucket does not have it either."""
        with contextlib.suppress(NotFound):
            return super().path(digest)
        if not DIGEST.fullmatch(digest):
            return super().path(digest)
        return self._fetch(digest)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str) and DIGEST.fullmatch(digest) is not None and self._head(digest) is not None

    def __iter__(self) -> Iterator[str]:
        """All digests in the bucket, sorted."""
        yield from sorted(name for _, name in self._keys() if DIGEST.fullmatch(name))

    def verify(self) -> list[str]:
        """Problems of the copies and of the bucket: names that are no digests, checksums that differ from the name."""
        problems = super().verify()
        for key, name in self._keys():
            if not DIGEST.fullmatch(name) or key != self._key(name):
                problems.append(f"{self.url}: {key!r} is not named by a digest")
            elif (self._head(name) or {}).get("ChecksumSHA256") not in (None, _checksum(name)):
                problems.append(f"{self.url}: {name}: content does not match its digest")
        return problems

    def remove(self, digest: str) -> None:
        """Delete a blob and the copy here; copies on other machines stay until those forget."""
        if DIGEST.fullmatch(digest):
            with self._translated_errors("delete from"):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(digest))
            discard(self.root / digest[:2] / digest)

    def _send(self, digest: str) -> None:
        if self._head(digest) is not None:
            return
        with super().path(digest).open("rb") as file, self._translated_errors("write to"):
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(digest), Body=file, ChecksumSHA256=_checksum(digest)
            )

    def _fetch(self, digest: str) -> Path:
        """A copy of the bucket's blob: partial file, checked, renamed."""
        target = self.root / digest[:2] / digest
        make_folder(target.parent)
        partial = new_partial(target.parent)
        try:
            with self._translated_errors("read from"), writing(partial):
                response = self._client.get_object(Bucket=self._bucket, Key=self._key(digest))
                with partial.open("xb") as file:
                    for chunk in response["Body"].iter_chunks(1 << 20):
                        file.write(chunk)
            if hash_file(partial) != digest:
                raise StoreError(f"{self.url}: blob {digest[:12]} is damaged: make it again")
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            discard(partial)
        return target

    def _head(self, digest: str) -> dict[str, Any] | None:
        """The bucket's metadata of a blob; None if it has no such blob."""
        try:
            with self._translated_errors("ask"):
                return dict(
                    self._client.head_object(Bucket=self._bucket, Key=self._key(digest), ChecksumMode="ENABLED")
                )
        except NotFound:
            return None

    def _keys(self) -> Iterator[tuple[str, str]]:
        """(key, last part of it) of everything below the prefix."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        with self._translated_errors("list"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for row in page.get("Contents", ()):
                    yield row["Key"], row["Key"].rsplit("/", 1)[-1]

    def _key(self, digest: str) -> str:
        return "/".join(part for part in (self._prefix, digest[:2], digest) if part)

    @contextlib.contextmanager
    def _translated_errors(self, verb: str) -> Iterator[None]:
        """Raise errors of boto3 as errors of ours; `verb` says what failed."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT and verb != "reach":
                raise NotFound(f"{self.url} has no such blob") from None
            raise StoreError(
                f"cannot {verb} {self.url}: {code or error}; check the bucket and its permissions"
            ) from error
        except BotoCoreError as error:
            raise StoreError(f"cannot {verb} {self.url}: {error}; check AWS_ENDPOINT_URL_S3 and credentials") from error


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'stillhouse[s3]'") from None
    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10))


def _checksum(digest: str) -> str:
    """A SHA-256 as S3 writes it."""
    return base64.b64encode(bytes.fromhex(digest)).decode()
