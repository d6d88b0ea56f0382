"""Decides which fields a model fills, has it asked in jobs, and writes what it said into the documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol, Unpack
from uuid import UUID

from pydantic import BaseModel, ValidationError

from ...audit import Audit
from ...gateway import ContentFiltered, ContextTooLong, ModelNotFound, PriceUnknown, ProviderRefused
from ...gateway.models import Answer
from ...gateway.service import About
from ...jobs import JobContext, Jobs, Retry
from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import BadRequest, ConfigurationError, Invalid
from ...kernel.principal import Principal
from .. import store as content_store
from ..collection import Body, as_json
from ..models import CollectionAttached, CollectionNotFound, Standing
from ..service import Content
from . import store
from .models import Enriched, Enrichment, EnrichmentNotFound, EnrichmentStanding, Failed, valid_field

ENRICH, REFRESH = "content.enrich", "content.refresh"
FEATURE = "content.enrich"
_RETRY = Retry(max_attempts=1_000_000, cap=timedelta(minutes=5))  # a provider that is down comes back, nothing is lost
_FAULT_OF_INPUT = frozenset({400, 413, 422})
_LOST = timedelta(hours=1)  # after which a job that has not answered was deleted by hand
_PAGE = 200
_AT_ONCE = 1_000
_MAX_VALUE = 100_000  # characters
_log = telemetry.log("content")


class Completer(Protocol):
    """What of the gateway is needed here."""

    async def complete(self, by: Principal, request: Mapping[str, Any], **about: Unpack[About]) -> Answer: ...


class Fill(BaseModel):
    """Which document has fields to be filled."""

    collection: str
    id: str


class Refresh(BaseModel):
    """Which collection is looked through, after which document."""

    collection: str
    after: str | None = None


@dataclass(slots=True)
class Filling:
    """What a write makes of its documents' fields: those to be filled, with the source of what is asked, and those that
    hold what the caller wrote."""

    wanted: list[tuple[str, str, bytes]] = field(default_factory=list)
    given: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Question:
    """What the model is asked about a document's field."""

    field: str
    enrichment: Enrichment
    text: str
    source: bytes


@dataclass(frozen=True, slots=True)
class _Said:
    """What came of it: a value or an error."""

    cost: Decimal
    value: str | None = None
    error: str | None = None


