"""Migrations go up, down and up again to the same schema; what goes wrong stops at a known place with a clear word."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

import catalogue
from backstay.kernel import migrate
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.migrate import (
    Irreversible,
    Migration,
    MigrationBlocked,
    MigrationFailed,
    Migrations,
    UnknownSchema,
    history,
)

HISTORY = history()
TENANT = uuid4()


def schema(url: str) -> dict[str, list[str]]:
    with psycopg.connect(url) as connection:
        return catalogue.dump(connection)


def step(number: str, up: str, down: str | None = "select 1") -> Migration:
    return Migration(number, "test", "expand", up, down, None if down else "it destroys data")


class TestOurHistory:
    def test_up_down_up_leaves_the_same_schema(self, empty_url: str) -> None:
        migrations = Migrations(empty_url)
        assert migrations.up() == len(HISTORY)
        first = schema(empty_url)
        assert len(first["columns"]) > 50
        migrations.down()
        assert [line for line in schema(empty_url)["relations"] if not line.startswith("migration")] == []
        assert schema(empty_url)["functions"] == []
        assert migrations.current() is None
        assert migrations.up() == len(HISTORY)
        again = schema(empty_url)
        for part, lines in first.items():
            assert again[part] == lines, part

    def test_each_step_down_and_up_leaves_the_same_schema(self, empty_url: str) -> None:
        migrations = Migrations(empty_url)
        before: dict[str, list[str]] | None = None
        for migration in HISTORY:
            assert migrations.up(migration.number) == 1
            after = schema(empty_url)
            if before is not None:
                previous = HISTORY[HISTORY.index(migration) - 1].number
                migrations.down(previous)
                assert schema(empty_url) == before, f"{migration.name} does not take back all that it made"
                assert migrations.up(migration.number) == 1
                assert schema(empty_url) == after, migration.name
            before = after

    def test_the_way_back_works_with_rows_in_every_table(self, empty_url: str) -> None:
        migrations = Migrations(empty_url)
        migrations.up()
        with psycopg.connect(empty_url, autocommit=True) as connection:
            catalogue.drop_checks(connection)
            connection.execute("set session_replication_role = replica")
            for table, has_tenant in catalogue.tables(connection).items():
                if has_tenant and not re.search(r"_\d{8}$", table):  # a dated partition takes only its day
                    catalogue.insert_sample(connection, table, TENANT)
        migrations.down()
        assert migrations.current() is None

    def test_tables_that_were_made_at_run_time_go_too(self, empty_url: str) -> None:
        migrations = Migrations(empty_url)
        migrations.up()
        with psycopg.connect(empty_url, autocommit=True) as connection:
            connection.execute(
                "select backstay.create_space_table(backstay.take_space('docs', 'sim:dev-hash', '1', now()), 8)"
            )
            connection.execute("select backstay.keep_job_partitions(current_date + 30, 2, current_date - 2)")
        migrations.down()
        with psycopg.connect(empty_url) as connection:
            assert set(catalogue.tables(connection)) == {"migration"}

    def test_a_second_up_has_nothing_to_do(self, empty_url: str) -> None:
        Migrations(empty_url).up()
        assert Migrations(empty_url).up() == 0
        assert Migrations(empty_url).pending() == []

    def test_every_file_is_owned_by_the_owner_role_alone(self, empty_url: str) -> None:
        Migrations(empty_url).up()
        with psycopg.connect(empty_url) as connection:
            rows = connection.execute(
                "select distinct relowner::regrole::text from pg_class where relnamespace = 'backstay'::regnamespace"
            ).fetchall()
        assert rows == [("backstay_owner",)]

    @pytest.mark.parametrize("migration", HISTORY, ids=lambda migration: migration.name)
    def test_each_is_declared(self, migration: Migration) -> None:
        assert migration.phase in ("expand", "contract")
        assert migration.down or migration.irreversible


class TestTheUnknown:
    def test_a_schema_of_a_later_release_is_not_touched(self, empty_url: str) -> None:
        later = [*HISTORY, step("9999", "select 1")]
        Migrations(empty_url, later).up()
        before = schema(empty_url)
        for act in (Migrations(empty_url).pending, Migrations(empty_url).up):
            with pytest.raises(UnknownSchema, match=r"9999.*deploy"):
                act()
        assert schema(empty_url) == before

    @pytest.mark.parametrize("direction", ["up", "down"])
    def test_an_unknown_target_is_refused(self, empty_url: str, direction: str) -> None:
        migrations = Migrations(empty_url)
        with pytest.raises(ConfigurationError, match="no migration 4711"):
            getattr(migrations, direction)("4711")

    def test_a_step_without_a_way_back_stays(self, empty_url: str) -> None:
        migrations = Migrations(empty_url, [step("0001", "select 1"), step("0002", "select 1", down=None)])
        migrations.up()
        with pytest.raises(Irreversible, match="it destroys data"):
            migrations.down()
        assert migrations.current() == "0002"


class TestFailure:
    def test_leaves_the_earlier_ones_applied_and_names_the_culprit(self, empty_url: str) -> None:
        good, bad, never = (
            step("0001", "create table backstay.good (id int)"),
            step("0002", "create table backstay.half (id int); select nonsense"),
            step("0003", "create table backstay.never (id int)"),
        )
        seen: list[str] = []
        with pytest.raises(MigrationFailed) as failed:
            Migrations(empty_url, [good, bad, never]).up(on_step=seen.append)
        assert "0002_test" in str(failed.value)
        assert "nonsense" in str(failed.value)
        assert seen == ["0001_test"]
        assert self._tables(empty_url) == {"good"}
        assert Migrations(empty_url, [good, bad, never]).current() == "0001"
        mended = Migrations(empty_url, [good, step("0002", "create table backstay.half (id int)"), never])
        assert mended.up() == 2

    def test_a_failing_way_back_leaves_the_step_applied(self, empty_url: str) -> None:
        migrations = Migrations(empty_url, [step("0001", "create table backstay.good (id int)", down="drop nonsense")])
        migrations.up()
        with pytest.raises(MigrationFailed, match="0001_test"):
            migrations.down()
        assert self._tables(empty_url) == {"good"}
        assert migrations.current() == "0001"

    def _tables(self, url: str) -> set[str]:
        with psycopg.connect(url) as connection:
            return set(catalogue.tables(connection)) - {"migration"}


class TestLocks:
    STEPS = (
        step("0001", "create table backstay.busy (id int)"),
        step("0002", "alter table backstay.busy add column more int"),
    )

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(migrate, "_LOCK_TIMEOUT", 0.05)
        monkeypatch.setattr(migrate, "_LOCK_PAUSE", 0.01)

    def test_a_busy_table_is_tried_again_until_it_is_free(
        self, empty_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrate, "_LOCK_ATTEMPTS", 1_000)
        Migrations(empty_url, [*self.STEPS]).up("0001")
        tried = threading.Event()
        monkeypatch.setattr(migrate.time, "sleep", lambda _: tried.set())
        with psycopg.connect(empty_url) as busy:
            busy.execute("lock table backstay.busy in access share mode")
            ran: list[int] = []
            runner = threading.Thread(target=lambda: ran.append(Migrations(empty_url, [*self.STEPS]).up()))
            runner.start()
            assert tried.wait(30), "it did not give way"
            busy.rollback()
            runner.join(30)
        assert ran == [1]

    def test_a_table_that_stays_busy_is_given_up_with_a_mend(
        self, empty_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrate, "_LOCK_ATTEMPTS", 2)
        migrations = Migrations(empty_url, [*self.STEPS])
        migrations.up("0001")
        with psycopg.connect(empty_url) as busy:
            busy.execute("lock table backstay.busy in access share mode")
            with pytest.raises(MigrationBlocked, match=r"0002_test.*pg_stat_activity"):
                migrations.up()
        assert migrations.current() == "0001"
        assert migrations.up() == 1


def test_readers_wait_three_seconds_at_most_behind_a_migration() -> None:
    assert migrate._LOCK_TIMEOUT == 3.0


class TestTwoAtOnce:
    PROGRAM = "import sys; from backstay.kernel.migrate import Migrations; print(Migrations(sys.argv[1]).up())"

    def test_both_processes_end_well_and_each_step_runs_once(self, empty_url: str) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", self.PROGRAM, empty_url],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        ends = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], ends
        assert sum(int(out) for out, _ in ends) == len(HISTORY)
        assert Migrations(empty_url).pending() == []


class TestFiles:
    """What a migration's files must say. Each test writes a package of its own."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], str]:
        def write(contents: dict[str, str]) -> str:
            name = f"steps_{tmp_path.name.replace('-', '_')}"
            place = tmp_path / name
            place.mkdir()
            (place / "__init__.py").touch()
            for file, content in contents.items():
                (place / file).write_text(content, encoding="utf-8")
            monkeypatch.syspath_prepend(str(tmp_path))
            return name

        return write

    def test_are_read_in_the_order_of_their_numbers(self, package: Callable[[dict[str, str]], str]) -> None:
        name = package(
            {
                "0010_b.up.sql": "-- phase: contract\n-- irreversible: gone\nselect 1",
                "0002_a.up.sql": "-- phase: expand\nselect 1",
                "0002_a.down.sql": "select 2",
            }
        )
        assert [(found.name, found.phase) for found in history(name)] == [("0002_a", "expand"), ("0010_b", "contract")]

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({"0001_a.up.sql": "select 1", "0001_a.down.sql": ""}, "does not say `-- phase"),
            ({"0001_a.up.sql": "-- phase: soon\n", "0001_a.down.sql": ""}, "does not say `-- phase"),
            ({"0001_a.up.sql": "-- phase: expand\n"}, "no .down.sql"),
            (
                {f"0001_{room}.{way}.sql": "-- phase: expand\n" for room in "ab" for way in ("up", "down")},
                "two migrations have the number 0001",
            ),
            ({"1_a.up.sql": "-- phase: expand\n"}, "must be called like"),
            ({"0001_a.sql": "-- phase: expand\n"}, "must be called like"),
            ({"0001-a.up.sql": "-- phase: expand\n"}, "must be called like"),
        ],
    )
    def test_that_say_too_little_are_refused(
        self, package: Callable[[dict[str, str]], str], contents: dict[str, str], message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            history(package(contents))
