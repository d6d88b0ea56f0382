"""The fence between tenants, proven for every table there is: in the catalogue and by trying to cross it."""

import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

import catalogue as tables_of
from backstay.kernel.db import APP, CDC, OWNER, SYSTEM

Connection = tables_of.Connection
TABLES = tables_of.tables_in_the_migrations()

# Tables that no tenant owns. Whoever adds one says why no row of it belongs to a tenant.
GLOBAL = {
    "migration": "the schema's version, one row for the whole database",
    "tenant": "the list of tenants itself; login reads it before a tenant is known",
    "worker": "a worker process serves every tenant; only our own role sees the rows of remote ones, which serve one",
    "queue": "pause and limit of a queue, which every tenant's jobs share",
    "job_limit": "limits of a queue or a job name, which every tenant's jobs share",
    "job_start": "when jobs under such a limit began; it counts over all tenants",
    "gateway_process": "a gateway process serves every tenant",
    "space": "tenants with equal definitions share an embedding space; a tenant sees those its collections use",
    "attached": "a table that the operator has attached, which may have rows of many tenants",
    "space_build": "how the build of a space's index goes; a tenant sees it with the space",
    "machine": "a state machine is the operator's code, the same for every tenant",
    "machine_state": "a part of a machine's definition",
    "machine_rule": "a part of a machine's definition",
}
# What the application may do with them. Everything else is refused to it.
APP_MAY = {
    name: {"SELECT"}
    for name in ("migration", "tenant", "queue", "space", "space_build", "machine", "machine_state", "machine_rule")
}
# Partitions are also made while Backstay runs, so their names are not in the migrations.
DATED = re.compile(r"_\d{8}$")
TENANT_TABLES = [table for table in TABLES if table not in GLOBAL]

ALICE, BOB = uuid4(), uuid4()


def test_the_tables_in_the_migrations_are_the_tables_of_the_database(catalogue: Connection) -> None:
    # the tests below are parametrised from the text of the migrations: none may be missing there
    assert {name for name in tables_of.tables(catalogue) if not DATED.search(name)} == {*TABLES, "migration"}


def test_only_the_listed_tables_have_no_tenant(catalogue: Connection) -> None:
    found = {name for name, has_tenant in tables_of.tables(catalogue).items() if not has_tenant}
    assert found == set(GLOBAL), "a table without tenant_id needs a reason in GLOBAL; a reason needs its table"


@pytest.mark.parametrize("table", TENANT_TABLES)
class TestATenantTable:
    def test_has_row_level_security_enabled_and_forced(self, catalogue: Connection, table: str) -> None:
        row = catalogue.execute(
            "select relrowsecurity, relforcerowsecurity from pg_class where oid = %s::regclass", [f"backstay.{table}"]
        ).fetchone()
        assert row == (True, True)

    def test_has_the_two_policies_and_no_other(self, catalogue: Connection, table: str) -> None:
        rows = catalogue.execute(
            "select policyname, permissive, roles::text[], cmd, qual, with_check from pg_policies"
            " where schemaname = 'backstay' and tablename = %s order by 1",
            [table],
        ).fetchall()
        assert [row[0] for row in rows] == ["system", "tenant"]
        system, tenant = rows
        assert system[1:] == ("PERMISSIVE", [SYSTEM], "ALL", "true", "true")
        assert tenant[2:4] == (["public"], "ALL")
        for condition in tenant[4:]:
            assert "tenant_id = " in condition
            assert "current_setting('backstay.tenant_id'::text, true)" in condition

    def test_has_a_unique_index_that_leads_with_the_tenant(self, catalogue: Connection, table: str) -> None:
        rows = catalogue.execute(
            "select (select attname from pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[0])"
            " from pg_index i where i.indrelid = %s::regclass and i.indisunique and i.indisvalid"
            " and i.indpred is null",
            [f"backstay.{table}"],
        ).fetchall()
        assert ("tenant_id",) in rows

    def test_requires_a_tenant(self, catalogue: Connection, table: str) -> None:
        row = catalogue.execute(
            "select attnotnull, atttypid::regtype::text from pg_attribute"
            " where attrelid = %s::regclass and attname = 'tenant_id'",
            [f"backstay.{table}"],
        ).fetchone()
        assert row == (True, "uuid")


