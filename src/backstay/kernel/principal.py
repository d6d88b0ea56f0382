"""Who is acting, for which tenant, and what they may do."""

from dataclasses import dataclass
from uuid import UUID

from .errors import Forbidden

ALL = "*"
_SYSTEM = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller after authentication: a person, a program with an API key, or one of our own loops.

    `permissions` holds names such as `jobs:write`, `jobs:*` for a whole room, or `*` for everything. `role` is where
    they come from; None for our own loops. `purses`: the runs whose budgets bind what it spends.
    """

    tenant: UUID
    id: UUID
    name: str
    permissions: frozenset[str]
    key: UUID | None = None
    feature: str | None = None
    role: str | None = None
    purses: tuple[UUID, ...] = ()

    @classmethod
    def system(cls, tenant: UUID, name: str) -> "Principal":
        """One of Backstay's own loops, acting for `tenant` with every permission."""
        return cls(tenant=tenant, id=_SYSTEM, name=name, permissions=frozenset({ALL}))

    def may(self, permission: str) -> bool:
        room = permission.split(":", 1)[0]
        return bool(self.permissions & {permission, f"{room}:{ALL}", ALL})

    def require(self, permission: str) -> None:
        """Raises Forbidden when the permission is missing."""
        if not self.may(permission):
            raise Forbidden(f"this needs the permission {permission}, which {self.name} does not have")
