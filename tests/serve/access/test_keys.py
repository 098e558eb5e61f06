"""Keys: shown once, hashed at rest, ended at once, and never good for another's things."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import InputError, NotFound, StoreError
from stillhouse.serve.access.keys import LOCAL, Action, ApiKey, Keyring, Scope, allowed, stored_user
from tests.serve.typed import typed

ADMIN = ApiKey("1", "", "admin")
ACME = ApiKey("2", "", "tenant", "acme")
ALICE = ApiKey("3", "", "user", "acme", "alice")
SOLO = ApiKey("4", "", "user", "", "alice")

TABLE: list[tuple[ApiKey, str | None, Action, bool]] = [
    (ADMIN, "acme/alice", "change", True), (ADMIN, None, "metrics", True), (ADMIN, None, "admin", True),
    (LOCAL, "anybody", "ask", True), (LOCAL, None, "admin", True),
    (ACME, "acme/alice", "ask", True), (ACME, "acme/bob", "change", True), (ACME, None, "users", True),
    (ACME, "acmee/bob", "ask", False), (ACME, "alice", "ask", False), (ACME, "globex/bob", "read", False),
    (ACME, None, "metrics", False), (ACME, None, "admin", False), (ACME, "acme/alice", "metrics", False),
    (ALICE, "acme/alice", "ask", True), (ALICE, "acme/alice", "change", True), (ALICE, "acme/bob", "ask", False),
    (ALICE, "alice", "read", False), (ALICE, None, "users", False), (ALICE, None, "metrics", False),
    (ALICE, "acme/alice", "admin", False),
    (SOLO, "alice", "read", True), (SOLO, "acme/alice", "read", False), (SOLO, "Alice", "read", False),
]  # fmt: skip


@pytest.mark.parametrize(("key", "user", "action", "expected"), TABLE)
def test_who_may_do_what(key: ApiKey, user: str | None, action: Action, expected: bool) -> None:
    assert allowed(key, user, action) is expected


@pytest.mark.parametrize(
    ("key", "asked", "expected"),
    [
        (ADMIN, None, None), (ADMIN, "acme/alice", "acme/alice"), (LOCAL, "", None), (ACME, None, None),
        (ACME, "bob", "acme/bob"), (ACME, "acme/bob", "acme/bob"), (ACME, "globex/bob", "acme/globex/bob"),
        (ACME, "../globex/bob", "acme/../globex/bob"), (ALICE, None, "acme/alice"), (ALICE, "alice", "acme/alice"),
        (ALICE, "bob", "acme/bob"), (SOLO, None, "alice"), (SOLO, "bob", "bob"),
    ],
)  # fmt: skip
def test_whom_a_request_is_about(key: ApiKey, asked: str | None, expected: str | None) -> None:
    assert stored_user(key, asked) == expected


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=40))
def test_no_name_leads_out_of_a_tenant(asked: str) -> None:
    for key in (ACME, ALICE):
        user = stored_user(key, asked)
        assert user is not None
        assert user.startswith("acme/")
        if allowed(ALICE, user, "ask"):
            assert user == "acme/alice"


def test_a_key_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    assert keyring.find("sk-still-anything") is None
    secret, key = keyring.create("user", tenant="acme", user="alice", note="her phone")
    other, _ = keyring.create("admin")
    assert Keyring(tmp_path).find(secret) == key
    assert key.own_user == "acme/alice"
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), other[:21] + secret[21:], "ключ", "\ud800"):
        assert keyring.find(wrong) is None
    raw = keyring.path.read_text()
    assert secret not in raw
    assert secret.split("-", 3)[3] not in raw
    assert keyring.path.stat().st_mode & 0o077 == 0


def test_a_key_ends_at_once_or_on_its_day(tmp_path: Path) -> None:
    keyring, serving = Keyring(tmp_path), Keyring(tmp_path)
    secret, key = keyring.create("tenant", tenant="acme", days=1)
    assert serving.find(secret) == key
    assert serving.find(secret, datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)) is None
    ended = keyring.revoke(key.id)
    assert ended.revoked
    assert serving.find(secret) is None
    assert keyring.revoke(key.id) == ended
    assert [k.id for k in serving.all()] == [key.id]
    with pytest.raises(NotFound, match=r"no key 'x'"):
        keyring.revoke("x")


WRONG: list[tuple[Scope, dict[str, str]]] = [
    ("user", {}), ("tenant", {}), ("tenant", {"tenant": "a", "user": "b"}), ("admin", {"user": "a"}),
    ("user", {"user": "a", "tenant": "a/b"}), ("user", {"user": "a\0"}), ("boss", {}),  # type: ignore[list-item]
]  # fmt: skip


@pytest.mark.parametrize(("scope", "given"), WRONG)
def test_keys_that_make_no_sense(tmp_path: Path, scope: Scope, given: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Keyring(tmp_path).create(scope, tenant=given.get("tenant", ""), user=given.get("user", ""))
    with pytest.raises(InputError, match=r"days 0"):
        Keyring(tmp_path).create("admin", days=0)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"damaged"):
        Keyring(tmp_path).all()
    path.write_text(json.dumps({"format": 9, "keys": []}))
    with pytest.raises(StoreError, match=r"format 9"):
        Keyring(tmp_path).all()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = typed(capsys, "keys", "create", "--user", "alice", "--note", "phone", "--home", tmp_path)
    assert Keyring(tmp_path).find(made.out.strip())
    row = typed(capsys, "keys", "list", "--json", "--home", tmp_path).json[0]
    assert (row["user"], row["note"]) == ("alice", "phone")
    assert not {"sha256", "secret"} & set(row)
    assert "ended" in typed(capsys, "keys", "revoke", row["id"], "--home", tmp_path).out
    assert "revoked" in typed(capsys, "keys", "list", "--home", tmp_path).out
    assert typed(capsys, "keys", "create", "--home", tmp_path).line.startswith(
        "stillhouse: a key of scope 'user' needs"
    )
    assert "secret" in typed(capsys, "keys", "create", "--scope", "admin", "--json", "--home", tmp_path).json
