from datetime import timedelta

import pytest

from backstay.kernel.ids import new_id
from backstay.streams import NewEvent


async def made(client, **body):
    answer = await client.post("/api/streams", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def append(client, id, *events, epoch=None, **headers):
    body = {"events": [{"type": type, "data": data} for type, data in events]}
    if epoch is not None:
        body["epoch"] = epoch
    return await client.post(f"/api/streams/{id}/events", json=body, headers=headers)


async def test_a_producer_of_the_users_own_over_http(client):
    stream = await made(client)
    first = await append(client, stream["id"], ("text.delta", {"text": "Hel"}))
    assert first.json() == {"last_seq": 1, "epoch": 1, "cancel_requested": False}
    await client.post(f"/api/streams/{stream['id']}/cancel")
    second = await append(client, stream["id"], ("text.delta", {"text": "lo"}), epoch=1)
    assert second.json()["cancel_requested"] is True
    assert (await append(client, stream["id"], ("cancelled", {}), epoch=1)).json()["last_seq"] == 3
    late = await append(client, stream["id"], ("text.delta", {"text": "!"}), epoch=1)
    assert (late.status_code, late.json()["code"]) == (409, "stream_ended")
    body = (await client.get(stream["events_url"])).text
    assert body.count("event: ") == 3
    assert 'id: 2\nevent: text.delta\ndata: {"text":"lo"}\n\n' in body


async def test_a_producer_that_was_replaced_gets_409(client):
    stream = await made(client)
    await append(client, stream["id"], ("text.delta", {"text": "a"}))
    await append(client, stream["id"])
    answer = await append(client, stream["id"], ("text.delta", {"text": "b"}), epoch=1)
    assert (answer.status_code, answer.json()["code"]) == (409, "stream_producer_fenced")


async def test_an_append_repeated_with_its_idempotency_key_is_written_once(client):
    stream = await made(client)
    for _ in range(3):
        answer = await append(client, stream["id"], ("text.delta", {"text": "a"}), **{"idempotency-key": "k1"})
        assert answer.json()["last_seq"] == 1
    assert (await client.get(f"/api/streams/{stream['id']}")).json()["last_seq"] == 1


async def test_reconnecting_behind_the_terminal_event_is_204(client):
    stream = await made(client)
    await append(client, stream["id"], ("text.delta", {"text": "a"}), ("done", {}))
    for after in (2, 7):
        answer = await client.get(stream["events_url"], headers={"last-event-id": str(after)})
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(stream["events_url"], params={"after": 1})).text.endswith("event: done\ndata: {}\n\n")
    # the header is the newer word: an EventSource repeats its URL and adds the header
    both = await client.get(stream["events_url"], params={"after": 0}, headers={"last-event-id": "2"})
    assert both.status_code == 204


async def test_an_expired_stream_is_410_and_an_unknown_one_404(app, client, owner):
    stream = await app.streams.create(owner, expires_in=timedelta(microseconds=1))
    gone = await client.get(f"/api/streams/{stream.id}/events")
    assert (gone.status_code, gone.json()["code"]) == (410, "stream_expired")
    assert (await client.post(f"/api/streams/{stream.id}/cancel")).status_code == 410
    assert (await append(client, stream.id, ("text.delta", {"text": "a"}))).status_code == 410
    await app.streams.reap()  # which ends it
    assert (await append(client, stream.id, ("text.delta", {"text": "a"}))).json()["code"] == "stream_expired"
    unknown = await client.get(f"/api/streams/{new_id()}/events")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "stream_not_found")


async def test_another_tenant_gets_404_everywhere(client, other_client):
    stream = await made(client)
    assert (await other_client.get(f"/api/streams/{stream['id']}")).status_code == 404
    assert (await other_client.get(stream["events_url"])).status_code == 404
    assert (await other_client.post(f"/api/streams/{stream['id']}/cancel")).status_code == 404
    assert (await append(other_client, stream["id"], ("text.delta", {}))).status_code == 404


@pytest.mark.parametrize("point", ["x", "-1", "1.5", "²", "99", "9" * 19])
async def test_a_resume_point_that_no_event_had_is_422(client, point):
    stream = await made(client)
    answer = await client.get(stream["events_url"], headers={"last-event-id": point.encode()})
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"events": [{"type": "text", "data": {}}]},
        {"events": [{"type": "text.delta", "data": []}]},
        {"events": [{"type": "done"}, {"type": "text.delta"}]},
        {"events": [], "epoch": 0},
        {"event": []},
    ],
)
async def test_an_append_that_makes_no_sense_is_422(client, body):
    stream = await made(client)
    answer = await client.post(f"/api/streams/{stream['id']}/events", json=body)
    assert answer.status_code == 422


async def test_an_event_too_large_is_413(client):
    stream = await made(client)
    answer = await append(client, stream["id"], ("text.delta", {"text": "x" * 300_000}))
    assert (answer.status_code, answer.json()["code"]) == (413, "stream_event_too_large")


async def test_streams_need_a_key(client):
    stream = await made(client)
    del client.headers["authorization"]
    assert (await client.get(stream["events_url"])).status_code == 401
    assert (await client.post("/api/streams", json={})).status_code == 401


async def test_the_stream_of_a_run_names_its_run_and_takes_events_from_it_alone(app, client, owner):
    run = new_id()
    stream = await app.streams.create(owner, run=run)
    foreign = await append(client, stream.id, ("done", {}))
    assert (foreign.status_code, foreign.json()["code"]) == (409, "stream_owned_by_run")
    await app.streams.append(owner, stream.id, [NewEvent.of("done", {})])
    view = (await client.get(f"/api/streams/{stream.id}")).json()
    assert (view["run"], view["state"]) == (str(run), "done")
