from hypothesis import given
from hypothesis import strategies as st

from backstay.demo.sse import Event, Parser
from backstay.streams.models import StoredEvent
from backstay.streams.sse import PING, encode

SENT = [
    Event(1, "message.start", {"model": "sim:extract"}),
    Event(2, "text.delta", {"text": "Ü: a\nb\r\n: not a comment "}),
    Event(3, "done", {}),
]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_events_come_out_whole_however_the_body_is_cut(sizes):
    import orjson

    stored = [StoredEvent(event.id, event.type, orjson.dumps(event.data).decode()) for event in SENT]
    body = b": stream x\nretry: 2000\n\n" + encode(stored[:2]) + PING + encode(stored[2:])
    parser, found, at, turn = Parser(), [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        found += parser.feed(body[at : at + size])
        at, turn = at + size, turn + 1
    assert found == SENT
