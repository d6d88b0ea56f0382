"""Provider accounts: secrets go in and never come out, they rotate while calls go on, and go nowhere they were not
given for."""

import asyncio
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from backstay.app import App
from backstay.gateway.catalog import (
    CatalogFull,
    NewAccount,
    ProviderNotFound,
    RevisionMismatch,
    SecretNeeded,
    SecretNotFound,
)
from backstay.gateway.catalog.models import MAX_SECRETS, sealing_context
from backstay.kernel import telemetry
from backstay.kernel.crypto import Unsealable
from backstay.kernel.errors import Invalid
from backstay.kernel.principal import Principal
from conftest import Household

PLANTED = "planted-secret-9f8e7d6c5b4a-3210-WXYZ"
OTHER = "another-secret-0a1b2c3d4e5f-6789-abcd"
URL = "/api/gateway/providers"


def account(secret: str | None = PLANTED, **more) -> NewAccount:
    return NewAccount(**{"kind": "openai", "secret": secret, **more})


async def good(catalog, by: Principal, name: str = "mine") -> list[str]:
    """The secrets that a call of this moment would use."""
    snapshot = await catalog.of(by.tenant)
    found = snapshot.accounts.get(name)
    now = catalog._clock.now()
    return [] if found is None else [secret.get_secret_value() for secret in snapshot.secrets(found, now)]


async def become(catalog, by: Principal, secrets: list[str]) -> None:
    """Waits until a call would use these."""
    async with asyncio.timeout(20):
        while await good(catalog, by) != secrets:  # noqa: ASYNC110 -- another instance commits it
            await asyncio.sleep(0.005)


async def test_a_secret_is_sealed_at_rest_and_opens_for_its_calls(app: App, owner: Principal, rows) -> None:
    await app.catalog.providers.put(owner, "mine", account())
    assert await good(app.catalog, owner) == [PLANTED]
    (row,) = await rows("select sealed, last4 from backstay.provider_secret")
    assert PLANTED.encode() not in bytes(row["sealed"])
    assert row["last4"] == "WXYZ"


async def test_a_sealed_secret_opens_for_no_other_tenant_account_or_place(app: App, owner: Principal, rows) -> None:
    stored = await app.catalog.providers.put(owner, "mine", account())
    (secret,) = stored.secrets
    own = (owner.tenant, "mine", secret.id)
    assert app.vault.open(secret.sealed, sealing_context(*own)).decode() == PLANTED
    for context in ((uuid4(), *own[1:]), (own[0], "other", own[2]), (*own[:2], uuid4())):
        with pytest.raises(Unsealable):
            app.vault.open(secret.sealed, sealing_context(*context))


