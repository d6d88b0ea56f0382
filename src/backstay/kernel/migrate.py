"""Versioned, reversible migrations: plain `.up.sql` / `.down.sql` pairs, run by Alembic.

Every file starts with comment lines that declare it: `-- phase: expand` or `-- phase: contract`, and
`-- irreversible: reason` where there is no way back (then the `.down.sql` is left out).
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql as pgsql

from .db import OWNER
from .errors import ConfigurationError, Conflict, Unavailable
from .roles import SCHEMA

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

_FILE = re.compile(r"^(?P<number>\d{4})_(?P<room>\w+)\.up\.sql$")
_DOWN_FILE = re.compile(r"^\d{4}_\w+\.down\.sql$")
_HEADER = re.compile(r"^-- (phase|irreversible):\s*(.+?)\s*$", re.MULTILINE)
_LOCK = 0x6261_636B
_LOCK_TIMEOUT = 3.0  # seconds a statement waits for a table's lock, and everybody behind it waits too
_LOCK_ATTEMPTS, _LOCK_PAUSE = 10, 1.0  # so it gives up, lets the others through, and tries again


class UnknownSchema(ConfigurationError):
    """The database was migrated by a release that this one does not know."""

    code, title = "unknown_schema", "The database schema is not known to this release"


class Irreversible(Conflict):
    code, title = "irreversible_migration", "The migration has no way back"


class MigrationFailed(ConfigurationError):
    """A statement of a migration failed. Its transaction was rolled back; those before it are committed."""

    code, title = "migration_failed", "The migration failed"


class MigrationBlocked(Unavailable):
    """Other sessions held the tables for too long; nothing of the migration was applied."""

    code, title = "migration_blocked", "The migration could not get a lock"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the linear history."""

    number: str
    room: str
    phase: str
    up: str
    down: str | None
    irreversible: str | None

    @property
    def name(self) -> str:
        return f"{self.number}_{self.room}"


def history(package: str = "backstay.migrations") -> list[Migration]:
    """Every migration, oldest first.

    Raises:
        ConfigurationError: a file without a declared phase, without a way back, with a number twice, or with a name
            that says no number.
    """
    found: dict[str, Migration] = {}
    for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
        match = _FILE.match(file.name)
        if match is None:
            if file.name.endswith(".sql") and not _DOWN_FILE.match(file.name):
                raise ConfigurationError(f"{file.name} must be called like 0007_room.up.sql or 0007_room.down.sql")
            continue
        migration = _read(file, match["number"], match["room"], package)
        if migration.number in found:
            raise ConfigurationError(f"two migrations have the number {migration.number}")
        found[migration.number] = migration
    return list(found.values())


def _read(file: Traversable, number: str, room: str, package: str) -> Migration:
    up = file.read_text(encoding="utf-8")
    header = dict(_HEADER.findall(up))
    if header.get("phase") not in ("expand", "contract"):
        raise ConfigurationError(f"{file.name} does not say `-- phase: expand` or `-- phase: contract`")
    down_file = files(package).joinpath(f"{number}_{room}.down.sql")
    down = down_file.read_text(encoding="utf-8") if down_file.is_file() else None
    if down is None and "irreversible" not in header:
        raise ConfigurationError(f"{file.name} has no .down.sql and does not say `-- irreversible: reason`")
    return Migration(number, room, header["phase"], up, down, header.get("irreversible"))


