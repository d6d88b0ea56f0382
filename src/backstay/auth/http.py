"""API keys over HTTP."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, View, service
from .models import KeyNotFound, PrincipalExists, UnknownRole
from .service import Auth

router = Router("/api/keys", tag="auth")
Service = Annotated[Auth, service("auth")]


class NewKey(BaseModel):
    """A principal to create, with a key of its own."""

    name: str = Field(min_length=1, max_length=100, description="Unique in the tenant.")
    role: str = Field("developer", description="owner, admin, developer, operator, approver, auditor or viewer.")
    scopes: list[str] = Field([], max_length=100, description="Narrows the role; empty: the whole role.")
    feature: str | None = Field(None, max_length=100, description="Tags this key's model calls.")
    expires_at: AwareDatetime | None = None


class NewKeyView(BaseModel):
    """The only answer that ever holds the secret."""

    id: UUID
    prefix: str
    secret: str


class KeyView(View):
    id: UUID
    principal: str
    role: str
    prefix: str
    scopes: list[str]
    feature: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@router.post("", permission="keys:write", status=201, errors=[PrincipalExists, UnknownRole])
async def create(body: NewKey, by: Caller, tx: Tx, auth: Service) -> NewKeyView:
    """Create a principal and its API key. The secret is shown in this answer only."""
    issued = await auth.create_key(
        by, body.name, body.role, scopes=body.scopes, feature=body.feature, expires_at=body.expires_at, tx=tx
    )
    return NewKeyView(id=issued.id, prefix=issued.prefix, secret=issued.secret)


@router.get("", permission="keys:read")
async def index(by: Caller, page: PageRequest, auth: Service) -> Page[KeyView]:
    """The tenant's keys, newest first, without their secrets."""
    keys = await auth.keys(by, page.after_id, page.limit + 1)
    return Page.of([KeyView.of(key) for key in keys], page, lambda key: [key.id])


@router.delete("/{id}", permission="keys:write", status=204, errors=[KeyNotFound])
async def revoke(id: UUID, by: Caller, tx: Tx, auth: Service) -> None:
    """Revoke a key for good."""
    await auth.revoke_key(by, id, tx=tx)
