"""What came of a tool call, in the form that is recorded."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_ai import ModelRetry, ToolReturn
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailed
from pydantic_ai.messages import ToolReturnContent
from pydantic_core import PydanticSerializationError

from ...kernel.errors import ConfigurationError, Invalid
from ..consent import Consent
from ..context import ToolContext
from ..errors import ToolError
from ..texts import json_without_nul

_CONTENT: TypeAdapter[Any] = TypeAdapter(ToolReturnContent)
_RETURN: TypeAdapter[ToolReturn[Any]] = TypeAdapter(ToolReturn[Any])
CONTEXT: ContextVar[ToolContext] = ContextVar("backstay_tool_context")
"""Of the tool call that is under way."""

Kind = Literal["content", "return", "retry", "failed"]


class Outcome(BaseModel):
    """`text`: what the tool returned as JSON (`content`; `return` for a ToolReturn), or what the model is told."""

    model_config = ConfigDict(frozen=True)
    kind: Kind
    text: str

    def value(self) -> Any:
        """What the tool returned.

        Raises:
            ModelRetry, ToolFailed: as the tool did.
        """
        match self.kind:
            case "retry":
                raise ModelRetry(self.text)
            case "failed":
                raise ToolFailed(self.text)
            case "return":
                return _RETURN.validate_json(self.text)
        return _CONTENT.validate_json(self.text)


class Made:
    """One call as our Hands make it. pydantic-ai has checked the arguments and asked a human by now."""

    description = ""
    consent: Consent | None = None

    def __init__(self, name: str, make: Callable[[], Awaitable[Any]]) -> None:
        self.name, self._make = name, make
        self.schema: dict[str, Any] = {}
        self.kind: Kind = "content"

    def check(self, arguments: str) -> None: ...

    async def call(self, context: ToolContext, arguments: str) -> str:
        """Raises ToolError: the model is to be told."""
        token = CONTEXT.set(context)
        try:
            value = await self._make()
        except ModelRetry as retry:
            self.kind = "retry"
            raise ToolError(retry.message) from retry
        except ToolFailed as failed:
            self.kind = "failed"
            raise ToolError(failed.message) from failed
        except ToolError:
            self.kind = "failed"
            raise
        except (ApprovalRequired, CallDeferred) as deferred:
            raise ConfigurationError(
                f"the tool {self.name} raised {type(deferred).__name__} inside its step; declare it with "
                "`requires_approval=True`, or as an external tool, so that the step does not begin"
            ) from deferred
        finally:
            CONTEXT.reset(token)
        return self._as_json(value)

    def _as_json(self, value: Any) -> str:
        adapter: TypeAdapter[Any] = _CONTENT
        if isinstance(value, ToolReturn):
            adapter, self.kind = _RETURN, "return"
        try:
            return json_without_nul(adapter.dump_json(value).decode())
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            what = f"the tool {self.name} returned a {type(value).__name__}, which has no JSON form: {error}"
            raise Invalid(what) from None
