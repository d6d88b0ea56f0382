"""Decides about attached tables: attaches, detaches, has all rows looked at again, tells how far it is."""

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import Jobs, NotTheOperator
from ...kernel.clock import Clock
from ...kernel.db import APP, SYSTEM, Database, Tx
from ...kernel.errors import ConfigurationError, Invalid
from ...kernel.principal import Principal
from ..models import DEV_EMBEDDER, CollectionDiffers, Format, valid_name
from ..service import Content
from . import store, table_store
from .inspection import check_table, check_text, trouble
from .models import (
    AttachedDiffers,
    AttachedNotFound,
    AttachedState,
    AttachedStatus,
    Attachment,
    TableDefinition,
    name_of,
)
from .table import AttachedTable
from .tending import Tending

PATIENCE = 2.0  # seconds that writers of a table wait for its triggers at most


class Attached:
    """The user's own tables, searched like collections.

    Only principals of the installation's own tenant (`default`) attach tables: who does reads all their rows.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        audit: Audit,
        events: Events,
        auth: Auth,
        content: Content,
    ) -> None:
        self._db, self._clock, self._audit, self._events, self._auth = db, clock, audit, events, auth
        self._content = content
        self.tending = Tending(db, clock, jobs, events, content)
        self._declared: dict[str, TableDefinition] = {}

    def table(
        self,
        table: str,
        *,
        key: str | Sequence[str],
        text: str,
        name: str | None = None,
        tenant: str | None = None,
        owner: UUID | None = None,
        columns: Sequence[str] = (),
        embedder: str | None = DEV_EMBEDDER,
        format: Format | str = Format.MARKDOWN,
        chunk_size: int = 1600,
        overlap: int = 200,
    ) -> AttachedTable:
        """Has `table` attached when the App starts, unless it is so already. See TableDefinition.

        Args:
            name: of the attachment, and of the collection to search; the table's own when None.

        Raises:
            ConfigurationError: the name is taken, or the definition cannot be.
        """
        try:
            definition = TableDefinition(
                table=table,
                key=(key,) if isinstance(key, str) else tuple(key),
                text=text,
                tenant=tenant,
                owner=owner,
                columns=tuple(columns),
                embedder=embedder,
                format=Format(format),
                chunk_size=chunk_size,
                overlap=overlap,
            )
            chosen = valid_name(name or name_of(table))
        except ValidationError as error:
            raise ConfigurationError(f"{table} cannot be attached so: {error.errors()[0]['msg']}") from None
        except (ValueError, Invalid) as error:
            raise ConfigurationError(f"{table} cannot be attached so: {error}") from None
        if chosen in self._declared:
            raise ConfigurationError(f"two tables are attached as {chosen}; give one of them another name")
        self._declared[chosen] = definition
        return AttachedTable(self, self._content, chosen)

    async def put_declared(self, operator: UUID) -> None:
        """Attaches the tables that the program names and that are not attached yet."""
        by = Principal.system(operator, "program")
        for name, definition in self._declared.items():
            await self.attach(by, name, definition)

    async def attach(
        self, by: Principal, name: str, definition: TableDefinition, *, patience: float = PATIENCE
    ) -> AttachedStatus:
        """Hangs triggers on the table, and has its rows taken over in the background. The same definition again changes
        nothing; it mends a broken one. A detached table's documents are kept up to date again from now on, and those
        whose text is the same keep their vectors.

        The table's writers wait while the triggers are made, and that waits `patience` seconds at most for writers that
        are under way.

        Raises:
            NotTheOperator (403). TableUnfit, TextInvalid (422).
            AttachedDiffers, CollectionDiffers, TableBusy (409)
        """
        await self._check(by)
        valid_name(name)
        if definition.tenant is None and definition.owner is None:
            definition = definition.model_copy(update={"owner": by.tenant})
        async with self._db.login_tx() as tx:
            async with self._db.become(tx, SYSTEM):
                await store.lock_name(tx, name)
                standing = await store.found(tx, name)
            table = await table_store.table(tx, definition.table)
            old = await self._place(tx, standing)
            if standing is not None:
                definition = await self._in_the_same_words(tx, table, standing, definition)
                _refuse_difference(standing, definition)
                if standing.state is AttachedState.ATTACHED and old and old != (table.schema, table.name):
                    raise AttachedDiffers(
                        f"{name} follows the table that is called {'.'.join(old)} now, not {definition.table}; "
                        "detach it first, then attach the other one"
                    )
                if standing.state is AttachedState.ATTACHED and await self._sound(tx, standing):
                    return await self.status(by, name)
            check_table(table, definition)
            async with self._db.become(tx, APP):
                expression, used, type = await table_store.read_expression(tx, table, definition.text)
            check_text(type, used)
            tenant = [definition.tenant] if definition.tenant else []
            watched = list(dict.fromkeys([*definition.key, *tenant, *used, *definition.columns]))
            async with self._db.become(tx, SYSTEM):
                id = await self._put(tx, by, name, definition, expression, watched)
                if old and old != (table.schema, table.name):
                    await table_store.drop_trigger(tx, id, ".".join(old), patience)
                await table_store.make_trigger(tx, id, definition, watched)
            await table_store.hang_triggers(tx, id, (table.schema, table.name), patience)
        return await self.status(by, name)

    async def detach(
        self, by: Principal, name: str, *, purge: bool = False, patience: float = PATIENCE
    ) -> AttachedStatus:
        """Takes the triggers from the table. Its documents stay and are searched as they were, or (`purge`) are deleted
        in the background, and the name becomes free. The table itself is left alone.

        Raises:
            NotTheOperator (403). AttachedNotFound (404). TableBusy (409).
        """
        await self._check(by)
        async with self._db.login_tx() as tx, self._db.become(tx, SYSTEM):
            await store.lock_name(tx, name)
            one = await self._found(tx, name)
            purge = purge or one.state is AttachedState.PURGING  # what has begun to go is not kept by half
            await store.put_state(tx, one.id, AttachedState.PURGING if purge else AttachedState.DETACHED)
            if one.state is not AttachedState.PURGING:
                await store.drop_fills(tx, one.id)
                await store.drop_changes(tx, one.id)
            if purge:
                await store.purge_all(tx, one.id, self._clock.now())
            await self._told(tx, by, one, "purged" if purge else "detached")
            await table_store.drop_trigger(tx, one.id, one.definition.table, patience)
            return await self._status(tx, one.name)

    async def resync(self, by: Principal, name: str) -> AttachedStatus:
        """Has every row looked at again, and every document whose row may be gone: after a load with triggers disabled,
        or when a function in the text expression has changed. What is the same costs no embedding.

        Raises:
            NotTheOperator (403). AttachedNotFound (404). AttachedDiffers: it is detached (409).
        """
        await self._check(by)
        async with self._db.system_tx() as tx:
            one = await self._found(tx, name)
            if one.state not in (AttachedState.ATTACHED, AttachedState.BROKEN):
                raise AttachedDiffers(f"{name} is {one.state}: attach it again instead")
            await store.fill_all(tx, one.id, one.definition.owner, self._clock.now())
            await self._told(tx, by, one, "resync")
            return await self._status(tx, name)

    async def status(self, by: Principal, name: str) -> AttachedStatus:
        """How far an attached table is.

        Raises:
            NotTheOperator (403). AttachedNotFound (404).
        """
        await self._check(by)
        async with self._db.system_tx() as tx:
            return await self._status(tx, name)

    async def list(self, by: Principal, after: str | None = None, limit: int = 50) -> list[AttachedStatus]:
        """Attached tables by name.

        Raises:
            NotTheOperator (403).
        """
        await self._check(by)
        async with self._db.system_tx() as tx:
            return [await self._status(tx, name) for name in await store.names(tx, after, limit)]

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _put(
        self,
        tx: Tx,
        by: Principal,
        name: str,
        definition: TableDefinition,
        expression: str,
        watched: Sequence[str],
    ) -> int:
        taken = await store.taken(tx, name, definition.owner)
        if taken is not None:
            raise CollectionDiffers(
                f"tenant {taken} has a collection {name} of its own; attach the table under another name"
            )
        now = self._clock.now()
        id = await store.put(tx, name, definition, expression=expression, watched=watched, by=by.tenant, now=now)
        await store.fill_all(tx, id, definition.owner, now)
        await self._told(tx, by, await self._found(tx, name), "attached")
        return id

    async def _in_the_same_words(
        self, tx: Tx, table: table_store.Table, standing: Attachment, wanted: TableDefinition
    ) -> TableDefinition:
        """The definition that is wanted, with the standing text when Postgres reads both as the same expression."""
        stands = standing.definition.text
        if wanted.text == stands or not (table.usable and table.readable):
            return wanted
        async with self._db.become(tx, APP):
            expression, _, _ = await table_store.read_expression(tx, table, wanted.text)
        return wanted.model_copy(update={"text": stands}) if expression == standing.expression else wanted

    async def _place(self, tx: Tx, standing: Attachment | None) -> tuple[str, str] | None:
        """Where the triggers of an attachment are."""
        if standing is None:
            return None
        async with self._db.become(tx, SYSTEM):
            place = (await store.condition(tx, standing.id)).place
        return None if place is None else (place.schema, place.table)

    async def _sound(self, tx: Tx, standing: Attachment) -> bool:
        async with self._db.become(tx, SYSTEM):
            return trouble(standing, await store.condition(tx, standing.id)) is None

    async def _found(self, tx: Tx, name: str) -> Attachment:
        one = await store.found(tx, name)
        if one is None:
            raise AttachedNotFound(f"no table is attached as {name!r}")
        return one

    async def _status(self, tx: Tx, name: str) -> AttachedStatus:
        one = await self._found(tx, name)
        condition, counts = await store.condition(tx, one.id), await store.counts(tx, one.id, self._clock.now())
        return AttachedStatus(
            name=one.name,
            definition=one.definition,
            state=one.state,
            trouble=one.trouble,
            created_at=one.created_at,
            rows=condition.rows,
            **counts,
        )

    async def _told(self, tx: Tx, by: Principal, one: Attachment, what: str) -> None:
        metadata = {"table": one.definition.table}
        await self._audit.record(tx, by, f"content.table.{what}", f"content:{one.name}", metadata=metadata)
        payload = {"name": one.name, "table": one.definition.table, "what": what}
        await self._events.emit(tx, "content.attached_changed", payload, tenant=by.tenant)

    async def _check(self, by: Principal) -> None:
        if by.tenant != (await self._auth.ensure_default_tenant()).id:
            raise NotTheOperator("who attaches a table reads all its rows: only the installation's own tenant may")


def _refuse_difference(standing: Attachment, wanted: TableDefinition) -> None:
    """Raises:
    AttachedDiffers: what differs, and how to change it.
    """
    name, stands = standing.name, standing.definition
    differing = [each for each in TableDefinition.model_fields if getattr(stands, each) != getattr(wanted, each)]
    said = "; ".join(f"{each}: {getattr(stands, each)!r} stands, not {getattr(wanted, each)!r}" for each in differing)
    if standing.state is AttachedState.PURGING:
        raise AttachedDiffers(f"the documents of {name} are still being deleted; try again when they are gone")
    if standing.state is AttachedState.DETACHED:
        if fixed := [field for field in differing if field not in ("table", "key", "text", "columns")]:
            raise AttachedDiffers(
                f"{name} has documents that were made otherwise ({said}); {', '.join(fixed)} can change once they are "
                f"gone: `backstay content detach {name} --purge`"
            )
    elif differing:
        raise AttachedDiffers(
            f"{name} is attached otherwise ({said}). To change it, run `backstay content detach {name}` and attach it "
            "again: documents whose text stays the same keep their vectors"
        )
