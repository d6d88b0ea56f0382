"""Tools of MCP servers: listed once in each reply, as a step, and called like any other tool.

Each listing and each call has a connection of its own, so that a run may go on in another process. A server that is
started as a process (`stdio`) is started anew each time; one that is reached over HTTP costs a handshake.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict

from ..kernel.errors import ConfigurationError
from .consent import Consent, consent_of
from .context import ToolContext
from .errors import ToolError
from .signature import BadArguments
from .texts import bounded, without_nul
from .tool import MAX_RESULT

if TYPE_CHECKING:
    from mcp import Client

_PAGES = 50  # of a listing, at most


class ToolSpec(BaseModel):
    """A tool as its server describes it; recorded, so that a replay offers the same ones."""

    model_config = ConfigDict(frozen=True)
    name: str
    description: str
    parameters: dict[str, Any]


class McpServer:
    """An MCP server as a source of tools: `tools=[McpServer("files", command=["files-server", "--read-only"])]`.

    `command` starts it and speaks to it over its standard input and output, with `env` beside the usual variables;
    `url` reaches one that listens (streamable HTTP). `only`: the tools to offer, all when None. `requires_approval` as
    for `app.tool`, for each of them. `timeout`: seconds for one answer.

    Raises:
        ConfigurationError: not just one of `command` and `url` is given, or the client is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
        requires_approval: bool | Consent = False,
        max_result: int = MAX_RESULT,
        timeout: float = 60.0,
    ) -> None:
        if bool(command) == bool(url):
            raise ConfigurationError(f"the MCP server {name} needs either a `command` that starts it or a `url`")
        try:
            from mcp.client.stdio import StdioServerParameters
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "mcp":
                raise
            raise ConfigurationError("the MCP client is not installed: `pip install 'backstay[mcp]'`") from None
        self.name, self.consent, self.max_result = name, consent_of(requires_approval), max_result
        self._only, self._timeout = None if only is None else frozenset(only), timeout
        self._target: str | StdioServerParameters = url or StdioServerParameters(
            command=command[0], args=list(command[1:]), env=dict(env) if env else None
        )

    def __repr__(self) -> str:
        return f"<McpServer {self.name}>"

    async def list_tools(self) -> list[ToolSpec]:
        """The tools that it offers now."""
        found, cursor = [], None
        async with self._connected() as client:
            for _ in range(_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                if (cursor := page.next_cursor) is None:
                    break
        return [
            ToolSpec(name=tool.name, description=tool.description or "", parameters=tool.input_schema)
            for tool in found
            if self._only is None or tool.name in self._only
        ]

    def offer(self, spec: ToolSpec) -> "McpTool":
        return McpTool(self, spec)

    async def call(self, name: str, arguments: dict[str, Any], context: ToolContext) -> str:
        """The result as text.

        Raises:
            ToolError: the tool says that it failed.
        """
        about: Any = {"backstay/idempotency-key": context.idempotency_key}
        async with self._connected() as client:
            result = await client.call_tool(name, arguments, meta=about)
        text = without_nul("\n".join(map(_text, result.content)))
        if result.is_error:
            raise ToolError(text or "the tool failed and did not say why")
        if not text and result.structured_content is not None:
            text = orjson.dumps(result.structured_content).decode()
        return bounded(text, self.max_result)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator["Client"]:
        from mcp import Client

        async with Client(self._target, read_timeout_seconds=self._timeout, cache=None) as client:
            yield client


class McpTool:
    """One tool of a server. The server itself checks the arguments."""

    def __init__(self, server: McpServer, spec: ToolSpec) -> None:
        self._server = server
        self.name, self.description, self.schema = spec.name, spec.description, spec.parameters
        self.consent = server.consent

    def check(self, arguments: str) -> None:
        """Raises BadArguments: they are no JSON object."""
        _read(arguments)

    async def call(self, context: ToolContext, arguments: str) -> str:
        return await self._server.call(self.name, _read(arguments), context)


def _read(arguments: str) -> dict[str, Any]:
    try:
        read = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError as error:
        raise BadArguments(f"The arguments are wrong: they are no JSON: {error}") from None
    if not isinstance(read, dict):
        raise BadArguments("The arguments are wrong: they must be a JSON object")
    return read


def _text(block: Any) -> str:
    text = getattr(block, "text", None)
    return text if isinstance(text, str) else f"[{getattr(block, 'type', 'content')} that cannot be shown as text]"
