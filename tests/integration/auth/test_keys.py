"""Keys: shown once, stored as a digest, refused alike, and never worth more than their maker."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.errors import Error

from backstay.app import App
from backstay.audit import Audit
from backstay.auth import ROLES, Auth, KeyNotFound, PrincipalExists, TenantExists, UnknownRole
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import Forbidden, Invalid, Unauthorized
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from conftest import Household

PRESET = "my-own-preset-admin-key"


def another(db: Database, vault: Vault) -> Auth:
    """The auth of another process: same database, its own memory."""
    clock = ManualClock()
    return Auth(db, clock, vault, Audit(db, clock, vault))


class TestTheSecret:
    async def test_is_nowhere_in_the_database(self, auth: Auth, owner: Principal, database_url: str) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        secret = issued.secret.split("_")[3]
        async with await psycopg.AsyncConnection.connect(database_url) as admin:
            tables = await (
                await admin.execute(
                    "select c.oid::regclass::text from pg_class c"
                    " where relnamespace = 'backstay'::regnamespace and relkind = 'r'"
                )
            ).fetchall()
            for (table,) in tables:
                found = await admin.execute(
                    f"select count(*) from {table} t where t::text like %s or t::text like %s",  # type: ignore[arg-type]
                    [f"%{secret}%", f"%{secret.encode().hex()}%"],
                )
                assert await found.fetchone() == (0,), table

    async def test_is_in_the_first_answer_and_in_no_other(self, client: httpx.AsyncClient) -> None:
        made = await client.post("/api/keys", json={"name": "robot", "role": "viewer"})
        assert made.status_code == 201
        secret = made.json()["secret"]
        for path in ("/api/keys", "/api/audit/entries", "/api/events"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert secret not in answer.text
            assert secret.split("_")[3] not in answer.text

    async def test_digests_differ_between_installations(self, auth: Auth) -> None:
        assert Vault(b"a" * 32).digest("x") != Vault(b"b" * 32).digest("x")


class TestRefusal:
    async def test_unknown_mistyped_revoked_and_expired_get_the_same_answer(
        self, db: Database, vault: Vault, auth: Auth, owner: Principal
    ) -> None:
        clock = ManualClock(auth._clock.now())
        auth = Auth(db, clock, vault, Audit(db, clock, vault))
        revoked = await auth.create_key(owner, "revoked", "viewer")
        await auth.revoke_key(owner, revoked.id)
        expired = await auth.create_key(owner, "expired", "viewer", expires_at=clock.now() + timedelta(hours=1))
        assert (await auth.authenticate(expired.secret)).name == "expired"
        clock.advance(timedelta(hours=1))
        disabled = await auth.create_key(owner, "disabled", "viewer")
        async with db.tenant_tx(owner.tenant) as tx:
            await tx.execute("update backstay.principal set disabled_at = now() where name = 'disabled'")
        seen = set()
        wrong = revoked.secret[:-1] + ("0" if revoked.secret[-1] != "0" else "1")
        unknown = "bs_live_" + "a" * 8 + "_" + "b" * 32
        for secret in (
            revoked.secret,
            expired.secret,
            disabled.secret,
            wrong,
            unknown,
            "nonsense",
            "",
            "\x00",
            "ü" * 99,
        ):
            with pytest.raises(Unauthorized) as refused:
                await auth.authenticate(secret)
            seen.add((str(refused.value), refused.value.code, tuple(refused.value.headers.items())))
        assert len(seen) == 1

    async def test_a_revoked_key_stops_at_once_in_this_process(self, auth: Auth, owner: Principal) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        await auth.authenticate(issued.secret)
        await auth.revoke_key(owner, issued.id)
        with pytest.raises(Unauthorized):
            await auth.authenticate(issued.secret)

    async def test_and_also_when_it_is_used_while_the_revocation_commits(
        self, auth: Auth, db: Database, owner: Principal
    ) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        async with db.tenant_tx(owner.tenant) as tx:
            await auth.revoke_key(owner, issued.id, tx=tx)
            await auth.authenticate(issued.secret)  # still good, and remembered
        with pytest.raises(Unauthorized):
            await auth.authenticate(issued.secret)

    async def test_a_revocation_that_rolls_back_leaves_the_key_good(
        self, auth: Auth, db: Database, owner: Principal
    ) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(owner.tenant) as tx:
                await auth.revoke_key(owner, issued.id, tx=tx)
                raise ZeroDivisionError
        assert (await auth.authenticate(issued.secret)).name == "robot"

    async def test_another_process_learns_it_when_its_memory_ends(
        self, auth: Auth, db: Database, vault: Vault, owner: Principal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        elsewhere = another(db, vault)
        now = 1000.0
        monkeypatch.setattr("backstay.auth.service.time.monotonic", lambda: now)
        await elsewhere.authenticate(issued.secret)
        await auth.revoke_key(owner, issued.id)
        now += 10.1
        with pytest.raises(Unauthorized):
            await elsewhere.authenticate(issued.secret)

    async def test_a_key_of_another_tenant_cannot_be_revoked(
        self, auth: Auth, owner: Principal, other_owner: Principal
    ) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        with pytest.raises(KeyNotFound):
            await auth.revoke_key(other_owner, issued.id)
        assert (await auth.authenticate(issued.secret)).tenant == owner.tenant

    async def test_revoking_twice_keeps_the_first_time(self, auth: Auth, owner: Principal) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        await auth.revoke_key(owner, issued.id)
        (first,) = [key.revoked_at for key in await auth.keys(owner, None, 10) if key.id == issued.id]
        await auth.revoke_key(owner, issued.id)
        (second,) = [key.revoked_at for key in await auth.keys(owner, None, 10) if key.id == issued.id]
        assert first == second is not None


class TestGranting:
    @pytest.mark.parametrize("maker", sorted(ROLES))
    async def test_nobody_grants_a_role_that_has_more_than_they_have(
        self, auth: Auth, tenant: UUID, maker: str
    ) -> None:
        by = Principal(tenant, uuid4(), maker, ROLES[maker])
        for role, permissions in ROLES.items():
            allowed = all(by.may(permission) for permission in permissions)
            if allowed:
                issued = await auth.create_key(by, f"{maker} {role}", role)
                made = await auth.authenticate(issued.secret)
                assert all(by.may(permission) for permission in made.permissions)
            else:
                with pytest.raises(Forbidden, match="cannot grant"):
                    await auth.create_key(by, f"{maker} {role}", role)

    @pytest.mark.parametrize("role", ["owner", "auditor"])
    async def test_narrow_scopes_are_no_way_to_a_role_beyond_ones_own(
        self, auth: Auth, tenant: UUID, role: str
    ) -> None:
        # the principal keeps its role when it later logs in otherwise, or gets another key
        admin = Principal(tenant, uuid4(), "admin", ROLES["admin"])
        scope = "jobs:read" if role == "owner" else "audit:read"
        with pytest.raises(Forbidden, match="cannot grant"):
            await auth.create_key(admin, "sneaky", role, scopes=[scope])

    async def test_a_key_narrowed_by_scopes_grants_only_within_them(self, auth: Auth, owner: Principal) -> None:
        issued = await auth.create_key(owner, "clerk", "owner", scopes=["keys:write", "jobs:read"])
        clerk = await auth.authenticate(issued.secret)
        assert clerk.permissions == {"keys:write", "jobs:read"}
        with pytest.raises(Forbidden):
            await auth.create_key(clerk, "more", "viewer")
        with pytest.raises(Forbidden):
            await auth.create_key(clerk, "most", "owner")

    @pytest.mark.parametrize("scopes", [["*"], ["audit:*"], ["keys:*", "audit:payload"], ["nonsense:*"]])
    async def test_scopes_beyond_the_role_are_invalid(self, auth: Auth, owner: Principal, scopes: list[str]) -> None:
        with pytest.raises(Invalid, match="does not have"):
            await auth.create_key(owner, "robot", "developer", scopes=scopes)

    async def test_an_unknown_role_names_the_known_ones(self, auth: Auth, owner: Principal) -> None:
        with pytest.raises(UnknownRole, match="developer"):
            await auth.create_key(owner, "robot", "emperor")

    async def test_a_name_is_taken_once_in_a_tenant(self, auth: Auth, owner: Principal, other_owner: Principal) -> None:
        await auth.create_key(owner, "robot", "viewer")
        with pytest.raises(PrincipalExists):
            await auth.create_key(owner, "robot", "viewer")
        await auth.create_key(other_owner, "robot", "viewer")

    async def test_an_end_in_the_past_is_invalid(self, auth: Auth, owner: Principal) -> None:
        with pytest.raises(Invalid, match="passed"):
            await auth.create_key(owner, "robot", "viewer", expires_at=auth._clock.now())

    async def test_making_and_revoking_leave_evidence_without_the_secret(
        self, auth: Auth, db: Database, vault: Vault, owner: Principal
    ) -> None:
        issued = await auth.create_key(owner, "robot", "viewer")
        await auth.revoke_key(owner, issued.id)
        entries = await Audit(db, auth._clock, vault).entries(owner, limit=2)
        assert [entry.action for entry in entries] == ["key.revoked", "key.created"]
        assert all(entry.resource == f"api_key:{issued.id}" for entry in entries)
        assert issued.secret not in str(entries)

    async def test_a_key_made_in_a_transaction_goes_with_it(self, auth: Auth, db: Database, owner: Principal) -> None:
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(owner.tenant) as tx:
                issued = await auth.create_key(owner, "robot", "viewer", tx=tx)
                raise ZeroDivisionError
        with pytest.raises(Unauthorized):
            await auth.authenticate(issued.secret)


class TestTheFirstAdmin:
    async def test_one_of_two_processes_that_boot_at_once_gets_the_key(
        self, database_url: str, settings: Settings, vault: Vault
    ) -> None:
        async with Database(database_url, settings) as one, Database(database_url, settings) as two:
            for round in range(5):
                tenant = (await another(one, vault).create_tenant(f"t{round}", "T")).id
                keys = await asyncio.gather(
                    *(another(db, vault).ensure_admin(tenant, None) for db in (one, two, one, two))
                )
                (made,) = [key for key in keys if key is not None]
                admin = await another(two, vault).authenticate(made.secret)
                assert (admin.tenant, admin.permissions) == (tenant, ROLES["owner"])
                assert len(await another(one, vault).keys(admin, None, 10)) == 1

    async def test_it_leaves_evidence(self, auth: Auth, db: Database, vault: Vault, owner: Principal) -> None:
        issued = await auth.ensure_admin(owner.tenant, PRESET)
        assert issued is not None
        (entry,) = await Audit(db, auth._clock, vault).entries(owner, limit=1)
        assert (entry.action, entry.actor, entry.resource) == ("key.created", "operator", f"api_key:{issued.id}")
        assert PRESET not in str(entry)

    async def test_a_second_boot_makes_none(self, auth: Auth, tenant: UUID) -> None:
        assert await auth.ensure_admin(tenant, None) is not None
        assert await auth.ensure_admin(tenant, None) is None

    @pytest.mark.parametrize("preset", [PRESET, "bs_looks-like-one-of-ours", "with spaces in it ok", "x" * 16])
    async def test_a_preset_key_works_as_it_is(self, auth: Auth, tenant: UUID, preset: str) -> None:
        issued = await auth.ensure_admin(tenant, preset)
        assert issued is not None
        assert issued.secret == preset
        assert (await auth.authenticate(preset)).may("anything:at-all")
        assert preset not in issued.prefix

    async def test_a_preset_key_is_made_once_and_a_new_one_is_added(self, auth: Auth, tenant: UUID) -> None:
        assert await auth.ensure_admin(tenant, PRESET) is not None
        assert await auth.ensure_admin(tenant, PRESET) is None
        assert await auth.ensure_admin(tenant, PRESET + "2") is not None
        for preset in (PRESET, PRESET + "2"):
            await auth.authenticate(preset)

    async def test_a_preset_key_that_was_revoked_stays_revoked(self, auth: Auth, tenant: UUID) -> None:
        issued = await auth.ensure_admin(tenant, PRESET)
        assert issued is not None
        by = await auth.authenticate(PRESET)
        await auth.revoke_key(by, issued.id)
        assert await auth.ensure_admin(tenant, PRESET) is None
        with pytest.raises(Unauthorized):
            await auth.authenticate(PRESET)

    async def test_a_preset_key_counts_although_a_process_without_it_was_first(
        self, auth: Auth, db: Database, vault: Vault, tenant: UUID
    ) -> None:
        generated, preset = await asyncio.gather(
            another(db, vault).ensure_admin(tenant, None), auth.ensure_admin(tenant, PRESET)
        )
        assert preset is not None
        assert (await auth.authenticate(PRESET)).tenant == tenant
        assert generated is None or (await auth.authenticate(generated.secret)).tenant == tenant


class TestTenants:
    async def test_a_slug_is_taken_once(self, auth: Auth) -> None:
        await auth.create_tenant("acme", "Acme")
        with pytest.raises(TenantExists):
            await auth.create_tenant("acme", "Acme")

    @pytest.mark.parametrize("slug", ["", "Acme", "-a", "a b", "ä", "a" * 64, "a\n", "a\x00"])
    async def test_a_slug_that_is_none_is_invalid(self, auth: Auth, slug: str) -> None:
        try:
            with pytest.raises(Invalid, match="slug"):
                await auth.create_tenant(slug, "Name")
        except Error as error:
            pytest.fail(f"the database had to refuse it: {error}")

    async def test_processes_that_boot_at_once_share_the_default_tenant(self, db: Database, vault: Vault) -> None:
        made = await asyncio.gather(*(another(db, vault).ensure_default_tenant() for _ in range(4)))
        assert len({tenant.id for tenant in made}) == 1


async def test_the_list_of_keys_is_the_tenants_own(
    app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient, household: Household
) -> None:
    mine, theirs = (await client.get("/api/keys")).json(), (await other_client.get("/api/keys")).json()
    assert len(mine["items"]) == len(theirs["items"]) == 1
    assert mine["items"][0]["id"] != theirs["items"][0]["id"]
