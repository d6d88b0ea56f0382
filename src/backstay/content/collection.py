"""A collection as user code holds it: its name, how its documents are read, and the verbs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, ValidationError

from ..kernel.db import Tx
from ..kernel.errors import ConfigurationError, FieldError, Invalid
from ..kernel.principal import Principal
from .models import Coverage, Definition, Document, DocumentInvalid, Mode, Put, SearchAnswer, Standing
from .rerank import Chosen, Rerank
from .within import Given

if TYPE_CHECKING:
    from .explanations import Explanation
    from .service import Content
    from .statements import Statement

Body = BaseModel | Mapping[str, Any]
ModeName = Literal["auto", "text", "semantic", "hybrid"]


class Filler(Protocol):
    """Takes part in every write: fills fields of bodies, see `enrichment`."""

    def register(self, collection: str, name: str, *, model: str, prompt: str, max_tokens: int) -> None: ...

    async def fill(
        self, tx: Tx, tenant: UUID, standing: Standing, documents: Sequence[tuple[str, Body]]
    ) -> tuple[Sequence[tuple[str, Body]], Any]:
        """The documents as they are to be written, and what `filled` is to be told (None: nothing)."""
        ...

    async def filled(self, tx: Tx, tenant: UUID, collection: str, filling: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Registered:
    """What Python code says about a collection. `embed` makes the searched text of a body."""

    definition: Definition
    model: type[BaseModel] | None = None
    embed: Callable[[Any], str] | None = None
    rerank: Rerank | str | None = None

    def read(self, body: Body) -> tuple[dict[str, Any], str | None]:
        """The body as JSON and, when a function makes it, the searched text.

        Raises:
            DocumentInvalid: the body does not fit the model.
        """
        given: Any = body
        if self.model is not None and not isinstance(body, self.model):
            plain = body.model_dump() if isinstance(body, BaseModel) else dict(body)
            try:
                given = self.model.model_validate(plain)
            except ValidationError as error:
                raise _wrong(error) from None
        text = self.embed(given) if self.embed is not None else None
        return as_json(given), text


def as_json(body: Body) -> dict[str, Any]:
    return body.model_dump(mode="json") if isinstance(body, BaseModel) else dict(body)


class Collection:
    """Documents of one kind. Each verb acts for `by`, or for `tenant`, or for the tenant of `tx`."""

    def __init__(self, content: "Content", name: str) -> None:
        self._content, self.name = content, name

    def enrich(self, field: str, *, model: str, prompt: str, max_tokens: int = 500) -> None:
        """Has a model fill `field` of every document that is written without it, in the background.

        Args:
            model: a route, or `provider:model`.
            prompt: what is asked; `{title}` or `{author.name}` stand for fields of the body, and without any of them
                every text of the body follows.
            max_tokens: of the answer; one that is cut off is not kept.

        Raises:
            ConfigurationError: the field cannot be filled so, or is filled twice.
        """
        if self._content.filler is None:
            raise ConfigurationError("fields are filled by `Enrichments`, which this program has not made")
        self._content.filler.register(self.name, field, model=model, prompt=prompt, max_tokens=max_tokens)

    async def put(
        self, id: str, body: Body, *, by: Principal | None = None, tenant: UUID | None = None, tx: Tx | None = None
    ) -> Put:
        """Writes a document, new or changed; it is found as text from the commit on, and by its vector soon after.

        Chunks whose text did not change keep their vectors. Nothing is written when the same body stands already.
        The embedder is never waited for. Joins `tx` when given: nothing happens unless it commits.

        Raises:
            DocumentInvalid: the id or the body cannot be stored, or does not fit the model (422).
        """
        return (await self.put_many([(id, body)], by=by, tenant=tenant, tx=tx))[0]

    async def put_many(
        self,
        documents: Sequence[tuple[str, Body]],
        *,
        by: Principal | None = None,
        tenant: UUID | None = None,
        tx: Tx | None = None,
    ) -> list[Put]:
        """As `put` for many documents at once, all or none. Ids must differ; answers stand in the same order."""
        return await self._content.put_many(self._by(by, tenant, tx), self.name, documents, tx=tx)

    async def put_file(
        self, id: str, data: bytes, *, type: str | None = None, by: Principal | None = None, tenant: UUID | None = None
    ) -> Put:
        """Writes a PDF, DOCX, HTML, Markdown or text file as the document `{"title": …, "text": …, "pages": …}`.

        It is read before a transaction is opened. To write it in one of your own, call `app.content.read_file` first
        and put the `body` of what it returns.

        Args:
            type: its media type; without one that is known, the end of `id` decides.

        Raises:
            FileUnreadable, DocumentInvalid: it cannot be read, or not be stored (422).
            ReaderMissing: its kind needs the extra `files` (409).
        """
        return await self._content.put_file(self._by(by, tenant, None), self.name, id, data, type=type)

    async def get(
        self, id: str, *, by: Principal | None = None, tenant: UUID | None = None, tx: Tx | None = None
    ) -> Document:
        """One document.

        Raises:
            DocumentNotFound: there is none of that id (404).
        """
        return await self._content.get(self._by(by, tenant, tx), self.name, id, tx=tx)

    async def delete(
        self, id: str, *, by: Principal | None = None, tenant: UUID | None = None, tx: Tx | None = None
    ) -> bool:
        """Deletes a document with its chunks and vectors. False when there was none."""
        return await self._content.delete(self._by(by, tenant, tx), self.name, id, tx=tx)

    async def search(
        self,
        query: str,
        *,
        mode: ModeName | Mode = "auto",
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        within: Given | None = None,
        per_document: int | None = None,
        rerank: Chosen = None,
        by: Principal | None = None,
        tenant: UUID | None = None,
    ) -> SearchAnswer:
        """The `k` best chunks for `query`, best first. Committed documents only: the query's vector is an outside call.

        Args:
            mode: `text` (BM25), `semantic` (vectors), `hybrid` (both), or `auto`: hybrid when vectors stand and the
                embedder answers, else text.
            where: fields that a document's body must have, with these values, or with operators: `$eq`, `$ne`, `$lt`,
                `$lte`, `$gt`, `$gte`, `$in`, `$exists`, joined by `$and` and `$or` (see `filters`).
            within: your own SQL that gives the ids that may be found, alone or with its values:
                `("select id from product where price < %s", [10])`. Code writes it, never a caller of yours: it runs
                with the rights of `backstay_app`, fenced to the tenant.
            per_document: at most this many chunks of one document.
            rerank: scores the best 50 (or `k`) candidates once more: `async def f(query, hits)` that gives one number
                for each, or the name of a chat model. False: not, though the collection says so. When it fails or is
                late, the answer has the flag `not_reranked` and the order that it would have changed.

        Raises:
            CollectionNotFound: the tenant has no such collection (404).
            Invalid: the query, `k` or the filter cannot be (422).
            NoEmbedder: vectors are demanded of a collection without an embedder (409).
        """
        return await self._content.search(
            self._by(by, tenant, None),
            self.name,
            query,
            mode=mode,
            k=k,
            where=where,
            within=within,
            per_document=per_document,
            rerank=rerank,
        )

    async def explain(
        self,
        query: str,
        *,
        mode: ModeName | Mode = "auto",
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        within: Given | None = None,
        per_document: int | None = None,
        by: Principal | None = None,
        tenant: UUID | None = None,
    ) -> "Explanation":
        """Searches, and tells how it went: the mode and why, the weight of each word, which legs ran and how, what the
        filter lets through, times, and what would help. It searches twice, and does not rerank.

        Raises:
            As `search` does.
        """
        return await self._content.explain(
            self._by(by, tenant, None),
            self.name,
            query,
            mode=mode,
            k=k,
            where=where,
            within=within,
            per_document=per_document,
        )

    async def search_sql(
        self,
        query: str,
        *,
        mode: ModeName | Mode = "auto",
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        within: Given | None = None,
        per_document: int | None = None,
        by: Principal | None = None,
        tenant: UUID | None = None,
    ) -> "Statement":
        """The same search as SQL, to stand in your own SELECT: `f"select … from {found} hit join …"`.

        It finds what `search` finds, in the same order. Make it before your transaction begins, because the query's
        vector is an outside call; run it in that transaction, which must be fenced to the tenant as that of
        `app.transaction()` is. Documents that your transaction has written are found too. `within` is not run here:
        it runs as part of your statement, with your connection's rights.

        Raises:
            As `search` does.
        """
        return await self._content.search_sql(
            self._by(by, tenant, None),
            self.name,
            query,
            mode=mode,
            k=k,
            where=where,
            within=within,
            per_document=per_document,
        )

    async def coverage(self, tenant: UUID | None = None, *, by: Principal | None = None) -> Coverage:
        """How much of the collection has vectors, and for how long the oldest chunk has waited for its own."""
        return await self._content.coverage(self._by(by, tenant, None), self.name)

    def _by(self, by: Principal | None, tenant: UUID | None, tx: Tx | None) -> Principal:
        if by is not None:
            return by
        owner = tenant or (tx.tenant if tx is not None else None)
        if owner is None:
            raise Invalid(f"say for whom: collection {self.name} needs by=, tenant= or a tenant's tx=")
        return Principal.system(owner, f"collection:{self.name}")


def _wrong(error: ValidationError) -> DocumentInvalid:
    fields = [
        FieldError(".".join(map(str, item["loc"])) or "body", item["msg"])
        for item in error.errors(include_input=False, include_url=False)
    ]
    return DocumentInvalid(f"the body does not fit: {fields[0].field}: {fields[0].message}", errors=fields)
