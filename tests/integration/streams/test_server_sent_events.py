"""Over a real server: what goes on the wire, when, and what happens when either side leaves."""

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest

from backstay.streams import NewEvent, sse
from backstay.streams import reader as reading


def delta(text):
    return NewEvent.of("text.delta", {"text": text})


@dataclass
class Feed:
    """A client of server-sent events, by the rules of the HTML standard, as far as we use them."""

    last_id: int = 0
    comments: list[str] = field(default_factory=list)
    events: list[tuple[int, str, str]] = field(default_factory=list)

    async def follow(self, server, id, until=None):
        headers = {"last-event-id": str(self.last_id)} if self.last_id else {}
        async with server.stream("GET", f"/api/streams/{id}/events", headers=headers) as answer:
            answer.raise_for_status()
            kind = data = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments.append(line)
                elif name == "id":
                    self.last_id = int(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif not line and kind:
                    self.events.append((self.last_id, kind, data))
                    kind = data = ""
                if until is not None and until(self):
                    return answer.headers
            return answer.headers


async def test_headers_comment_and_retry_come_before_any_event(app, server, owner):
    stream = await app.streams.create(owner)
    async with server.stream("GET", f"/api/streams/{stream.id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers
        first = await asyncio.wait_for(anext(answer.aiter_text()), 20)
        assert first == f": stream {stream.id}\nretry: 2000\n\n"


async def test_a_client_that_is_cut_off_again_and_again_gets_every_event_once(app, server, owner):
    stream = await app.streams.create(owner)

    async def produce():
        async with app.streams.writer(owner.tenant, stream.id) as writer:
            for number in range(200):
                await writer.write("text.delta", {"text": str(number)})
                await asyncio.sleep(0.002)
            await writer.done()

    producing, feed = asyncio.create_task(produce()), Feed()
    while not feed.events or feed.events[-1][1] != "done":
        target = feed.last_id + 23
        await feed.follow(server, stream.id, until=lambda feed, target=target: feed.last_id >= target)
    await producing
    ids = [id for id, _, _ in feed.events]
    # a client drops the event whose block it left before the blank line, and asks for what follows its last id
    assert ids == sorted(set(ids))
    assert set(range(1, 202)) - set(ids) <= set(range(23, 202, 23))
    answer = await server.get(f"/api/streams/{stream.id}/events", headers={"last-event-id": str(feed.last_id)})
    assert answer.status_code == 204


async def test_a_quiet_stream_is_kept_open_by_pings(app, server, owner, monkeypatch):
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    stream, feed = await app.streams.create(owner), Feed()
    await feed.follow(server, stream.id, until=lambda feed: feed.comments.count(": ping") == 3)


async def test_a_reader_that_leaves_is_released_within_a_second(app, server, owner, eventually):
    streams = [await app.streams.create(owner) for _ in range(20)]

    def connected():
        return len(app.db.notifier._subscriptions.get(reading.TOPIC, ()))

    following = [asyncio.create_task(Feed().follow(server, stream.id)) for stream in streams]
    await eventually(lambda: connected() == 20)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await eventually(lambda: connected() == 0, seconds=1)


async def test_the_reader_of_a_stream_whose_database_fails_sees_a_failure_not_an_end(
    app, server, owner, monkeypatch, eventually
):
    stream = await app.streams.create(owner)
    await app.streams.append(owner, stream.id, [delta("a")])
    feed = Feed()

    async def fail(self):
        raise RuntimeError("gone")

    async def follow():
        await feed.follow(server, stream.id)

    following = asyncio.create_task(follow())
    await eventually(lambda: feed.last_id == 1)
    monkeypatch.setattr(reading.StreamReader, "_next", fail)
    app.db.notifier.notify(reading.TOPIC, str(stream.id))
    with pytest.raises(httpx.RemoteProtocolError):
        await asyncio.wait_for(following, 5)


async def test_a_reader_that_takes_nothing_is_let_go_and_delays_nobody(app, server, owner, monkeypatch, eventually):
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.3)
    stream = await app.streams.create(owner)
    host, port = server.base_url.host, server.base_url.port
    incoming, outgoing = await asyncio.open_connection(host, port, limit=1024)
    lines = [f"GET /api/streams/{stream.id}/events HTTP/1.1", "host: x"]
    lines += [f"authorization: {server.headers['authorization']}", "", ""]
    outgoing.write("\r\n".join(lines).encode())
    await incoming.readline()

    def connected():
        return len(app.db.notifier._subscriptions.get(reading.TOPIC, ()))

    await eventually(lambda: connected() == 1)
    async with app.streams.writer(owner.tenant, stream.id) as writer:
        for _ in range(150):
            await writer.write("tool.result", {"output": "x" * 200_000})
        await writer.done()  # the producer did not wait for the reader
    await eventually(lambda: connected() == 0)
    outgoing.close()
    feed = Feed()
    await feed.follow(server, stream.id)
    assert len(feed.events) == 151


async def test_a_stop_lets_readers_go_at_once_and_they_resume_elsewhere(app, server, owner, replica, eventually):
    stream = await app.streams.create(owner)
    await app.streams.append(owner, stream.id, [delta("a")])
    feed = Feed()
    following = asyncio.create_task(feed.follow(server, stream.id))
    await eventually(lambda: feed.last_id == 1)
    app.streams.release_readers()
    await asyncio.wait_for(following, 20)
    await app.streams.append(owner, stream.id, [NewEvent.of("done", {})])
    rest = [event.type async for event in replica.read(owner, stream.id, feed.last_id)]
    assert [kind for _, kind, _ in feed.events] + rest == ["text.delta", "done"]