class Enrichments:
    """Fields of documents that a model fills in the background. Takes part in every write of `content`."""

    def __init__(
        self, db: Database, clock: Clock, jobs: Jobs, gateway: Completer, audit: Audit, content: Content
    ) -> None:
        self._db, self._clock, self._jobs, self._gateway, self._audit = db, clock, jobs, gateway, audit
        self._content = content
        self._registered: dict[str, dict[str, Enrichment]] = {}
        jobs.handler(ENRICH, self._run, Fill, queue="content", retry=_RETRY)
        self._refresh = jobs.handler(REFRESH, self._look_through, Refresh, queue="content")
        content.filler = self

    def register(self, collection: str, name: str, *, model: str, prompt: str, max_tokens: int) -> None:
        """See Collection.enrich."""
        try:
            enrichment = Enrichment(model=model, prompt=prompt, max_tokens=max_tokens)
            valid_field(name)
        except (ValidationError, Invalid) as error:
            raise ConfigurationError(f"the field {name!r} of {collection} cannot be filled so: {error}") from None
        fields = self._registered.setdefault(collection, {})
        if name in fields:
            raise ConfigurationError(f"the field {name} of {collection} is filled twice")
        fields[name] = enrichment

    async def declare(
        self, by: Principal, collection: str, name: str, enrichment: Enrichment, *, tx: Tx | None = None
    ) -> bool:
        """Has a model fill a field of every document that lacks it, now and later. The same again changes nothing.

        Returns:
            Whether that is new; documents that stand are gone through then, by jobs.

        Raises:
            CollectionNotFound (404). CollectionAttached (409). Invalid: no such field can be (422).
        """
        valid_field(name)
        async with self._db.join(tx, by.tenant) as tx:
            standing = await self._standing(tx, by.tenant, collection)
            if standing.attached_id is not None:
                raise CollectionAttached(
                    f"the documents of {collection} are rows of a table, which only its owner writes"
                )
            if not await store.declare(tx, by.tenant, collection, name, enrichment, self._clock.now()):
                return False
            await self._go_through(tx, by.tenant, collection, None)
            metadata = {"model": enrichment.model, "revision": enrichment.revision.hex()[:16]}
            await self._audit.record(tx, by, "content.enrich", f"content:{collection}#{name}", metadata=metadata)
        return True

    async def remove(self, by: Principal, collection: str, name: str, *, tx: Tx | None = None) -> None:
        """Fills the field no longer; what was filled stays in the documents.

        Raises:
            EnrichmentNotFound: no model fills it (404).
        """
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.remove(tx, by.tenant, collection, name):
                raise _not_found(collection, name)
            await self._audit.record(tx, by, "content.enrich_end", f"content:{collection}#{name}")

    async def standings(self, by: Principal, collection: str) -> Sequence[EnrichmentStanding]:
        """The fields that models fill, how far that is, and what it has cost.

        Raises:
            CollectionNotFound (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._standing(tx, by.tenant, collection)
            return await store.standings(tx, by.tenant, collection)

    async def failed(
        self, by: Principal, collection: str, name: str, after: str | None = None, limit: int = 50
    ) -> Sequence[Failed]:
        """Documents whose field could not be filled, and why, after the one with id `after`.

        Raises:
            EnrichmentNotFound: no model fills it (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._required(tx, by.tenant, collection, name)
            return await store.failed(tx, by.tenant, collection, name, after, limit)

    async def retry(self, by: Principal, collection: str, name: str, *, tx: Tx | None = None) -> int:
        """Tries those again that have failed. Returns how many documents there are.

        Raises:
            EnrichmentNotFound: no model fills it (404).
        """
        total, now = 0, self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            await self._required(tx, by.tenant, collection, name)
            while ids := await store.again(tx, by.tenant, collection, name, _AT_ONCE, now):
                await self._enqueue(tx, by.tenant, collection, dict.fromkeys(ids, f"retry:{now.isoformat()}"))
                total += len(ids)
            await self._audit.record(
                tx, by, "content.enrich_retry", f"content:{collection}#{name}", metadata={"documents": total}
            )
        return total

    async def fill(
        self, tx: Tx, tenant: UUID, standing: Standing, documents: Sequence[tuple[str, Body]]
    ) -> tuple[Sequence[tuple[str, Body]], Filling | None]:
        """The documents as they are to be written: with what was made of the same text, without what was made of
        another; and what is still to be made."""
        enrichments = await self._of(tx, tenant, standing)
        if not enrichments:
            return documents, None
        ids = sorted(id for id, _ in documents)
        await store.lock_documents(tx, tenant, standing.name, ids)
        made = await store.enriched(tx, tenant, standing.name, ids)
        filling = Filling()
        bodies = [(id, as_json(body)) for id, body in documents]
        for id, body in bodies:
            _settle(id, body, enrichments, made, filling)
        return bodies, filling

    async def filled(self, tx: Tx, tenant: UUID, collection: str, filling: Filling) -> None:
        """Once the documents are written: what is to be made is asked for when `tx` commits."""
        now = self._clock.now()
        if filling.given:
            await store.forget(tx, tenant, collection, filling.given)
        if filling.wanted:
            await store.want(tx, tenant, collection, filling.wanted, now)
            asked = {id: source.hex()[:16] for id, _, source in filling.wanted}
            await self._enqueue(tx, tenant, collection, asked)

    async def _run(self, context: JobContext, input: Fill) -> None:
        for question in await self._questions(context, input):
            said = await self._ask(context, input, question)
            async with context.transaction() as tx:
                await self._write(tx, context, input, question, said)

    async def _questions(self, context: JobContext, input: Fill) -> Sequence[_Question]:
        """What is to be asked about the document and no other job asks; from now on this one does."""
        now = self._clock.now()
        async with context.transaction() as tx:
            taken = await store.take(
                tx, context.tenant, input.collection, input.id, job=context.job, now=now, lost=now - _LOST
            )
            enrichments = await store.enrichments(tx, context.tenant, input.collection) if taken else {}
            document = await content_store.get(tx, context.tenant, input.collection, input.id) if taken else None
        if document is None:
            return []
        asked = (_question(name, enrichments, document.body) for name in sorted(taken.keys() & enrichments.keys()))
        return [one for one in asked if one.source == taken[one.field]]

    async def _ask(self, context: JobContext, input: Fill, question: _Question) -> _Said:
        """Asks the model, with no connection held. What will be refused again is an error to be shown; anything else
        is raised, and the job tries again later."""
        request = {
            "model": question.enrichment.model,
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": question.enrichment.max_tokens,
        }
        about = f"{input.collection}:{input.id}:{question.field}:{question.source.hex()}"
        try:
            answer = await self._gateway.complete(
                context.by, request, feature=FEATURE, idempotency=about[-255:], internal=True
            )
        except (ContentFiltered, ContextTooLong, ModelNotFound, PriceUnknown, BadRequest) as error:
            return _Said(Decimal(0), error=error.detail[:2000])
        except ProviderRefused as error:
            if error.status not in _FAULT_OF_INPUT:
                raise
            return _Said(Decimal(0), error=telemetry.scrub(error.detail)[:2000])
        return _said(answer, question.enrichment.max_tokens)

    async def _write(self, tx: Tx, context: JobContext, input: Fill, question: _Question, said: _Said) -> None:
        """Keeps what the model said, and writes it into the document if that still has the text it is about."""
        tenant, collection, id = context.tenant, input.collection, input.id
        await content_store.share_writes(tx, tenant, collection)
        await store.lock_documents(tx, tenant, collection, [id])
        kept = await store.answered(
            tx,
            tenant,
            collection,
            id,
            question.field,
            question.source,
            value=said.value,
            error=said.error,
            cost=said.cost,
        )
        if not kept or said.value is None:
            return
        document = await content_store.get(tx, tenant, collection, id)
        if document is not None:
            body = document.body | {question.field: said.value}
            await self._content.put_many(context.by, collection, [(id, body)], tx=tx)

    async def _look_through(self, context: JobContext, input: Refresh) -> None:
        """Writes a page of documents as they stand: what is to be filled in them is found on the way."""
        async with context.transaction() as tx:
            page = await content_store.documents(tx, context.tenant, input.collection, input.after, _PAGE)
            if not page:
                return
            as_they_stand = [(document.id, document.body) for document in page]
            await self._content.put_many(context.by, input.collection, as_they_stand, tx=tx)
            await self._go_through(tx, context.tenant, input.collection, page[-1].id)

    async def _go_through(self, tx: Tx, tenant: UUID, collection: str, after: str | None) -> None:
        await self._refresh.enqueue(Refresh(collection=collection, after=after), tenant=tenant, tx=tx)

    async def _enqueue(self, tx: Tx, tenant: UUID, collection: str, asked: Mapping[str, str]) -> None:
        """A job for each document, with what asks for it: two writers that shared a key would wait for each other."""
        inputs: list[tuple[str | None, BaseModel]] = [
            (f"{because}:{id}:{collection}"[:500], Fill(collection=collection, id=id)) for id, because in asked.items()
        ]
        await self._jobs.enqueue_many(ENRICH, inputs, tenant=tenant, tx=tx)

    async def _of(self, tx: Tx, tenant: UUID, standing: Standing) -> dict[str, Enrichment]:
        """What fills the collection's fields; what code registers is declared for the tenant on its first write."""
        registered = self._registered.get(standing.name, {})
        if not registered and not standing.enriched:
            return {}
        found = await store.enrichments(tx, tenant, standing.name)
        for name, enrichment in registered.items():
            if found.get(name) != enrichment:
                by = Principal.system(tenant, f"collection:{standing.name}")
                await self.declare(by, standing.name, name, enrichment, tx=tx)
        return found | registered

    async def _standing(self, tx: Tx, tenant: UUID, name: str) -> Standing:
        standing = await content_store.collection(tx, tenant, name)
        if standing is None:
            raise CollectionNotFound(f"there is no collection {name!r}")
        return standing

    async def _required(self, tx: Tx, tenant: UUID, collection: str, name: str) -> None:
        if name not in await store.enrichments(tx, tenant, collection):
            raise _not_found(collection, name)


def _settle(
    id: str,
    body: dict[str, Any],
    enrichments: Mapping[str, Enrichment],
    made: Mapping[tuple[str, str], Enriched],
    filling: Filling,
) -> None:
    """Puts into `body` what was made of the same text; notes what is to be made, and what the caller wrote."""
    for name in enrichments:
        row, value = made.get((id, name)), body.get(name)
        if value not in (None, "") and (row is None or value != row.value):
            if row is not None:
                filling.given.append((id, name))
            continue
        question = _question(name, enrichments, body)
        if row is not None and row.source == question.source:
            if row.value is not None:
                body[name] = row.value
            continue
        body.pop(name, None)
        filling.wanted.append((id, name, question.source))


def _question(name: str, enrichments: Mapping[str, Enrichment], body: Mapping[str, Any]) -> _Question:
    enrichment = enrichments[name]
    text = enrichment.asks({key: value for key, value in body.items() if key != name}, frozenset(enrichments))
    return _Question(name, enrichment, text, enrichment.source(text))


def _said(answer: Answer, max_tokens: int) -> _Said:
    choice = answer["choices"][0]
    text = str(choice["message"].get("content") or "").replace("\0", "").strip()
    if choice.get("finish_reason") == "length":
        return _Said(answer.cost, error=f"the answer was cut off at max_tokens={max_tokens}; allow more")
    if not text:
        return _Said(answer.cost, error="the model said nothing")
    if len(text) > _MAX_VALUE:
        return _Said(
            answer.cost, error=f"the answer has {len(text)} characters; {_MAX_VALUE} are the most that is kept"
        )
    return _Said(answer.cost, value=text)


def _not_found(collection: str, name: str) -> EnrichmentNotFound:
    return EnrichmentNotFound(f"no model fills the field {name!r} of {collection}")
