"""NOTIFY carries less than 8,000 bytes: wake-ups are packed so that every payload fits and none is lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backstay.kernel.notify import note_line, payloads

LIMIT = 8_000  # bytes, of Postgres
topics = st.from_regex(r"[a-z]{1,30}", fullmatch=True)
keys = st.text(max_size=400)


@given(st.lists(st.tuples(topics, keys), max_size=300))
def test_every_line_arrives_once_in_payloads_that_fit(notes: list[tuple[str, str]]) -> None:
    lines = [note_line(topic, key) for topic, key in notes]
    packed = list(payloads("origin", lines))
    assert all(len(payload.encode("utf-8", "surrogatepass")) < LIMIT for payload in packed)
    assert all(payload.split("\n")[0] == "origin" for payload in packed)
    assert [line for payload in packed for line in payload.split("\n")[1:]] == lines


@given(st.lists(st.tuples(topics, keys), min_size=1, max_size=300))
def test_no_payload_could_have_taken_the_next_ones_first_line(notes: list[tuple[str, str]]) -> None:
    packed = list(payloads("origin", [note_line(topic, key) for topic, key in notes]))
    for payload, following in pairwise(packed):
        assert len(payload.encode()) + 1 + len(following.split("\n")[1].encode()) > LIMIT - 201


@given(topics, keys)
def test_a_line_is_one_line_and_keeps_its_topic(topic: str, key: str) -> None:
    line = note_line(topic, key)
    assert "\n" not in line
    assert line.partition(" ")[0] == topic