class TestRotation:
    async def test_the_new_secret_is_used_at_once_and_the_old_one_gone(self, app: App, owner: Principal, rows) -> None:
        await app.catalog.providers.put(owner, "mine", account())
        await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER))
        assert await good(app.catalog, owner) == [OTHER]
        assert len(await rows("select 1 as one from backstay.provider_secret")) == 1

    async def test_during_an_overlap_both_are_good_the_new_one_first(self, app: App, owner: Principal) -> None:
        await app.catalog.providers.put(owner, "mine", account())
        rotated = await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER), overlap=timedelta(hours=1))
        assert await good(app.catalog, owner) == [OTHER, PLANTED]
        snapshot = await app.catalog.of(owner.tenant)
        ends_at = rotated.secrets[1].ends_at
        assert rotated.secrets[0].ends_at is None
        tick = timedelta(microseconds=1)
        assert len(snapshot.secrets(snapshot.accounts["mine"], ends_at - tick)) == 2
        assert len(snapshot.secrets(snapshot.accounts["mine"], ends_at)) == 1

    async def test_a_second_rotation_does_not_lengthen_an_overlap(self, app: App, owner: Principal) -> None:
        await app.catalog.providers.put(owner, "mine", account())
        first = await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER), overlap=timedelta(minutes=1))
        second = await app.catalog.providers.rotate(owner, "mine", SecretStr("third"), overlap=timedelta(hours=1))
        assert second.secrets[2].ends_at == first.secrets[1].ends_at

    async def test_another_process_is_told_of_it(self, app: App, owner: Principal, another) -> None:
        there = await another(ttl=600)
        await app.catalog.providers.put(owner, "mine", account())
        await become(there, owner, [PLANTED])
        await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER))
        await become(there, owner, [OTHER])

    async def test_without_a_wake_up_another_process_uses_it_when_the_time_is_up(
        self, app: App, owner: Principal, another
    ) -> None:
        there = await another(ttl=0.3, listening=False)
        await app.catalog.providers.put(owner, "mine", account())
        assert await good(there, owner) == [PLANTED]
        await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER))
        await become(there, owner, [OTHER])

    async def test_one_can_be_revoked_before_its_time(self, app: App, owner: Principal, rows) -> None:
        await app.catalog.providers.put(owner, "mine", account())
        rotated = await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER), overlap=timedelta(hours=1))
        await app.catalog.providers.revoke(owner, "mine", rotated.secrets[1].id)
        assert await good(app.catalog, owner) == [OTHER]
        left = await app.catalog.providers.revoke(owner, "mine", rotated.secrets[0].id)
        assert left.secrets == ()
        assert await rows("select 1 as one from backstay.provider_secret") == []
        with pytest.raises(SecretNotFound):
            await app.catalog.providers.revoke(owner, "mine", uuid4())

    async def test_only_so_many_overlap(self, app: App, owner: Principal) -> None:
        await app.catalog.providers.put(owner, "mine", account())
        for number in range(MAX_SECRETS - 1):
            await app.catalog.providers.rotate(owner, "mine", SecretStr(f"s{number}"), overlap=timedelta(hours=1))
        with pytest.raises(CatalogFull):
            await app.catalog.providers.rotate(owner, "mine", SecretStr("more"), overlap=timedelta(hours=1))
        await app.catalog.providers.rotate(owner, "mine", SecretStr("more"))
        assert await good(app.catalog, owner) == ["more"]

    @pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
    async def test_an_overlap_has_its_limits(self, app: App, owner: Principal, overlap: timedelta) -> None:
        with pytest.raises(Invalid):
            await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER), overlap=overlap)

    async def test_an_account_that_is_not_there_cannot_rotate(self, app: App, owner: Principal) -> None:
        with pytest.raises(ProviderNotFound):
            await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER))


class TestASecretGoesOnlyWhereItWasGivenFor:
    HERE, THERE = "https://provider.example/v1", "https://thief.example/v1"

    async def test_another_base_url_needs_it_again(self, app: App, owner: Principal) -> None:
        await app.catalog.providers.put(owner, "mine", account(base_url=self.HERE))
        for changed in ({"base_url": self.THERE}, {"base_url": None}, {"base_url": self.HERE, "kind": "vllm"}):
            with pytest.raises(SecretNeeded):
                await app.catalog.providers.put(owner, "mine", account(None, **changed))
        stored = await app.catalog.providers.get(owner, "mine")
        assert (stored.base_url, stored.kind) == (self.HERE, "openai")
        await app.catalog.providers.put(owner, "mine", account(OTHER, base_url=self.THERE))
        assert await good(app.catalog, owner) == [OTHER]

    async def test_other_options_do_not(self, app: App, owner: Principal) -> None:
        await app.catalog.providers.put(owner, "mine", account(base_url=self.HERE))
        await app.catalog.providers.put(
            owner, "mine", account(None, base_url=f"{self.HERE}/", options={"region": "eu"})
        )
        assert await good(app.catalog, owner) == [PLANTED]
        assert (await app.catalog.of(owner.tenant)).accounts["mine"].options == {"region": "eu"}


