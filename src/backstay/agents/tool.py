"""A tool: a typed Python function that a model may call."""

import asyncio
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from ..kernel.errors import ConfigurationError
from ..workflows.encoding import name_of
from .consent import Consent, consent_of
from .context import ToolContext
from .errors import ToolError
from .signature import KEY, Signature
from .texts import bounded, json_without_nul, without_nul

P = ParamSpec("P")
R = TypeVar("R")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ANY: TypeAdapter[Any] = TypeAdapter(Any)
MAX_RESULT = 32_000


class Offer(Protocol):
    """What an agent may offer to its model: a Tool, or one of a server elsewhere."""

    name: str
    description: str
    schema: dict[str, Any]
    consent: Consent | None

    def check(self, arguments: str) -> None: ...

    async def call(self, context: ToolContext, arguments: str) -> str: ...


class Source(Protocol):
    """Where an agent finds tools when it replies, such as an MCP server."""

    name: str

    async def list_tools(self) -> list[Any]: ...

    def offer(self, spec: Any) -> Offer: ...


class Tool(Generic[P, R]):
    """Calling it calls the function. What the model sees of it is `name`, `description` and `schema`."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        requires_approval: bool | Consent = False,
        max_result: int = MAX_RESULT,
    ) -> None:
        self.function = function
        self.name = name or name_of(function).rpartition(".")[2]
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"{self.name!r} is no name for a tool: models take letters, digits, _ and -, at most 64. "
                "Give it one: `app.tool(function, name=...)`"
            )
        if max_result < 1:
            raise ConfigurationError(f"max_result of the tool {self.name} must be a number of characters, at least 1")
        self.consent = consent_of(requires_approval)
        self.max_result = max_result
        self._signature = Signature(function, self.name)
        self.description = description if description is not None else self._signature.description
        self.schema = self._signature.schema
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    def check(self, arguments: str) -> None:
        """Raises BadArguments: the model's arguments (JSON) do not fit the signature."""
        self._signature.read(arguments)

    async def call(self, context: ToolContext, arguments: str) -> str:
        """What the function returns, as text for the model: texts as they are, everything else as JSON.

        A function that is not async runs in a thread.

        Raises:
            BadArguments: the arguments do not fit. ToolError: the result has no JSON form. What the function raises.
        """
        values = self._signature.read(arguments)
        if self._signature.context is not None:
            values[self._signature.context] = context
        if self._signature.wants_key:
            values[KEY] = context.idempotency_key
        return bounded(_told(await _called(self.function, values), self.name), self.max_result)


async def _called(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function(**values)
    value = await asyncio.to_thread(function, **values)
    return await value if inspect.isawaitable(value) else value


def _told(value: Any, name: str) -> str:
    if isinstance(value, str):
        return without_nul(value)
    try:
        return json_without_nul(_ANY.dump_json(value).decode())
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise ToolError(f"the tool {name} returned a {type(value).__name__}, which has no JSON form: {error}") from None
