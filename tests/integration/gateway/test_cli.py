"""The commands, each in a process of its own."""

import asyncio
import json
import sys

import httpx

from backstay.auth import Auth
from backstay.kernel.principal import Principal

RUN = "import typer, backstay.gateway.cli as cli; {}"


async def test_the_simulator_serves_on_its_own():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN.format("typer.run(cli.sim)"), "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            url = (await process.stdout.readline()).decode().split("=")[1].strip()
            async with httpx.AsyncClient(base_url=url) as http:
                ask = {"model": "sim:echo", "messages": [{"role": "user", "content": "hello"}]}
                answer = (await http.post("/chat/completions", json=ask)).json()
                assert answer["choices"][0]["message"]["content"] == "hello"
                names = [model["id"] for model in (await http.get("/models")).json()["data"]]
        assert "sim:dev-hash" in names
    finally:
        process.kill()
        await process.wait()


async def test_spend_is_printed(gateway, auth: Auth, settings, monkeypatch):
    tenant = await auth.ensure_default_tenant()
    ask = {"model": "sim:echo?price=0.25", "messages": [{"role": "user", "content": "hello"}]}
    await gateway.complete(Principal.system(tenant.id, "test"), ask, feature="greeting")
    monkeypatch.setenv("BACKSTAY_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("BACKSTAY_MASTER_KEY", settings.master_key.get_secret_value())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN.format("cli.commands()"), "spend", "--json", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    (row,) = json.loads(out)
    assert (row["name"], row["calls"], float(row["cost"])) == ("greeting", 1, 0.25)
