"""The text of a key: enough randomness, a shape that scanners know, a checksum that catches slips of the pen."""

import re

from hypothesis import given
from hypothesis import strategies as st

from backstay.auth import secrets

SHAPE = re.compile(r"bs_live_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}_[0-9a-f]{8}")


def test_it_has_the_documented_shape_and_no_two_are_equal() -> None:
    keys = [secrets.generate() for _ in range(500)]
    assert all(SHAPE.fullmatch(key.text) for key in keys)
    assert len({key.text for key in keys}) == len({key.prefix for key in keys}) == 500


def test_its_prefix_holds_nothing_of_the_secret() -> None:
    key = secrets.generate()
    assert key.text.startswith(key.prefix + "_")
    assert key.text.split("_")[3] not in key.prefix
    assert not secrets.mistyped(key.text)


@given(st.integers(17, 58), st.sampled_from("abcXYZ019"))
def test_a_changed_character_is_noticed(index: int, other: str) -> None:
    text = secrets.generate().text
    index = min(index, len(text) - 1)
    changed = text[:index] + other + text[index + 1 :]
    if text[index] not in ("_", other) and SHAPE.fullmatch(changed):
        assert secrets.mistyped(changed)


@given(st.text())
def test_any_other_text_is_left_to_the_database(text: str) -> None:
    assert not secrets.mistyped(text)


def test_a_preset_key_may_begin_like_ours() -> None:
    assert not secrets.mistyped("bs_my-own-admin-key")
    assert not secrets.mistyped("bs_a_b_c_d")
