from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.errors import InputError, StoreError
from stillhouse.store.names import ID_FILE, LONGEST_NAME, escape_user, is_shortened, unescape_user

ids = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=128)
hostile = st.sampled_from([".", "..", "../..", "/", "a/b", "~", "%2E", "con", " ", "v1", "🦊" * 128, ".partial-x"])


@given(ids | hostile)
@settings(max_examples=300, deadline=None)
def test_every_id_has_its_own_safe_name_and_comes_back(user: str) -> None:
    name = escape_user(user)
    assert 0 < len(name.encode()) <= LONGEST_NAME
    assert set(name) <= set(string.ascii_letters + string.digits + "_-%~")
    if not is_shortened(name):
        assert unescape_user(Path("/home") / name) == user


@given(ids, ids)
@settings(max_examples=200, deadline=None)
def test_two_ids_never_share_a_name(one: str, other: str) -> None:
    assert (escape_user(one) == escape_user(other)) == (one == other)


def test_a_long_id_is_kept_in_its_folder(tmp_path: Path) -> None:
    user = "🦊" * 128
    folder = tmp_path / escape_user(user)
    folder.mkdir()
    with pytest.raises(StoreError, match="missing"):
        unescape_user(folder)
    (folder / ID_FILE).write_text("somebody else")
    with pytest.raises(StoreError, match="does not belong"):
        unescape_user(folder)
    (folder / ID_FILE).write_text(user)
    assert unescape_user(folder) == user
    assert escape_user(user) != escape_user("🦊" * 127 + "🐻")


def test_plain_ids_stay_readable() -> None:
    assert escape_user("alice_B-2") == "alice_B-2"
    assert escape_user("a.b/c") == "a%2Eb%2Fc"
    assert escape_user("..") == "%2E%2E"


@pytest.mark.parametrize("user", ["", "a" * 129, "a" * 10_000, "a\nb", "a\0", "\x7f", "\ud800", "a\u2028b"])
def test_other_ids_are_refused_with_the_rule(user: str) -> None:
    with pytest.raises(InputError, match="1 to 128 characters without control characters") as error:
        escape_user(user)
    assert len(str(error.value)) < 250
    assert not user or str(len(user)) in str(error.value)


@pytest.mark.parametrize("name", ["a.b", "%41", "%zz", "a b"])
def test_a_strange_folder_is_nobodys(name: str) -> None:
    with pytest.raises(StoreError, match="move it elsewhere"):
        unescape_user(Path("/home") / name)
