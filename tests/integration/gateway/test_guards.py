"""Guards see every text on both ways, plain and streamed; what they change is all that is kept."""

from typing import Any

import pytest

from backstay.gateway import AnswerGuard, Guard, GuardBlocked, GuardContext, Redactor

MAIL = "write to ada@example.org today"


async def said(stream) -> str:
    return "".join([c["choices"][0]["delta"].get("content") or "" async for c in stream if c["choices"]])


def asked(model: str, text: str = MAIL) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


class NoSecrets(Guard):
    """Blocks requests about the vault, and answers that speak of it."""

    async def request(self, text: str, context: GuardContext) -> str:
        if "open the vault" in text:
            raise GuardBlocked("the vault stays shut")
        return text

    def answer(self, context: GuardContext) -> AnswerGuard:
        class Watch(AnswerGuard):
            def feed(self, text: str) -> str:
                if "vault" in text:
                    raise GuardBlocked("not a word about it")
                return text

        return Watch()


@pytest.mark.parametrize("model", ["sim:echo", "openai:sim:echo"])
async def test_what_a_guard_takes_out_reaches_neither_provider_nor_audit(gateway, owner, provider, rows, audit, model):
    gateway.guard(Redactor())
    answer = await gateway.complete(owner, asked(model), feature="f")
    assert answer["choices"][0]["message"]["content"] == "write to [email] today"
    assert await said(gateway.stream(owner, asked(model), feature="f")) == "write to [email] today"
    assert b"ada@" not in b"".join(provider.received)
    for entry in await rows("select id from backstay.audit_entry where action like 'model.call.%'"):
        assert "ada@" not in str(await audit.payload(owner, entry["id"]))


class Leaky(Guard):
    def answer(self, context: GuardContext) -> AnswerGuard:
        return Redactor().answer(context)


@pytest.mark.parametrize("model", ["sim:echo", "openai:sim:echo?itl=1ms"])
async def test_answers_are_guarded_in_streams_as_in_wholes(gateway, owner, rows, audit, model):
    gateway.guard(Leaky())
    answer = await gateway.complete(owner, asked(model), feature="f")
    assert answer["choices"][0]["message"]["content"] == "write to [email] today"
    assert await said(gateway.stream(owner, asked(model), feature="f")) == "write to [email] today"
    for entry in await rows("select id from backstay.audit_entry where action = 'model.call.finished'"):
        assert "ada@" not in str(await audit.payload(owner, entry["id"]))


async def test_a_blocked_request_is_not_made_and_costs_nothing(gateway, owner, provider, rows):
    gateway.guard(NoSecrets())
    with pytest.raises(GuardBlocked, match="stays shut"):
        await gateway.complete(owner, asked("openai:sim:echo", "open the vault"), feature="f")
    assert provider.requests == 0
    assert await rows("select 1 as one from backstay.call") == []


async def test_a_blocked_answer_is_cut_off_and_billed(gateway, owner, rows):
    gateway.guard(NoSecrets())
    with pytest.raises(GuardBlocked, match="not a word"):
        await gateway.complete(owner, asked("openai:sim:echo", "what is in the vault"), feature="f")
    pieces = []
    with pytest.raises(GuardBlocked, match="not a word"):
        async for chunk in gateway.stream(owner, asked("openai:sim:echo?itl=5ms", "what is in the vault"), feature="f"):
            pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    assert "".join(pieces) == "what is in the"
    assert await rows("select 1 as one from backstay.hold") == []
    spent = await rows("select outcome, cost > 0 as paid from backstay.call order by started_at")
    assert [(row["outcome"], row["paid"]) for row in spent] == [("failed", True), ("failed", True)]
