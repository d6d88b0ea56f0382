"""Tools of a real MCP server, over stdio and over streamable HTTP."""

import asyncio
import json
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from backstay.agents import McpServer
from backstay.kernel.errors import ConfigurationError

PROGRAM = str(Path(__file__).with_name("mcp_server.py"))


@asynccontextmanager
async def listening():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(sys.executable, PROGRAM, str(port), stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"running on" not in await process.stderr.readline():
                pass
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.communicate()


@asynccontextmanager
async def served(kind):
    if kind == "stdio":
        yield {"command": [sys.executable, PROGRAM]}
    else:
        async with listening() as url:
            yield {"url": url}


def script(*steps):
    return json.dumps({"script": steps})


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_an_agent_calls_the_tools_of_a_server_and_hears_of_its_errors(app, owner, worker, kind):
    asked = [{"tool": "sky", "arguments": {"city": city}} for city in ("Paris", "Atlantis")]
    steps = script({"calls": [*asked, {"tool": "sky", "arguments": {}}, {"tool": "secret"}]}, {"content": "Clear."})
    async with served(kind) as where:
        weather = McpServer("weather", only=["sky"], **where)
        desk = app.agent("desk", model="sim:script", tools=[weather], instructions=steps)
        started = await desk.start("How is the sky?", by=owner)
        result = await started.result(timeout=40)
    told = [message["content"] for message in result.messages if message["role"] == "tool"]
    assert told[0].startswith("clear over Paris")
    assert "there is no such city" in told[1]
    assert "city" in told[2]
    assert told[3] == "There is no tool 'secret'. There are: sky."
    names = [step.name for step in (await app.workflows.get(owner, started.id)).steps]
    assert names[:3] == ["tools:weather", "model:1", "tool:sky:2"]


def test_a_server_is_reached_in_one_way():
    for where in ({}, {"command": ["x"], "url": "http://127.0.0.1:1/mcp"}):
        with pytest.raises(ConfigurationError, match="needs either a `command` that starts it or a `url`"):
            McpServer("weather", **where)
