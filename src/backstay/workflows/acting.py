"""Who a run acts for, as it is stored with the run."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..kernel.principal import Principal


def stored(by: Principal) -> dict[str, Any]:
    return {
        "id": str(by.id),
        "name": by.name,
        "permissions": sorted(by.permissions),
        "key": None if by.key is None else str(by.key),
        "feature": by.feature,
        "role": by.role,
        "purses": [str(run) for run in by.purses],
    }


def acting(tenant: UUID, principal: Mapping[str, Any]) -> Principal:
    """What `stored` kept."""
    return Principal(
        tenant=tenant,
        id=UUID(principal["id"]),
        name=principal["name"],
        permissions=frozenset(principal["permissions"]),
        key=UUID(principal["key"]) if principal.get("key") else None,
        feature=principal.get("feature"),
        role=principal.get("role"),
        purses=tuple(map(UUID, principal.get("purses", ()))),
    )