class Migrations:
    """The history applied to one database."""

    def __init__(self, url: str, migrations: list[Migration] | None = None) -> None:
        self._url = url
        self.history = history() if migrations is None else migrations
        self._position = {migration.number: index for index, migration in enumerate(self.history)}

    def current(self) -> str | None:
        """The number of the newest migration the database has, None when it has none."""
        with psycopg.connect(self._url, connect_timeout=10) as connection:
            row = connection.execute("select to_regclass(%s) is not null", [f"{SCHEMA}.migration"]).fetchone()
            if not row or not row[0]:
                return None
            row = connection.execute("select version_num from backstay.migration").fetchone()
            return str(row[0]) if row else None

    def pending(self) -> list[Migration]:
        """What `up` would run.

        Raises:
            UnknownSchema: the database is ahead of this release.
        """
        current = self.current()
        if current is None:
            return self.history
        if current not in self._position:
            raise UnknownSchema(
                f"the database has migration {current}, which this release does not know: deploy the one that made it"
            )
        return self.history[self._position[current] + 1 :]

    def up(self, target: str = "head", on_step: Callable[[str], None] | None = None) -> int:
        """Applies what is missing up to `target`, each in its own transaction. Returns how many ran.

        Raises:
            UnknownSchema: the database is ahead of this release.
            MigrationFailed, MigrationBlocked: as they say; the migrations before are applied.
        """
        ran: list[str] = []

        def count(name: str) -> None:
            ran.append(name)
            if on_step is not None:
                on_step(name)

        pending = self.pending()
        if target != "head":
            pending = [migration for migration in pending if migration.number <= self._known(target)]
        if pending:
            self._run(lambda script, rev: script._upgrade_revs(pending[-1].number, rev), count)
        return len(ran)

    def down(self, target: str = "base", on_step: Callable[[str], None] | None = None) -> None:
        """Takes migrations back until `target` is the newest (`base`: none is left)."""
        target = target if target == "base" else self._known(target)
        self._run(lambda script, rev: script._downgrade_revs(target, rev), on_step)

    def _known(self, number: str) -> str:
        if number not in self._position:
            raise ConfigurationError(f"there is no migration {number}; `backstay migrate status` lists them")
        return number

    def _run(self, revisions: Callable[["ScriptDirectory", Any], Any], on_step: Callable[[str], None] | None) -> None:
        for left in reversed(range(_LOCK_ATTEMPTS)):
            try:
                self._run_once(revisions, on_step)
            except MigrationBlocked:
                if not left:
                    raise
                time.sleep(_LOCK_PAUSE)
            else:
                return

    def _run_once(
        self, revisions: Callable[["ScriptDirectory", Any], Any], on_step: Callable[[str], None] | None
    ) -> None:
        # Alembic and SQLAlchemy take a third of a second to import; a start with nothing to do skips them.
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from sqlalchemy import NullPool, create_engine

        script = self._script_directory(on_step)
        engine = create_engine("postgresql+psycopg://", creator=partial(psycopg.connect, self._url), poolclass=NullPool)

        def step(rev: Any, context: "MigrationContext") -> Any:
            return revisions(script, rev)

        try:
            with (
                engine.connect() as connection,
                EnvironmentContext(Config(), script, fn=step) as environment,
            ):
                _prepare(connection)
                environment.configure(
                    connection=connection,
                    version_table="migration",
                    version_table_schema=SCHEMA,
                    transaction_per_migration=True,
                )
                environment.run_migrations()
                connection.commit()
        finally:
            engine.dispose()

    def _script_directory(self, on_step: Callable[[str], None] | None) -> "ScriptDirectory":
        from alembic.script import Script, ScriptDirectory
        from alembic.script.revision import RevisionMap

        scripts: list[Script] = []
        before: str | None = None
        for migration in self.history:
            scripts.append(Script(_module(migration, before, on_step), migration.number, migration.name))
            before = migration.number
        directory = ScriptDirectory(".")
        directory.revision_map = RevisionMap(lambda: scripts)
        return directory


def _prepare(connection: "Connection") -> None:
    # The session lock keeps two deploys apart; it goes away with the connection. Two may race: the second then finds
    # the history applied.
    connection.exec_driver_sql(f"select pg_advisory_lock({_LOCK})")
    connection.exec_driver_sql(f"set role {OWNER}")
    connection.exec_driver_sql(f"set lock_timeout = {int(_LOCK_TIMEOUT * 1000)}")
    connection.exec_driver_sql(f"set search_path = {SCHEMA}, public")
    connection.commit()


def _module(migration: Migration, before: str | None, on_step: Callable[[str], None] | None) -> ModuleType:
    """What Alembic expects of a revision file, made from a pair of SQL files."""
    module = ModuleType(migration.name, f"{migration.room}\n")
    module.revision, module.down_revision = migration.number, before  # type: ignore[attr-defined]
    module.upgrade = partial(_apply, migration, migration.up, on_step)  # type: ignore[attr-defined]
    module.downgrade = partial(_apply, migration, migration.down, on_step)  # type: ignore[attr-defined]
    return module


def _apply(migration: Migration, text: str | None, on_step: Callable[[str], None] | None) -> None:
    from alembic import op

    if text is None:
        raise Irreversible(f"migration {migration.name} cannot be taken back: {migration.irreversible}")
    driver = op.get_bind().connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"migrations need psycopg, not {type(driver).__name__}")
    try:
        driver.execute(pgsql.SQL(text))
    except psycopg.errors.LockNotAvailable:
        raise MigrationBlocked(
            f"migration {migration.name} got no lock within {_LOCK_ATTEMPTS} times {_LOCK_TIMEOUT:g} seconds: end the "
            "long transactions (pg_stat_activity shows them) and run it again"
        ) from None
    except psycopg.Error as error:
        raise MigrationFailed(
            f"migration {migration.name} failed and was rolled back, those before it are applied: {str(error).strip()}"
        ) from error
    if on_step is not None:
        on_step(migration.name)
