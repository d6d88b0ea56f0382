"""The tools of an App, by name."""

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, overload

from ..kernel.errors import ConfigurationError
from .consent import Consent
from .tool import MAX_RESULT, Offer, Source, Tool

P = ParamSpec("P")
R = TypeVar("R")


class Toolbox:
    """A name stands for one tool."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool[Any, Any]] = {}

    def __iter__(self) -> Any:
        return iter(self._tools.values())

    @overload
    def tool(self, function: Callable[P, R], /) -> Tool[P, R]: ...
    @overload
    def tool(
        self,
        function: Callable[P, R],
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        requires_approval: bool | Consent = False,
        max_result: int = MAX_RESULT,
    ) -> Tool[P, R]: ...
    @overload
    def tool(
        self,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        requires_approval: bool | Consent = False,
        max_result: int = MAX_RESULT,
    ) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
    def tool(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Makes a typed function a tool, as `@app.tool`, `@app.tool(name=...)` or `app.tool(function, ...)`.

        Its parameters are what the model may hand in, checked strictly by their annotations; the docstring describes
        them (`Args:`). It may be async or not. What it returns goes to the model as text or JSON, at most `max_result`
        characters of it. A parameter `idempotency_key` or of the type ToolContext is filled by Backstay.
        `requires_approval`: a human decides about each call; a Consent says who, and what holds when nobody does.

        Raises:
            ConfigurationError: the name is taken or no name for a tool, or a parameter has no usable type.
        """
        if function is None:
            return lambda function: self._add(Tool(function, **options))
        return self._add(Tool(function, **options))

    def sorted_out(self, given: Iterable[Any]) -> tuple[list[Offer], list[Source]]:
        """What an agent is given: tools, and sources of more. Raises as `all_of`."""
        tools: list[Any] = []
        sources: list[Source] = []
        for one in given:
            (sources if callable(getattr(one, "list_tools", None)) else tools).append(one)
        return self.all_of(tools), sources

    def all_of(self, given: Iterable[Any]) -> list[Offer]:
        """Tools as an agent is given them; a plain function becomes one.

        Raises:
            ConfigurationError: two have the same name, or one is no function.
        """
        found: dict[str, Offer] = {}
        for one in given:
            offer = self._tool_of(one)
            if offer.name in found:
                raise ConfigurationError(f"two tools of the agent are called {offer.name}; give one another name")
            found[offer.name] = offer
        return list(found.values())

    def _tool_of(self, one: Any) -> Offer:
        if callable(getattr(one, "check", None)) and callable(getattr(one, "call", None)):
            offer: Offer = one
            return offer
        if not callable(one):
            raise ConfigurationError(f"{one!r} is no tool: hand in functions, or what `app.tool` makes of them")
        return Tool(one)

    def _add(self, tool: Tool[Any, Any]) -> Tool[Any, Any]:
        if tool.name in self._tools:
            raise ConfigurationError(f"a tool is called {tool.name} already; give one of them another name")
        self._tools[tool.name] = tool
        return tool
