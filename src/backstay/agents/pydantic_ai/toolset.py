"""The tools of an agent of pydantic-ai, each call a step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import to_json

from ...kernel.errors import ConfigurationError
from ..context import ToolContext
from ..texts import json_without_nul
from ..turn import Call
from .journey import Journey
from .outcome import CONTEXT, Made


def tool_context() -> ToolContext:
    """Who the tool call under way acts for, its run, its idempotency key, and the model call that asked for it.

    Raises:
        ConfigurationError: no tool call of a durable agent is under way here.
    """
    try:
        return CONTEXT.get()
    except LookupError:
        raise ConfigurationError("tool_context() is for tools of a durable agent, while they are called") from None


class AsSteps(AbstractCapability[Any]):
    """Puts the steps around all of the agent's tools, those of its toolsets and capabilities included."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        return _Steps(toolset, self._journey)


@dataclass
class _Steps(WrapperToolset[Any]):
    journey: Journey

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        arguments = json_without_nul(to_json(tool_args, fallback=repr).decode())
        call = Call(id=ctx.tool_call_id or "", name=name, arguments=arguments)
        outcome = await self.journey.use(call, Made(name, partial(super().call_tool, name, tool_args, ctx, tool)))
        return outcome.value()
