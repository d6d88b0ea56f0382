"""What the catalogue holds beside routes and prices: provider accounts, and what may be wrong with a change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from ...kernel.errors import BackstayError, Conflict, FieldError, Invalid, NotFound, Unavailable
from .route import PREFIX, Route

ACCOUNT_NAME = rf"^{PREFIX}$"
# Kinds of providers that an account may be of, unless the pipeline says which there are.
KINDS = frozenset(
    {
        *("openai", "anthropic", "gemini", "azure", "mistral", "groq", "together"),
        *("openrouter", "deepseek", "xai", "vllm", "ollama"),
    }
)
FINE_TUNED = "ft"  # ft:gpt-4o:… is a name of OpenAI's own, not an account's
RESERVED = frozenset({"sim", "local", FINE_TUNED})
MAX_SECRETS = 5
_SHOWN, _LONG_ENOUGH = 4, 12
_TELLING = frozenset({"key", "secret", "password", "token", "authorization", "credentials"})


class RouteNotFound(NotFound):
    code, title = "route_not_found", "Route not found"


class RouteUnreadable(Unavailable):
    code, title = "route_unreadable", "The route cannot be read by this release"


class ProviderNotFound(NotFound):
    code, title = "provider_not_found", "Provider account not found"


class SecretNotFound(NotFound):
    code, title = "secret_not_found", "Secret not found"


class PriceNotFound(NotFound):
    code, title = "price_not_found", "Price not found"


class PriceExists(Conflict):
    code, title = "price_exists", "There is a price for this pattern from this moment on already"


class CatalogFull(Conflict):
    code, title = "catalog_full", "There are too many of these already"


class RevisionMismatch(BackstayError):
    """Somebody else has changed it since it was read."""

    code, status, title = "revision_mismatch", 412, "It was changed meanwhile"


class SecretNeeded(Invalid):
    """A stored secret goes only where it was given for."""

    code, title = "secret_needed", "The secret must be given again"


def _sendable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text.startswith("{"):
        # The credentials of some clouds are JSON; they sign requests and are never sent as they are.
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValueError("begins like a JSON object and is none") from None
    elif not (text.isascii() and text.isprintable() and text == text.strip()):
        raise ValueError("must travel in a header: printable ASCII, no space at either end")
    return secret


def _plain_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://provider.example/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://provider.example/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("must have no user, password, query or fragment: what is secret belongs in `secret`")
    return url.rstrip("/")


def _without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    for name in _names(options):
        if name.lower().replace("-", "_").rpartition("_")[2] in _TELLING:
            raise ValueError(f"the option {name!r} looks like a secret, and options are shown: put it in `secret`")
    return options


def _names(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


Secret = Annotated[
    SecretStr,
    Field(min_length=1, max_length=16_384, description="Written once and never shown; sealed at rest."),
    AfterValidator(_sendable),
]
BaseUrl = Annotated[
    str, StringConstraints(pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$", max_length=2_000), AfterValidator(_plain_url)
]


class NewAccount(BaseModel):
    """A provider account to set."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "kind": "azure",
                    "base_url": "https://acme.openai.azure.com",
                    "options": {"api_version": "2025-04-01"},
                    "secret": "the key that the provider has given you",
                }
            ]
        },
    )

    kind: str = Field(min_length=1, max_length=64, description="Which provider it is an account of.")
    base_url: BaseUrl | None = Field(None, description="Where it is reached, if not where that provider usually is.")
    options: Annotated[dict[str, Any], AfterValidator(_without_secrets)] = Field(
        default_factory=dict, description="What this kind needs beside: an API version, a map of deployments."
    )
    secret: Secret | None = Field(None, description="The key. Left out, the one that stands is kept.")


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret at rest. `last4` is empty for a short one. It is used until before `ends_at`, where that is set."""

    id: UUID
    account: str
    sealed: bytes = field(repr=False)
    last4: str
    set_at: datetime
    ends_at: datetime | None = None

    def good(self, at: datetime) -> bool:
        return self.ends_at is None or at < self.ends_at


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant's own account at a provider; its name is the prefix in `name:model`. Newest secret first."""

    name: str
    kind: str
    base_url: str | None
    options: Mapping[str, Any]
    revision: int
    created_at: datetime
    updated_at: datetime
    secrets: tuple[SealedSecret, ...] = ()

    def told(self) -> dict[str, Any]:
        """The account as the audit keeps it."""
        return {"kind": self.kind, "base_url": self.base_url, "options": dict(self.options)}


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route as it stands. `revision` counts its changes, from 1; None for one of the operator's.

    `route` is None when this release does not understand what a newer one has stored.
    """

    name: str
    route: Route | None
    revision: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def readable(self) -> Route:
        """Raises RouteUnreadable (503)."""
        if self.route is None:
            raise RouteUnreadable(
                f"the route {self.name} was stored by a newer release than this process is of; deploy that one, or "
                "store the route again"
            )
        return self.route


def sealing_context(tenant: UUID, account: str, id: UUID) -> bytes:
    """What a sealed secret is bound to: it opens for no other tenant, account or secret."""
    return f"provider-secret:{tenant}:{account}:{id}".encode()


def field_errors(error: ValidationError, at: str = "") -> list[FieldError]:
    """What is wrong and where, without what was given."""
    return [
        FieldError(".".join(map(str, (*([at] if at else []), *item["loc"]))), item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def shown(secret: str) -> str:
    """The end of a secret by which people tell it from others; nothing of one that is short."""
    return secret[-_SHOWN:] if len(secret) >= _LONG_ENOUGH else ""
