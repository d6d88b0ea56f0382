"""The agents of an App, by name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack, overload

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from ..kernel.errors import ConfigurationError
from .agent import Agent, Means
from .errors import AgentNotFound
from .limits import Limits
from .toolbox import Toolbox

O = TypeVar("O")  # noqa: E741 -- output
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_OURS = {"model", "messages", "tools", "response_format", "stream", "stream_options", "n"}
_BOUNDS = {field.name for field in fields(Limits)}


class Options(TypedDict, total=False):
    """`tools`: what `app.tool` made, plain functions, or MCP servers. `parameters`: more of the request to the model,
    such as `{"temperature": 0}`. The others bound one reply, see Limits."""

    tools: Iterable[Any]
    instructions: str
    parameters: Mapping[str, Any]
    max_steps: int
    max_tokens: int
    deadline: timedelta
    max_repeats: int


class Roster:
    """A name stands for one agent."""

    def __init__(self, means: Means, toolbox: Toolbox) -> None:
        self._means, self._toolbox = means, toolbox
        self._agents: dict[str, Agent[Any]] = {}

    @overload
    def agent(self, name: str, *, model: str, output: type[O], **options: Unpack[Options]) -> Agent[O]: ...
    @overload
    def agent(self, name: str, *, model: str, output: None = None, **options: Unpack[Options]) -> Agent[str]: ...
    def agent(
        self, name: str, *, model: str, output: type[Any] | None = None, **options: Unpack[Options]
    ) -> Agent[Any]:
        """Registers an agent: `model` (a route or `provider:model`) with `tools` and `instructions`.

        `output`: a type that the answer must fit; the model is asked for JSON of its schema, and told what is wrong
        with an answer that does not fit. `max_steps` (model and tool calls together), `max_tokens` (input and output
        of all model calls), `deadline` and `max_repeats` (of a call with the same arguments) bound one reply.

        Raises:
            ConfigurationError: the name is taken or no name, two tools have one name, or a limit allows nothing.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is no name for an agent: it may have letters, digits, `_`, `.` and `-`, at most 100"
            )
        if name in self._agents:
            raise ConfigurationError(f"an agent is called {name} already; give one of them another name")
        parameters = options.get("parameters", {})
        if taken := _OURS & set(parameters):
            raise ConfigurationError(f"the agent {name} sets {', '.join(sorted(taken))} itself: not in `parameters`")
        bounds: dict[str, Any] = {key: value for key, value in options.items() if key in _BOUNDS}
        tools, sources = self._toolbox.sorted_out(options.get("tools", ()))
        made = Agent(
            name,
            model,
            self._means,
            tools=tools,
            sources=sources,
            instructions=options.get("instructions", ""),
            output=None if output is None else _adapter(output, name),
            limits=Limits(**bounds).checked(name),
            parameters=parameters,
        )
        self._agents[name] = made
        return made

    def find(self, name: str) -> Agent[Any]:
        """Raises AgentNotFound (404)."""
        if name not in self._agents:
            raise AgentNotFound(f"no agent is called {name!r}; registered here: {', '.join(self.names) or 'none'}")
        return self._agents[name]

    @property
    def names(self) -> list[str]:
        return sorted(self._agents)


def _adapter(output: type[Any], name: str) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter(output)
        adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        what = str(error).splitlines()[0]
        raise ConfigurationError(f"the output of the agent {name} has no schema: {what}") from None
    return adapter