def test_a_partition_is_fenced_like_its_table(catalogue: Connection) -> None:
    # rows of a partition can be asked for by its own name, where the policies of its parent do not hold
    rows = catalogue.execute(
        "select c.relname, c.relrowsecurity and c.relforcerowsecurity,"
        " (select array_agg(policyname::text order by policyname) from pg_policies p where p.schemaname = 'backstay'"
        "  and p.tablename = c.relname) from pg_class c"
        " where c.relnamespace = 'backstay'::regnamespace and c.relispartition and c.relkind in ('r', 'p')"
    ).fetchall()
    assert rows
    assert {(fenced, tuple(policies or ())) for _, fenced, policies in rows} == {(True, ("system", "tenant"))}


def test_the_owner_role_owns_everything_and_the_working_roles_nothing(catalogue: Connection) -> None:
    rows = catalogue.execute(
        "select relowner::regrole::text, count(*) from pg_class"
        " where relnamespace = 'backstay'::regnamespace group by 1"
        " union all select proowner::regrole::text, count(*) from pg_proc"
        " where pronamespace = 'backstay'::regnamespace group by 1"
    ).fetchall()
    assert {owner for owner, _ in rows} == {OWNER}


def test_the_working_roles_have_no_privilege_that_would_carry_them_over_the_fence(catalogue: Connection) -> None:
    rows = catalogue.execute(
        "select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles where rolname = any(%s)",
        [[APP, SYSTEM, OWNER, CDC]],
    ).fetchall()
    assert len(rows) == 4
    for role, *powers in rows:
        assert powers == [False] * 4, role
    for role in (OWNER, SYSTEM, CDC):
        member = catalogue.execute("select pg_has_role(%s, %s, 'member')", [APP, role]).fetchone()
        assert member == (False,), f"{APP} is a member of {role}: its policies would hold for the application"


@pytest.mark.parametrize("table", sorted(GLOBAL))
def test_the_application_has_only_the_listed_rights_on_a_global_table(catalogue: Connection, table: str) -> None:
    rights = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    held = {
        right
        for right in rights
        if catalogue.execute("select has_table_privilege(%s, %s, %s)", [APP, f"backstay.{table}", right]).fetchone()
        == (True,)
    }
    assert held == APP_MAY.get(table, set())


@pytest.mark.parametrize("table", [*TABLES, "migration"])
def test_no_working_role_may_truncate_or_reference_or_hang_triggers_on(catalogue: Connection, table: str) -> None:
    for role in (APP, SYSTEM, "public"):
        for right in ("TRUNCATE", "REFERENCES", "TRIGGER"):
            held = catalogue.execute(
                "select has_table_privilege(%s, %s, %s)", [role, f"backstay.{table}", right]
            ).fetchone()
            assert held == (False,), (role, right)


def test_functions_of_ours_are_not_open_to_everyone(catalogue: Connection) -> None:
    rows = catalogue.execute(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'backstay'::regnamespace"
        " and p.prorettype <> 'trigger'::regtype and has_function_privilege('public', p.oid, 'execute')"
    ).fetchall()
    assert rows == []


def test_functions_that_run_as_the_owner_pin_their_search_path(catalogue: Connection) -> None:
    rows = catalogue.execute(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'backstay'::regnamespace"
        " and p.prosecdef and not coalesce(p.proconfig::text, '') like '%search_path=%'"
    ).fetchall()
    assert rows == []


