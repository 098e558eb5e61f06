"""The line format of journal and event log: canonical JSON, its checksum first, so that a torn or altered line shows.

In: a mapping of plain values. Out: `{"crc32":"0a1b2c3d",…}` and a newline; the checksum (CRC-32, 8 hexadecimal digits)
is over the bytes after its own comma up to the closing brace. A line is a plain JSON object, so DuckDB's `read_json`
and `jq` read it as it is. It does not know what a record means (docs/formats/journal.md).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...records import canonical

PREFIX = len(b'{"crc32":"00000000",')


def encode(fields: Mapping[str, Any]) -> bytes:
    """One line. `InputError` if a text in it is not Unicode (a lone surrogate)."""
    try:
        body = canonical(dict(fields))[1:]
    except UnicodeEncodeError as error:
        raise InputError(f"a text holds {error.object[error.start]!a}, which is no Unicode text; send UTF-8") from error
    return b'{"crc32":"%08x",%b\n' % (zlib.crc32(body), body)


def decode(line: bytes) -> dict[str, Any] | None:
    """The fields of a line (with or without its newline), the checksum left out; None if it is torn or altered."""
    line = line.rstrip(b"\n")
    body = line[PREFIX:]
    if line[:PREFIX] != b'{"crc32":"%08x",' % zlib.crc32(body):
        return None
    fields = json.loads(b"{" + body)
    return fields if isinstance(fields, dict) else None


def intact_length(data: bytes) -> int:
    """The number of leading bytes of `data` that are whole, unaltered lines."""
    end = 0
    while (newline := data.find(b"\n", end)) >= 0 and decode(data[end:newline]) is not None:
        end = newline + 1
    return end
