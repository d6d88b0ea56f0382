import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway import sse
from backstay.gateway.sse import EventTooLarge, SseParser

_text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
_end = st.sampled_from(["\n", "\r\n", "\r"])


def parse(chunks) -> list[bytes]:
    parser = SseParser()
    return [data for chunk in chunks for data in parser.feed(chunk)]


@given(st.lists(st.lists(_text, min_size=1, max_size=3), max_size=6), _end, st.data())
def test_events_are_the_same_however_the_bytes_are_cut(events, end, data):
    wire = "".join(
        "".join(f": note{end}event: x{end}data: {line}{end}" for line in lines) + end for lines in events
    ).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert parse(chunks) == parse([wire]) == ["\n".join(lines).encode() for lines in events]


def test_one_byte_at_a_time():
    wire = b"data: a\r\n\r\ndata:b\r\rdata\ndata: c\n\n: ping\n\n"
    assert parse([wire[n : n + 1] for n in range(len(wire))]) == [b"a", b"b", b"\nc"]


def test_an_event_without_its_blank_line_is_the_rest():
    parser = SseParser()
    assert list(parser.feed(b"data: a\n\ndata: b")) == [b"a"]
    assert parser.rest() == b"b"
    assert parser.rest() is None


_BARE = b'{\n  "error": {\n    "code": 503,\n\n    "message": "}",\n    "status": "UNAVAILABLE"\n  }\n}'
_ERROR = b'{"error":{"code":503,"message":"}","status":"UNAVAILABLE"}}'


@pytest.mark.parametrize("bare", [_BARE, b"[" + _BARE + b"\n]", _ERROR])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("before", [b"data: a\n\n", b"data: a\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_bare_error_is_an_event_as_soon_as_it_is_whole(bare, end, before, size):
    wire = before + bare + end
    parser = SseParser()
    found = [data for at in range(0, len(wire), size) for data in parser.feed(wire[at : at + size])]
    assert found == [b"a", _ERROR]
    assert parser.rest() is None


@pytest.mark.parametrize(
    "stray", [b'{"note": 1}\n', b"{\n", b"[]\n", b"}\n", b"{ not JSON }\n", b"retry: 5\n", b"{" * 70_000]
)
def test_what_else_stands_bare_is_passed_over(stray):
    assert parse([b"data: a\n\n", stray, b"\ndata: b\n\n", _ERROR]) == [b"a", b"b", _ERROR]


def test_an_endless_event_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLarge):
        parse([b"data: " + b"x" * 60 for _ in range(3)])
    with pytest.raises(EventTooLarge):
        parse([b"data: " + b"x" * 60 + b"\n" for _ in range(3)])
