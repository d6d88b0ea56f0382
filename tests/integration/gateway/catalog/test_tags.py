"""Tags that a tenant makes mandatory: set, written down, followed by every process, and asked of every call."""

import asyncio

import pytest

from backstay.app import App
from backstay.auth import Auth
from backstay.gateway import TagRequired
from backstay.kernel.errors import Forbidden, Invalid
from backstay.kernel.principal import Principal

URL = "/api/gateway/tags"
SAY = [{"role": "user", "content": "hello"}]
CHAT = ("/v1/chat/completions", {"model": "sim:echo", "messages": SAY})
RESPONSES = ("/v1/responses", {"model": "sim:echo", "input": "hello"})
MESSAGES = ("/v1/messages", {"model": "sim:echo", "messages": SAY, "max_tokens": 9})
GEMINI = ("/v1beta/models/sim:echo:generateContent", {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]})
EMBED = ("/v1/embeddings", {"model": "sim:dev-hash", "input": "hello"})
HEADERS = {"anthropic-version": "2023-06-01"}
FEATURE, USER = {"backstay-feature": "chat"}, {"backstay-user": "ada"}


async def test_they_are_set_shown_written_down_and_lifted(client, rows) -> None:
    assert (await client.get(URL)).json() == {"required": []}
    for required in (["feature", "user"], ["user"], []):
        answer = await client.put(URL, json={"required": required})
        assert (answer.status_code, answer.json()) == (200, {"required": required})
        assert (await client.get(URL)).json() == {"required": required}
    entries = await rows("select resource from backstay.audit_entry where action = 'tags.changed'")
    assert [entry["resource"] for entry in entries] == ["tags:required"] * 3


async def test_who_may_only_read_sets_none(app: App, auth: Auth, owner: Principal) -> None:
    issued = await auth.create_key(owner, "dev", "developer")
    developer = await auth.authenticate(issued.secret)
    assert (await app.catalog.tags.get(developer)).told() == []
    with pytest.raises(Forbidden, match="tags:write"):
        await app.catalog.tags.require(developer, ["user"])
    with pytest.raises(Invalid, match="'task' is no tag"):
        await app.catalog.tags.require(owner, ["task"])


@pytest.mark.parametrize("call", [CHAT, RESPONSES, MESSAGES, GEMINI, EMBED], ids=lambda call: call[0])
async def test_a_call_without_is_refused_in_its_own_format_and_consumes_nothing(
    app: App, owner: Principal, client, rows, call
) -> None:
    path, body = call
    headers = HEADERS if call is MESSAGES else {}
    await app.catalog.tags.require(owner, ["feature", "user"])
    entries = await rows("select count(*) as n from backstay.audit_entry")
    for given, missing in (({}, "feature"), (USER, "feature"), (FEATURE, "user")):
        answer = await client.post(path, json=body, headers={**headers, **given})
        assert answer.status_code == 400, answer.text
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
        assert f"the tag `{missing}`: send the header `backstay-{missing}`" in error["message"]
        if call is MESSAGES:
            assert (answer.json()["type"], error["type"]) == ("error", "invalid_request_error")
            assert error["details"]["error_code"] == "tag_required"
        elif call is GEMINI:
            assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
            assert error["details"][0]["reason"] == "TAG_REQUIRED"
        else:
            assert error["type"] == "invalid_request_error"
            assert (error["code"], error["param"]) == ("tag_required", f"backstay-{missing}")
    assert await rows("select 1 from backstay.call") == []
    assert await rows("select 1 from backstay.hold") == []
    assert await rows("select count(*) as n from backstay.audit_entry") == entries
    answer = await client.post(path, json=body, headers={**headers, **FEATURE, **USER})
    assert answer.status_code == 200, answer.text


async def test_a_stream_without_is_refused_before_it_begins(app: App, owner: Principal, client) -> None:
    await app.catalog.tags.require(owner, ["user"])
    answer = await client.post(CHAT[0], json={**CHAT[1], "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "tag_required")


async def test_the_body_and_the_key_may_give_them(app: App, auth: Auth, owner: Principal, client) -> None:
    await app.catalog.tags.require(owner, ["feature", "user"])
    body = {**CHAT[1], "metadata": {"feature": "chat"}, "user": "ada"}
    assert (await client.post(CHAT[0], json=body)).status_code == 200
    body = {**MESSAGES[1], "metadata": {"feature": "chat", "user_id": "ada"}}
    assert (await client.post(MESSAGES[0], json=body, headers=HEADERS)).status_code == 200
    issued = await auth.create_key(owner, "its own", "developer", feature="chat")
    keyed = {"authorization": f"Bearer {issued.secret}"}
    assert (await client.post(CHAT[0], json=CHAT[1], headers={**keyed, **USER})).status_code == 200
    assert (await client.post(CHAT[0], json=CHAT[1], headers=keyed)).json()["error"]["param"] == "backstay-user"


async def test_other_tenants_are_not_asked(app: App, owner: Principal, other_owner: Principal, other_client) -> None:
    await app.catalog.tags.require(owner, ["feature", "user"])
    assert (await other_client.post(CHAT[0], json=CHAT[1])).status_code == 200
    assert (await app.catalog.tags.get(other_owner)).told() == []


async def test_calls_from_python_are_asked_and_backstays_own_are_not(app: App, owner: Principal) -> None:
    await app.catalog.tags.require(owner, ["user"])
    with pytest.raises(TagRequired, match="user"):
        await app.gateway.complete(owner, CHAT[1], feature="chat")
    with pytest.raises(TagRequired, match="user"):
        await app.gateway.embed(owner, "sim:dev-hash", ["a"], feature="chat")
    assert (await app.gateway.complete(owner, CHAT[1], feature="chat", user="ada"))["model"] == "sim:echo"
    assert (await app.gateway.embed(owner, "sim:dev-hash", ["a"], feature="chat", internal=True)).vectors


async def test_another_process_asks_for_them_without_a_restart(app: App, owner: Principal, another) -> None:
    there = await another(ttl=600)
    assert (await there.of(owner.tenant)).tags.told() == []
    for required in (["feature"], []):
        await app.catalog.tags.require(owner, required)
        async with asyncio.timeout(20):
            while (await there.of(owner.tenant)).tags.told() != required:  # noqa: ASYNC110 -- another one commits it
                await asyncio.sleep(0.005)


async def test_a_transaction_that_is_rolled_back_asks_for_nothing(app: App, owner: Principal) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(owner.tenant) as tx:
            await app.catalog.tags.require(owner, ["user"], tx=tx)
            raise ZeroDivisionError
    assert (await app.catalog.of(owner.tenant)).tags.told() == []
