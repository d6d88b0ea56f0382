"""Decides about the indexes of spaces: which kind, and what is to be said of them."""

from dataclasses import replace
from uuid import UUID

from ...audit import Audit
from ...auth import Auth
from ...events import Events
from ...jobs import NotTheOperator
from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from .. import store as content_store
from ..models import CollectionNotFound, IndexKind, NoEmbedder
from . import store
from .advice import build_bytes, build_seconds, findings, index_bytes, lists_for, possible, recommended
from .indexer import Indexer
from .models import Advice, Finding, IndexImpossible


class Indexes:
    """Tenants with collections of one name and model share a table of vectors, so only the operator, that is principals
    of the installation's own tenant (`default`), says how it is indexed."""

    def __init__(self, db: Database, audit: Audit, auth: Auth, events: Events, indexer: Indexer) -> None:
        self._db, self._audit, self._auth, self._events = db, audit, auth, events
        self._indexer = indexer

    async def advise(self, by: Principal, name: str, *, space: int | None = None) -> Advice:
        """What the index of a space (None: the one that is searched) is, what it should be, and what that takes.

        Raises:
            NotTheOperator (403). CollectionNotFound (404). NoEmbedder: the collection has no such space (409).
        """
        chosen = await self._space(by, name, space)
        async with self._db.system_tx() as tx:
            return await self._advice(tx, chosen)

    async def choose(
        self, by: Principal, name: str, kind: IndexKind | str, *, space: int | None = None, rebuild: bool = False
    ) -> Advice:
        """Gives a space (None: the one that is searched) another kind of index, while it is searched and written.

        The new one is built beside the one that stands, which is dropped afterwards. `rebuild`: also where that kind
        stands already; an `ivfflat` index is trained anew then.

        Raises:
            NotTheOperator (403). CollectionNotFound (404). IndexImpossible, NoEmbedder (409). Invalid (422).
        """
        try:
            wish = IndexKind(kind)
        except ValueError:
            raise Invalid(f"an index is one of {', '.join(IndexKind)}, not {kind!r}") from None
        chosen = await self._space(by, name, space)
        async with self._db.system_tx() as tx:
            state = await store.state(tx, chosen)
            if state is not None and not possible(wish, state.dimensions):
                raise IndexImpossible(
                    f"{state.model} has {state.dimensions} dimensions, more than a {wish} index takes: choose binary"
                )
            await store.wish(tx, chosen, wish)
            await self._indexer.change(by.tenant, chosen, rebuild=rebuild, tx=tx)
            about = {"kind": wish.value, "rebuild": rebuild}
            await self._audit.record(tx, by, "content.space.index", f"content:{name}/space/{chosen}", metadata=about)
            payload = {"collection": name, "space": chosen, "what": "index"}
            await self._events.emit(tx, "content.space_changed", payload, tenant=by.tenant)
            return await self._advice(tx, chosen)

    async def findings(self) -> list[Finding]:
        """What an operator should know of the vectors of all spaces; for checks of the whole installation."""
        found: list[Finding] = []
        async with self._db.system_tx() as tx:
            for space in await store.with_vectors(tx):
                found += (await self._advice(tx, space)).findings
        return found

    async def _advice(self, tx: Tx, space: int) -> Advice:
        state = await store.state(tx, space)
        if state is None:
            raise NoEmbedder(f"there is no space {space}")
        rows, dimensions = await self._indexer.rows(tx, state), state.dimensions or 0
        suits = recommended(state, rows, self._indexer.thresholds)
        lists = lists_for(rows, dimensions=dimensions, memory=self._indexer.memory_mb << 20)
        return Advice(
            state=replace(state, rows=rows),
            recommended=suits,
            lists=lists if IndexKind.IVFFLAT in (state.wish, state.kind) else None,
            index_bytes=index_bytes(suits, rows, dimensions),
            build_bytes=build_bytes(suits, rows, dimensions, lists),
            build_seconds=build_seconds(suits, state, rows),
            build=await store.build(tx, space),
            findings=tuple(findings(state, rows, self._indexer.thresholds)),
        )

    async def _space(self, by: Principal, name: str, space: int | None) -> int:
        if by.tenant != (await self._auth.ensure_default_tenant()).id:
            raise NotTheOperator(
                "tenants share the table of a space; only the installation's own tenant says how it is indexed"
            )
        async with self._db.tenant_tx(by.tenant) as tx:
            return await _of(tx, by.tenant, name, space)


async def _of(tx: Tx, tenant: UUID, name: str, space: int | None) -> int:
    standing = await content_store.collection(tx, tenant, name)
    if standing is None:
        raise CollectionNotFound(f"there is no collection {name!r}")
    if space is None and standing.space is not None:
        return standing.space.id
    if space is not None and space in standing.embedded_in:
        return space
    raise NoEmbedder(f"{name} has no embedder" if space is None else f"{name} gives no vectors to a space {space}")
