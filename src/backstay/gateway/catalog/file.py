"""What the settings say about the gateway: `[gateway.routes.<name>]` in `backstay.toml`, for every tenant."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from ...kernel.errors import ConfigurationError
from .models import field_errors
from .route import ROUTE_NAME, Route, RouteDefinition


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    routes: dict[Annotated[str, StringConstraints(pattern=ROUTE_NAME)], RouteDefinition] = {}


def operators_routes(table: Mapping[str, Any]) -> dict[str, Route]:
    """The operator's routes by name, from the settings' `gateway` table.

    Raises:
        ConfigurationError: a key is not known or a value is wrong; the message names each.
    """
    try:
        read = _Table.model_validate(dict(table))
    except ValidationError as error:
        wrong = field_errors(error, "gateway")
        told = "; ".join(f"{item.field}: {_mend(item.message)}" for item in wrong)
        raise ConfigurationError(f"the gateway's settings are wrong: {told}", errors=wrong) from None
    return {name: Route.of(name, definition) for name, definition in read.routes.items()}


def _mend(message: str) -> str:
    return "unknown key; correct or remove it" if message.startswith("Extra inputs") else message