class TestRefused:
    async def test_what_the_guard_refuses(self, app: App, owner: Principal, rows) -> None:
        with pytest.raises(Invalid, match="leads inside"):
            await app.catalog.providers.put(owner, "mine", account(base_url="http://169.254.169.254/v1"))
        assert await rows("select 1 as one from backstay.provider_account") == []

    @pytest.mark.parametrize("url", ["https://127.0.0.1", "https://10.1.2.3/v1", "https://[::1]", "http://192.0.2.1"])
    async def test_addresses_inside_and_plain_http_by_the_guard_that_stands(self, settings, owner, url: str) -> None:
        async with App(settings) as plain:
            with pytest.raises(Invalid):
                await plain.catalog.providers.put(owner, "mine", account(base_url=url))
            await plain.catalog.providers.put(owner, "mine", account())

    async def test_a_kind_that_nobody_knows(self, app: App, owner: Principal) -> None:
        with pytest.raises(Invalid, match="anthropic, azure"):
            await app.catalog.providers.put(owner, "mine", account(kind="openia"))

    @pytest.mark.parametrize("name", ["sim", "ft"])
    async def test_a_name_that_means_something_else(self, app: App, owner: Principal, name: str) -> None:
        with pytest.raises(Invalid, match="choose another"):
            await app.catalog.providers.put(owner, name, account())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"base_url": "ftp://provider.example"},
            {"base_url": "provider.example"},
            {"base_url": "https://"},
            {"base_url": "https://user:pass@provider.example"},
            {"base_url": "https://provider.example?key=1"},
            {"base_url": "https://provider.example#x"},
            {"base_url": "https://provider.example:99999"},
            {"base_url": "https://[::1"},
            {"base_url": "https://a b.example"},
            {"base_url": "https://ä.example"},
            {"secret": ""},
            {"secret": " space-around "},
            {"secret": "line\r\nbreak: yes"},
            {"secret": "schlüssel"},
            {"secret": "x" * 20_000},
            {"secret": '{"type": "half'},
            {"options": {"api_key": "x"}},
            {"options": {"Authorization": "x"}},
            {"options": {"headers": [{"x-api-key": "x"}]}},
            {"options": []},
            {"optoins": {}},
        ],
    )
    def test_what_is_no_account(self, wrong) -> None:
        with pytest.raises(ValidationError) as caught:
            account(**wrong)
        assert PLANTED not in str(caught.value)
        assert PLANTED not in repr(caught.value)

    def test_credentials_that_are_json_are_taken(self) -> None:
        text = json.dumps({"type": "service_account", "private_key": "-----BEGIN\nline\n"}, indent=1)
        assert account(text).secret == SecretStr(text)

    async def test_options_that_no_database_can_hold(self, app: App, owner: Principal) -> None:
        for options in ({"a": "\x00"}, {"a": "\ud800"}, {"a": 2**80}):
            with pytest.raises(Invalid):
                await app.catalog.providers.put(owner, "mine", account(options=options))

    async def test_a_change_of_what_somebody_else_has_changed(self, app: App, owner: Principal) -> None:
        first = await app.catalog.providers.put(owner, "mine", account())
        await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER))
        with pytest.raises(RevisionMismatch):
            await app.catalog.providers.put(owner, "mine", account(), revision=first.revision)
        with pytest.raises(RevisionMismatch):
            await app.catalog.providers.delete(owner, "mine", revision=first.revision)
        with pytest.raises(RevisionMismatch):
            await app.catalog.providers.put(owner, "none", account(), revision=1)
        assert await good(app.catalog, owner) == [OTHER]


@pytest.mark.parametrize(("secret", "shown"), [("short-one", ""), ("just-enough!", "ugh!"), (PLANTED, "WXYZ")])
async def test_of_a_short_secret_nothing_is_shown(app: App, owner: Principal, secret: str, shown: str) -> None:
    stored = await app.catalog.providers.put(owner, "mine", account(secret))
    assert stored.secrets[0].last4 == shown


async def test_a_rolled_back_rotation_leaves_the_old_secret(app: App, owner: Principal) -> None:
    await app.catalog.providers.put(owner, "mine", account())
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(owner.tenant) as tx:
            await app.catalog.providers.rotate(owner, "mine", SecretStr(OTHER), tx=tx)
            raise ZeroDivisionError
    assert await good(app.catalog, owner) == [PLANTED]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, at the lowest level."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    telemetry.configure_logging("debug", "json")
    yield written
    monkeypatch.undo()
    telemetry.configure_logging("info", "json")


