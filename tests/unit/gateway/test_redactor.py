import asyncio
import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.guards import GuardContext
from backstay.gateway.redactor import Redactor

CONTEXT = GuardContext(uuid4(), "p", "f", None, "m")
SECRETS = {
    "email": "ada.lovelace+x@mail.example.org",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "phone": "+49 (0)30 901820-17",
}
_words = st.lists(
    st.sampled_from([*SECRETS.values(), "call", "me,", "at:", "7", "x", "A1", "no.\n", "ok"]), max_size=12
)


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_each_kind_is_taken_out(kind, secret):
    assert Redactor().redacted(f"I am {secret}, hello") == f"I am [{kind}], hello"


@pytest.mark.parametrize("text", ["4111 1111 1111 1112", "room 12 at 10:30", "v1.2.3", "2026-11-24", "a@b", "12345"])
def test_what_only_looks_alike_stays(text):
    assert Redactor().redacted(text) == text


@given(_words, st.integers(1, 9))
def test_a_stream_is_redacted_as_the_whole_is_however_it_is_cut(words, size):
    text = " ".join(words)
    watch = Redactor().answer(CONTEXT)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join([watch.feed(part) for part in parts]) + watch.rest() == Redactor().redacted(text)


def test_ordinary_words_are_not_held_back():
    watch = Redactor().answer(CONTEXT)
    assert watch.feed("The quick brown fox ") == "The quick brown fox "


def test_only_the_chosen_kinds_are_taken_out():
    text = f"{SECRETS['email']} {SECRETS['card']}"
    assert asyncio.run(Redactor(["card"]).request(text, CONTEXT)) == f"{SECRETS['email']} [card]"
    with pytest.raises(ValueError, match=re.escape("there is no name to redact")):
        Redactor(["name"])