@pytest.fixture(scope="module")
def admin(shared_url: str) -> Iterator[Connection]:
    """One row of Alice and one of Bob in every tenant table, and the superuser who put them there."""
    with psycopg.connect(shared_url, autocommit=True) as connection:
        tables_of.drop_checks(connection)
        connection.execute("set session_replication_role = replica")  # no foreign keys, no append-only triggers
        leaves = connection.execute(
            "select c.relname from pg_class c where c.relnamespace = 'backstay'::regnamespace and c.relkind = 'r'"
        ).fetchall()
        for (name,) in leaves:
            if name not in GLOBAL and not DATED.search(name):
                for tenant in (ALICE, BOB):
                    tables_of.insert_sample(connection, name, tenant)
        yield connection


@pytest.fixture(scope="module")
def session(admin: Connection, shared_url: str) -> Iterator[Connection]:
    with psycopg.connect(shared_url, options=f"-c role={APP}") as connection:
        yield connection


@pytest.fixture
def application(session: Connection) -> Iterator[Connection]:
    """A transaction of the application, fenced to nobody."""
    yield session
    session.rollback()


@pytest.fixture
def alice(application: Connection) -> Connection:
    """A transaction of the application, fenced to Alice."""
    application.execute("select set_config('backstay.tenant_id', %s, true)", [str(ALICE)])
    return application


@pytest.mark.parametrize("name", TENANT_TABLES)
class TestCrossing:
    """Alice's session tries what it may not, on every tenant table."""

    def test_the_rows_are_there(self, admin: Connection, name: str) -> None:
        # without this the tests below would pass on an empty table
        assert self._tenants(admin, name) == {ALICE, BOB}

    def test_another_tenants_rows_are_invisible(self, alice: Connection, name: str) -> None:
        assert self._tenants(alice, name) == {ALICE}

    def test_nothing_is_visible_without_a_tenant_that_owns_it(self, application: Connection, name: str) -> None:
        for setting in (None, "", str(uuid4())):
            if setting is not None:
                application.execute("select set_config('backstay.tenant_id', %s, true)", [setting])
            assert self._tenants(application, name) == set(), f"with the tenant {setting!r}"
            application.rollback()

    def test_another_tenants_row_cannot_be_changed(self, alice: Connection, name: str) -> None:
        assert self._touched(alice, "update {} set tenant_id = tenant_id where tenant_id = %s", name) == 0

    def test_another_tenants_row_cannot_be_deleted(self, alice: Connection, admin: Connection, name: str) -> None:
        assert self._touched(alice, "delete from {} where tenant_id = %s", name) == 0

    def test_a_row_cannot_be_given_to_another_tenant(self, alice: Connection, name: str) -> None:
        with pytest.raises(InsufficientPrivilege):
            self._touched(alice, "update {} set tenant_id = %s", name, or_refused=False)

    def test_a_row_of_another_tenant_cannot_be_inserted(self, alice: Connection, name: str) -> None:
        with pytest.raises(InsufficientPrivilege):
            tables_of.insert_sample(alice, name, BOB)

    def test_the_owner_of_the_table_is_fenced_too(self, admin: Connection, shared_url: str, name: str) -> None:
        with psycopg.connect(shared_url, options=f"-c role={OWNER}") as connection:
            assert self._tenants(connection, name) == set()

    def _tenants(self, connection: Connection, name: str) -> set[UUID]:
        rows = connection.execute(sql.SQL("select tenant_id from backstay.{}").format(sql.Identifier(name))).fetchall()
        return {tenant for (tenant,) in rows}

    def _touched(self, connection: Connection, statement: str, name: str, *, or_refused: bool = True) -> int:
        table = sql.SQL("backstay.{}").format(sql.Identifier(name))
        try:
            return connection.execute(sql.SQL(statement).format(table), [BOB]).rowcount  # type: ignore[arg-type]
        except InsufficientPrivilege:
            if or_refused:
                return 0  # the right is missing altogether, as on append-only tables
            raise
