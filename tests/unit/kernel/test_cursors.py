"""A cursor opens only unchanged, under our key, and on the list it was made for."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backstay.kernel.crypto import Vault
from backstay.kernel.pages import InvalidCursor, PageRequest

VAULT = Vault(b"k" * 32)
PAGE = PageRequest(VAULT, 10, None, "/api/things")
part = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**63), 2**63 - 1), st.uuids())
keys = st.lists(part, min_size=1, max_size=4)


def opened(cursor: str, place: str = "/api/things", vault: Vault = VAULT) -> tuple[object, ...] | None:
    return PageRequest(vault, 10, cursor, place).after


@given(keys)
def test_it_gives_back_its_key(key: list[object]) -> None:
    expected = tuple(str(value) if isinstance(value, UUID) else value for value in key)
    assert opened(PAGE.encode(key)) == expected


def test_times_keep_their_microseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    (text,) = opened(PAGE.encode([moment])) or ("",)
    assert datetime.fromisoformat(str(text)) == moment


@given(keys, st.data())
def test_a_changed_character_closes_it(key: list[object], data: st.DataObject) -> None:
    cursor = PAGE.encode(key)
    index = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.characters(exclude_characters=cursor[index], exclude_categories=["Cs"]))
    with pytest.raises(InvalidCursor):
        opened(cursor[:index] + other + cursor[index + 1 :])


@given(keys, st.integers(0, 60), st.sampled_from(["=", "A", "!", " ", "\n", "-", "\x00", "ü"]))
def test_an_added_character_closes_it(key: list[object], index: int, added: str) -> None:
    cursor = PAGE.encode(key)
    with pytest.raises(InvalidCursor):
        opened(cursor[:index] + added + cursor[index:])


@given(keys, st.integers(1, 30))
def test_a_shortened_one_is_closed(key: list[object], less: int) -> None:
    cursor = PAGE.encode(key)
    assume(less < len(cursor))
    with pytest.raises(InvalidCursor):
        opened(cursor[:-less])


def test_it_opens_on_its_own_list_and_under_its_own_key_only() -> None:
    cursor = PAGE.encode([uuid4()])
    with pytest.raises(InvalidCursor):
        opened(cursor, place="/api/others")
    with pytest.raises(InvalidCursor):
        opened(cursor, vault=Vault(b"x" * 32))


def test_nothing_is_no_cursor() -> None:
    with pytest.raises(InvalidCursor):
        opened("")
