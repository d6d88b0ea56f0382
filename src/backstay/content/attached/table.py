"""An attached table as user code holds it."""

from typing import TYPE_CHECKING

from ...kernel.principal import Principal
from .models import AttachedStatus

if TYPE_CHECKING:
    from ..service import Content
    from .service import Attached


class AttachedTable:
    """A table of yours that is searched: `search`, `search_sql` and `coverage` are those of a Collection.

    A hit's `body` has the key's columns and the further ones you named (which `where` may ask for), its `id` the key as
    text. A tenant without a row in the table has no such collection (CollectionNotFound).
    """

    def __init__(self, attached: "Attached", content: "Content", name: str) -> None:
        collection = content.named(name)
        self._attached, self.name = attached, name
        self.search, self.search_sql, self.coverage = collection.search, collection.search_sql, collection.coverage

    async def status(self, by: Principal) -> AttachedStatus:
        """How far the table is, over all tenants. For the operator."""
        return await self._attached.status(by, self.name)
