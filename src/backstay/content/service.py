"""Decides about collections and documents. Every write is one transaction with its jobs, events and audit."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Unpack
from uuid import UUID

import orjson
from pydantic import BaseModel

from ..audit import Audit
from ..events import Events
from ..jobs import Jobs
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError, Invalid
from ..kernel.principal import Principal
from . import files, pipeline_store, store, vectors_store, writer
from .collection import Body, Collection, Filler, Registered, as_json
from .delivery import Embedder
from .embedding import Pipeline
from .explanations import Explainer, Explanation
from .indexes.indexer import MEMORY_MB, Indexer
from .models import (
    DEV_EMBEDDER,
    BatchLimit,
    CollectionAttached,
    CollectionDiffers,
    CollectionNeedsCode,
    CollectionNotFound,
    Coverage,
    Definition,
    Document,
    DocumentInvalid,
    DocumentNotFound,
    EmbedCall,
    Format,
    NoEmbedder,
    Parked,
    Put,
    SearchAnswer,
    Space,
    Standing,
    valid_name,
)
from .rerank import Chosen, Completer, Rerank, by_model, checked
from .search import How, Question, Searcher
from .statements import Statement, Statements
from .statistics import FIRST_PIVOT, Statistics

MAX_BATCH = 1_000
_MAX_ID = 500
_AT_ONCE = 5_000
_FILES_AT_ONCE = 2  # each may take a core and 1 GB
_log = telemetry.log("content")


@dataclass(frozen=True, slots=True)
class _Draft:
    """A document on its way in."""

    id: str
    body: bytes
    body_hash: bytes
    text: str
    text_hash: bytes


class Content:
    """Collections of documents: stored, cut, indexed, embedded in the background, searched."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        gateway: Embedder,
        audit: Audit,
        events: Events,
        *,
        limits: Mapping[str, BatchLimit] | None = None,
        index_memory_mb: int = MEMORY_MB,
        completer: Completer | None = None,
    ) -> None:
        self._completer = completer
        self._db, self._clock, self._audit, self._events = db, clock, audit, events
        self.indexer = Indexer(db, clock, jobs, memory_mb=index_memory_mb)
        self.pipeline = Pipeline(db, clock, jobs, gateway, events, limits=limits, indexer=self.indexer)
        self.statistics = Statistics(db, jobs)
        self.searcher = Searcher(db, gateway)
        self.statements = Statements(db, self.searcher)
        self.explainer = Explainer(db, self.searcher)
        self._registered: dict[str, Registered] = {}
        self._reading = asyncio.Semaphore(_FILES_AT_ONCE)
        self.filler: Filler | None = None

    def collection(
        self,
        name: str,
        model: type[BaseModel] | None = None,
        *,
        embed: Callable[[Any], str] | None = None,
        embedder: str | None = DEV_EMBEDDER,
        fields: Sequence[str] = (),
        format: Format | str = Format.MARKDOWN,
        chunk_size: int = 1600,
        overlap: int = 200,
        rerank: Rerank | str | None = None,
    ) -> Collection:
        """Registers a collection; a tenant has it from its first document on.

        Args:
            model: what bodies must fit; None takes any JSON object.
            embed: makes the searched text of a body; without it, `fields` are searched, or every text in the body.
            embedder: `provider:model`; None for text search only.
            rerank: what scores the best candidates of each search once more: a function, or a model's name.

        Raises:
            ConfigurationError: the name is taken or wrong, or the options do not go together.
        """
        if name in self._registered:
            raise ConfigurationError(f"the collection {name} is registered twice; give one of them another name")
        try:
            definition = Definition(
                embedder=embedder,
                fields=tuple(fields),
                format=Format(format),
                chunk_size=chunk_size,
                overlap=overlap,
            )
            valid_name(name)
        except (ValueError, Invalid) as error:
            raise ConfigurationError(f"the collection {name!r} cannot be: {error}") from None
        self._registered[name] = Registered(definition, model, embed, checked(rerank) if callable(rerank) else rerank)
        return Collection(self, name)

    def named(self, name: str) -> Collection:
        """A collection by name, registered in code or declared over HTTP."""
        return Collection(self, name)

    async def declare(
        self, by: Principal, name: str, definition: Definition, *, tx: Tx | None = None
    ) -> tuple[Standing, bool]:
        """Makes the collection; the same definition again changes nothing. Answers whether it is new.

        Raises:
            CollectionDiffers: it stands with another definition and has documents (409).
        """
        valid_name(name)
        registered = self._registered.get(name)
        by_code = registered is not None and registered.embed is not None
        async with self._db.join(tx, by.tenant) as tx:
            return await self._declare(tx, by.tenant, name, definition, by_code)

    async def _declare(
        self, tx: Tx, tenant: UUID, name: str, definition: Definition, by_code: bool
    ) -> tuple[Standing, bool]:
        standing = await store.collection(tx, tenant, name)
        if standing is not None and standing.fits(definition, by_code):
            return standing, False
        if standing is not None:
            _own(standing)
        elif await store.is_attached(tx, tenant, name):
            raise CollectionAttached(f"{name} is the name of an attached table; choose another one")
        now = self._clock.now()
        space = await store.take_space(tx, name, definition, now)
        created = standing is None and await store.declare(
            tx, tenant, name, definition, space=space, by_code=by_code, pivot=FIRST_PIVOT, now=now
        )
        if not created:
            # Someone else's declaration stands; it may be the same.
            standing = await store.collection(tx, tenant, name)
            differs = standing is None or not standing.fits(definition, by_code)
            if differs and not await store.redefine(tx, tenant, name, definition, space=space, by_code=by_code):
                raise CollectionDiffers(
                    f"the collection {name} has documents under another definition "
                    f"({_difference(standing, definition)}); keep that one, or put the documents under another name"
                )
        found = await store.collection(tx, tenant, name)
        if found is None:
            raise CollectionNotFound(f"the collection {name} was deleted meanwhile")
        return found, created

    async def collections(self, by: Principal, after: str | None = None, limit: int = 50) -> list[Standing]:
        """The tenant's collections by name."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.collections(tx, by.tenant, after, limit)

    async def find(self, by: Principal, name: str) -> Standing:
        """One collection.

        Raises:
            CollectionNotFound: the tenant has none of that name (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            return await self._standing(tx, by.tenant, name)

    async def put_many(
        self, by: Principal, name: str, documents: Sequence[tuple[str, Body]], *, tx: Tx | None = None
    ) -> list[Put]:
        """See Collection.put_many.

        Raises:
            CollectionNotFound: neither registered nor declared (404). CollectionNeedsCode, CollectionDiffers,
                CollectionAttached (409).
            DocumentInvalid: ids or bodies cannot be stored, an id stands twice, or there are over 1,000 (422).
        """
        if len(documents) > MAX_BATCH:
            raise DocumentInvalid(f"at most {MAX_BATCH} documents go in one call, not {len(documents)}")
        async with self._db.join(tx, by.tenant) as tx:
            await store.share_writes(tx, by.tenant, name)
            standing = _own(await self._writable(tx, by.tenant, name))
            filling = None
            if self.filler is not None:
                documents, filling = await self.filler.fill(tx, by.tenant, standing, documents)
            drafts = {draft.id: draft for draft in self._drafts(standing, documents)}
            if len(drafts) != len(documents):
                raise DocumentInvalid("an id stands twice in one call")
            changed = await self._write(tx, by.tenant, standing, drafts)
            if self.filler is not None and filling is not None:
                await self.filler.filled(tx, by.tenant, name, filling)
            same = [id for id in drafts if id not in changed]
            revisions = await store.revisions(tx, by.tenant, name, same) if same else {}
        return [
            Put(id, changed[id][0], changed[id][0] == 1, True)
            if id in changed
            else Put(id, revisions[id], created=False, changed=False)
            for id in drafts
        ]

    async def _write(
        self, tx: Tx, tenant: UUID, standing: Standing, drafts: Mapping[str, _Draft]
    ) -> dict[str, tuple[int, bool]]:
        """Documents, chunks, statistics, jobs and events. Answers with the changed documents' revisions."""
        if not drafts:
            return {}
        now, ordered = self._clock.now(), sorted(drafts.values(), key=lambda draft: draft.id)
        changed = await store.put(
            tx,
            tenant,
            standing.name,
            ids=[draft.id for draft in ordered],
            bodies=[draft.body for draft in ordered],
            body_hashes=[draft.body_hash for draft in ordered],
            text_hashes=[draft.text_hash for draft in ordered],
            now=now,
        )
        texts = {id: drafts[id].text for id, (_, text_changed) in changed.items() if text_changed}
        if texts:
            written = await writer.write(tx, tenant, standing, texts, now)
            if written.delta is not None:
                await self.statistics.written(tx, tenant, standing, written.delta, len(texts))
            if written.wanting:
                first = min(texts)
                because = f"{first}:{changed[first][0]}" if len(texts) == 1 else str(written.delta)
                for space in standing.embedded_in:
                    await self.pipeline.enqueue(tenant, space, standing.name, because, tx=tx)
        told = [{"collection": standing.name, "id": id, "rev": rev} for id, (rev, _) in changed.items()]
        await self._events.emit_many(tx, "content.put", told, tenant=tenant)
        return changed

    async def read_file(self, data: bytes, *, type: str | None = None, name: str = "") -> files.Read:
        """What a PDF, DOCX, HTML, Markdown or text file says, read in a process of its own.

        Args:
            type: its media type; without one that is known, the end of `name` decides.

        Raises:
            FileUnreadable: it is of no known kind, broken, encrypted, too large or slow, or has no text (422).
            ReaderMissing: its kind needs the extra `files` (409).
        """
        kind = files.kind_of(type, name)
        async with self._reading:
            return await files.read(data, kind)

    async def put_file(self, by: Principal, collection: str, id: str, data: bytes, *, type: str | None = None) -> Put:
        """See Collection.put_file."""
        read = await self.read_file(data, type=type, name=id)
        return (await self.put_many(by, collection, [(id, read.body)]))[0]

    async def mirror(
        self, tx: Tx, tenant: UUID, standing: Standing, documents: Sequence[tuple[str, str, str]]
    ) -> dict[str, tuple[int, bool]]:
        """Writes documents that stand for something else: of each the id, the body as JSON, and its searched text.
        Answers as `_write`. `share_writes` comes before."""
        drafts = {
            id: _Draft(id, body.encode(), _hash(f"{body}\0{text}".encode()), text, _hash(text.encode()))
            for id, body, text in documents
        }
        return await self._write(tx, tenant, standing, drafts)

    async def unmirror(self, tx: Tx, tenant: UUID, standing: Standing, ids: Sequence[str]) -> int:
        """Deletes documents with their chunks and vectors. Returns how many there were. `share_writes` comes before."""
        gone = await store.lock_documents(tx, tenant, standing.name, ids)
        if not gone:
            return 0
        delta = await writer.erase(tx, tenant, standing, list(gone))
        await store.delete_many(tx, tenant, standing.name, list(gone))
        if delta is not None:
            await self.statistics.written(tx, tenant, standing, delta, len(gone))
        told = [{"collection": standing.name, "id": id, "rev": rev} for id, rev in gone.items()]
        await self._events.emit_many(tx, "content.deleted", told, tenant=tenant)
        return len(gone)

    async def get(self, by: Principal, name: str, id: str, *, tx: Tx | None = None) -> Document:
        """See Collection.get."""
        async with self._db.join(tx, by.tenant) as tx:
            document = await store.get(tx, by.tenant, name, id)
        if document is None:
            raise DocumentNotFound(f"the collection {name} has no document {id!r}")
        return document

    async def documents(self, by: Principal, name: str, after: str | None = None, limit: int = 50) -> list[Document]:
        """Documents by id."""
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._standing(tx, by.tenant, name)
            return await store.documents(tx, by.tenant, name, after, limit)

    async def delete(self, by: Principal, name: str, id: str, *, tx: Tx | None = None) -> bool:
        """See Collection.delete. The audit gets an entry."""
        async with self._db.join(tx, by.tenant) as tx:
            await store.share_writes(tx, by.tenant, name)
            standing = _own(await self._standing(tx, by.tenant, name))
            rev = await store.lock_document(tx, by.tenant, name, id)
            if rev is None:
                return False
            delta = await writer.erase(tx, by.tenant, standing, [id])
            await store.delete(tx, by.tenant, name, id)
            if delta is not None:
                await self.statistics.written(tx, by.tenant, standing, delta, 1)
            payload = {"collection": name, "id": id, "rev": rev}
            await self._events.emit(tx, "content.deleted", payload, tenant=by.tenant)
            await self._audit.record(tx, by, "content.delete", f"content:{name}/{id}", metadata={"rev": rev})
        return True

    async def search(
        self, by: Principal, name: str, query: str, *, rerank: Chosen = None, **how: Unpack[How]
    ) -> SearchAnswer:
        """See Collection.search."""
        return await self.searcher.search(by, name, Question.of(query, **how), self._rerank(by, name, rerank))

    def _rerank(self, by: Principal, name: str, chosen: Chosen) -> Rerank | None:
        """What the caller asks for, else what the collection says."""
        if chosen is None and (registered := self._registered.get(name)) is not None:
            chosen = registered.rerank
        if not chosen:
            return None
        if not isinstance(chosen, str):
            return checked(chosen)
        if self._completer is None:
            raise ConfigurationError("there is no gateway here that could ask a model to rerank")
        return by_model(self._completer, by, chosen)

    async def explain(self, by: Principal, name: str, query: str, **how: Unpack[How]) -> Explanation:
        """See Collection.explain."""
        return await self.explainer.explain(by, name, Question.of(query, **how))

    async def search_sql(self, by: Principal, name: str, query: str, **how: Unpack[How]) -> Statement:
        """See Collection.search_sql."""
        return await self.statements.compose(by, name, Question.of(query, **how))

    async def coverage(self, by: Principal, name: str) -> Coverage:
        """See Collection.coverage."""
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._standing(tx, by.tenant, name)
            space = standing.space
            embedded = 0
            if space is not None and space.dimensions is not None:
                embedded = await vectors_store.count(tx, space.id, by.tenant, 2**31 - 1)
            counted = await store.coverage(tx, by.tenant, name, space.id if space else None, self._clock.now())
            pace = await pipeline_store.trouble(tx, by.tenant, space.model) if space else None
        rests_until, trouble = (pace.rests_until, pace.reason) if pace else (None, None)
        return Coverage(embedded=embedded, rests_until=rests_until, trouble=trouble, **counted)

    async def parked(self, by: Principal, name: str, after: UUID | None = None, limit: int = 50) -> list[Parked]:
        """Chunks that the embedder refused, and why, after the chunk with id `after`.

        Raises:
            NoEmbedder: the collection has none (409).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            space = await self._space(tx, by.tenant, name)
            return await pipeline_store.parked_chunks(tx, by.tenant, space.id, after, limit)

    async def embed_calls(
        self, by: Principal, name: str, after: UUID | None = None, limit: int = 50
    ) -> list[EmbedCall]:
        """Requests to the collection's embedder and what they cost, newest first, after the one with id `after`.

        Raises:
            NoEmbedder: the collection has none (409).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            space = await self._space(tx, by.tenant, name)
            return await pipeline_store.embed_calls(tx, by.tenant, space.id, after, limit)

    async def retry_parked(self, by: Principal, name: str, *, tx: Tx | None = None) -> int:
        """Tries the chunks again that the embedder has refused, and ends its rest. Returns how many chunks there are.

        Raises:
            NoEmbedder: the collection has none (409).
        """
        now, total = self._clock.now(), 0
        async with self._db.join(tx, by.tenant) as tx:
            space = await self._space(tx, by.tenant, name)
            while parked := await pipeline_store.parked(tx, by.tenant, space.id, _AT_ONCE):
                await pipeline_store.free(tx, by.tenant, space.id, parked)
                total += len(parked)
            await pipeline_store.hurry(tx, by.tenant, space.model, now)
            await self.pipeline.enqueue(by.tenant, space.id, name, f"unpark:{now.isoformat()}", tx=tx)
            await self._audit.record(tx, by, "content.retry_parked", f"content:{name}", metadata={"chunks": total})
        return total

    async def sweep(self, older_than: timedelta = timedelta(minutes=5)) -> int:
        """See Pipeline.sweep."""
        return await self.pipeline.sweep(older_than)

    async def _standing(self, tx: Tx, tenant: UUID, name: str) -> Standing:
        standing = await store.collection(tx, tenant, name)
        if standing is None:
            raise CollectionNotFound(f"there is no collection {name!r}; PUT /api/collections/{name} declares it")
        return standing

    async def _space(self, tx: Tx, tenant: UUID, name: str) -> Space:
        standing = await self._standing(tx, tenant, name)
        if standing.space is None:
            raise NoEmbedder(f"{name} has no embedder")
        return standing.space

    async def _writable(self, tx: Tx, tenant: UUID, name: str) -> Standing:
        """The collection, made for this tenant when code has registered it."""
        registered = self._registered.get(name)
        if registered is not None:
            by_code = registered.embed is not None
            return (await self._declare(tx, tenant, name, registered.definition, by_code))[0]
        standing = await self._standing(tx, tenant, name)
        if standing.by_code:
            raise CollectionNeedsCode(
                f"the searched text of {name} is made by a Python function; write through the program that registers it"
            )
        return standing

    def _drafts(self, standing: Standing, documents: Sequence[tuple[str, Body]]) -> Iterator[_Draft]:
        registered = self._registered.get(standing.name)
        for id, given in documents:
            if not 0 < len(id) <= _MAX_ID or not _storable(id):
                raise DocumentInvalid(f"a document's id has 1 to {_MAX_ID} characters, none of them NUL")
            body, text = registered.read(given) if registered is not None else (as_json(given), None)
            if text is None:
                text = "\n\n".join(_texts(body, standing.definition.fields))
            try:
                encoded = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
            except (orjson.JSONEncodeError, RecursionError):
                raise DocumentInvalid(f"the body of {id!r} is not JSON") from None
            if not _storable(text) or (b"\\u0000" in encoded and _has_nul(body)):
                raise DocumentInvalid(f"the body of {id!r} has a NUL character, which Postgres cannot store in text")
            yield _Draft(id, encoded, _hash(encoded), text, _hash(text.encode()))


def _own(standing: Standing) -> Standing:
    """The collection, if its documents are its own.

    Raises:
        CollectionAttached: they are rows of a table (409).
    """
    if standing.attached_id is not None:
        raise CollectionAttached(
            f"the documents of {standing.name} are the rows of an attached table: write the table, or detach it"
        )
    return standing


def _texts(body: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """The searched texts of a body: those of the fields, or all there are."""
    values = [body.get(name) for name in fields] if fields else list(body.values())
    for value in values:
        if isinstance(value, str):
            if value.strip():
                yield value
        elif isinstance(value, Mapping):
            yield from _texts(value, ())
        elif isinstance(value, list | tuple):
            yield from _texts(dict(enumerate(value)), ())  # type: ignore[arg-type]  # only the values matter


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_has_nul(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


def _difference(standing: Standing | None, definition: Definition) -> str:
    if standing is None:
        return "deleted meanwhile"
    stands, wanted = standing.definition.model_dump(mode="json"), definition.model_dump(mode="json")
    differing = [name for name in wanted if wanted[name] != stands[name]]
    parts = "; ".join(f"{name}: {stands[name]!r} stands, not {wanted[name]!r}" for name in differing)
    return parts or "whether code makes the searched text"
