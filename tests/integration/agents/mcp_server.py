"""A real MCP server, as a process: `python mcp_server.py [PORT]`, over standard input and output without a port."""

import os
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("weather")


@server.tool()
def sky(city: str) -> str:
    """How the sky is over a city."""
    if city == "Atlantis":
        raise ToolError("there is no such city")
    return f"clear over {city}, says {os.getpid()}"


@server.tool()
def secret() -> str:
    """What no agent is offered."""
    return "42"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