class TestHttp:
    """The whole life of an account over the API, with an eye on every byte that comes back."""

    async def test_no_answer_log_error_text_or_entry_shows_a_secret(
        self, app: App, client, household: Household, rows, log: io.StringIO
    ) -> None:
        answers = []

        async def ask(method: str, path: str, status: int, **more) -> dict:
            answer = await client.request(method, path, **more)
            answers.append(f"{answer.headers} {answer.text}")
            assert answer.status_code == status, answer.text
            return answer.json() if answer.content else {}

        body = {"kind": "azure", "base_url": "https://acme.example", "options": {"api_version": "1"}, "secret": PLANTED}
        made = await ask("PUT", f"{URL}/mine", 200, json=body)
        assert (made["base_url"], made["secrets"][0]["last4"]) == ("https://acme.example", "WXYZ")
        assert set(made["secrets"][0]) == {"id", "last4", "set_at", "ends_at"}
        await ask("PUT", f"{URL}/mine", 200, json=body | {"secret": OTHER})
        rotated = await ask("POST", f"{URL}/mine/rotate", 200, json={"secret": PLANTED, "overlap_seconds": 60})
        assert len(rotated["secrets"]) == 2
        key = {"idempotency-key": "once"}
        for _ in range(2):
            again = {"secret": PLANTED, "overlap_seconds": 60}
            assert len((await ask("POST", f"{URL}/mine/rotate", 200, json=again, headers=key))["secrets"]) == 3
        await ask("GET", URL, 200)
        await ask("GET", f"{URL}/mine", 200)
        # Mistakes with the secret in the middle of them.
        await ask("PUT", f"{URL}/mine", 422, json=body | {"kind": "nobody"})
        await ask("PUT", f"{URL}/mine", 422, json=body | {"secret": f"{PLANTED}\n"})
        await ask("PUT", f"{URL}/mine", 422, json=body | {"secret": [PLANTED]})
        await ask("PUT", f"{URL}/mine", 422, json=body | {"base_url": "http://169.254.169.254"})
        await ask("PUT", f"{URL}/mine", 412, json=body, headers={"if-match": "99"})
        await ask("PUT", f"{URL}/mine", 422, json=body | {"unknown": PLANTED})
        half, kind = json.dumps(body)[:-1], {"content-type": "application/json"}
        await ask("PUT", f"{URL}/mine", 400, content=half, headers=kind)
        await ask("POST", f"{URL}/none/rotate", 404, json={"secret": PLANTED})
        await ask("DELETE", f"{URL}/mine/secrets/{rotated['secrets'][0]['id']}", 204)
        await ask("GET", "/api/audit/entries", 200)
        by = await app.auth.authenticate(household.key)
        payloads = [await app.audit.payload(by, e.id) for e in await app.audit.entries(by) if e.has_payload]
        await ask("DELETE", f"{URL}/mine", 204)
        snapshot = await app.catalog.of(by.tenant)
        told = [str(payloads), repr(snapshot), str(await rows("select metadata, resource from backstay.audit_entry"))]
        told += [repr(await app.catalog.providers.put(by, "mine", account())), repr(await app.catalog.of(by.tenant))]
        stored = await rows("select row_to_json(s)::text as text from backstay.provider_secret s")
        for text in [*answers, *told, str(stored), log.getvalue()]:
            assert PLANTED not in text
            assert OTHER not in text
        assert len(payloads) == 2

    async def test_the_list_has_pages_by_name(self, client) -> None:
        for name in ("c", "a", "b-2", "b.1"):
            assert (await client.put(f"{URL}/{name}", json={"kind": "openai"})).status_code == 200
        first = (await client.get(URL, params={"limit": 3})).json()
        rest = (await client.get(URL, params={"limit": 3, "cursor": first["next_cursor"]})).json()
        assert [item["name"] for item in first["items"] + rest["items"]] == ["a", "b-2", "b.1", "c"]
        assert rest["next_cursor"] is None

    async def test_every_change_is_in_the_audit(self, app: App, client, owner: Principal) -> None:
        await client.put(f"{URL}/mine", json={"kind": "openai", "secret": PLANTED})
        changed = (await client.put(f"{URL}/mine", json={"kind": "openai", "options": {"a": 1}})).json()
        await client.post(f"{URL}/mine/rotate", json={"secret": OTHER, "overlap_seconds": 5})
        await client.delete(f"{URL}/mine/secrets/{changed['secrets'][0]['id']}")
        await client.delete(f"{URL}/mine")
        entries = [e for e in await app.audit.entries(owner) if e.resource == "provider:mine"]
        assert [e.action for e in reversed(entries)] == [
            "provider.created",
            "provider.changed",
            "provider.rotated",
            "provider.revoked",
            "provider.deleted",
        ]
        payload = await app.audit.payload(owner, entries[-2].id)
        assert (payload["before"]["options"], payload["after"]["options"]) == ({}, {"a": 1})
