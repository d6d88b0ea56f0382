"""The commands, each in a process of its own."""

import asyncio
import json
import sys

import httpx
import pytest

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


@pytest.fixture
def backstay(settings, monkeypatch):
    """Runs `backstay gateway …` in a process of its own: its exit code, and what it said."""
    monkeypatch.setenv("BACKSTAY_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("BACKSTAY_MASTER_KEY", settings.master_key.get_secret_value())

    async def run(*arguments):
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "backstay", "gateway", *arguments],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        return process.returncode, out.decode()

    return run


@pytest.fixture
async def spent(gateway, auth: Auth):
    tenant = await auth.ensure_default_tenant()
    ask = {"model": "sim:echo?price=0.25", "messages": [{"role": "user", "content": "hello"}]}
    for feature in ("greeting", "+greeting"):
        await gateway.complete(Principal.system(tenant.id, "test"), ask, feature=feature, user="ada")


async def test_spend_is_printed(backstay, spent):
    code, said = await backstay("spend", "--feature", "greeting", "--json")
    (row,) = json.loads(said)
    assert (code, row["name"], row["calls"], float(row["cost"])) == (0, "greeting", 1, 0.25)
    code, said = await backstay("spend", "--by", "day", "--user", "ada", "--csv")
    names, line = said.splitlines()
    assert (code, names) == (0, "day,calls,input_tokens,output_tokens,cost_usd")
    assert line.split(",")[1] == "2"
    assert (await backstay("spend", "--csv"))[1].splitlines()[1:] == ["'+greeting,1,5,1,0.25", "greeting,1,5,1,0.25"]
    assert await backstay("spend", "--until", "2020-01-01") == (0, "nothing spent yet\n")
    code, said = await backstay("spend", "--since", "2026-01-02", "--until", "2026-01-01")
    assert (code, said) == (1, "backstay: `until` must be later than `since`\n")
    code, said = await backstay("spend", "--by", "moon")
    assert code == 2
    assert "'moon' is not one of feature, user, key, model, day" in said


async def test_budgets_are_added_listed_and_removed(backstay):
    assert await backstay("budgets", "list") == (0, "no budgets\n")
    code, said = await backstay("budgets", "add", "feature", "2.50", "--subject", "chat", "--window", "day", "--soft")
    assert code == 0
    id = said.split()[1]
    assert said == f"budget {id} binds the next call\n"
    (shown,) = json.loads((await backstay("budgets", "list", "--json"))[1])
    assert (shown["id"], shown["scope"], shown["subject"]) == (id, "feature", "chat")
    assert (shown["limit"], shown["window"], shown["hard"]) == ("2.50", "day", False)
    assert f"{id}  feature  chat" in (await backstay("budgets", "list"))[1]
    assert await backstay("budgets", "rm", id) == (0, f"budget {id} is lifted\n")
    code, said = await backstay("budgets", "rm", id)
    assert (code, said) == (1, f"backstay: there is no budget {id} in this tenant; list them to see their ids\n")


async def test_limits_are_added_listed_and_removed(backstay):
    assert await backstay("limits", "list") == (0, "no limits\n")
    made = json.loads((await backstay("limits", "add", "tenant", "tokens", "9000", "--window", "hour", "--json"))[1])
    assert (made["unit"], made["limit"], made["window"], made["used"]) == ("tokens", 9000, "hour", 0)
    code, said = await backstay("limits", "add", "tenant", "concurrency", "5")
    assert (code, said.split()[0]) == (0, "limit")
    _, said = await backstay("limits", "list")
    assert [line.split()[1:] for line in said.splitlines()[1:]] == [
        ["tenant", "9000", "tokens", "hour", "0", "0"],
        ["tenant", "5", "concurrency", "0", "0"],
    ]
    assert len(json.loads((await backstay("limits", "list", "--json"))[1])) == 2
    assert await backstay("limits", "rm", made["id"]) == (0, f"limit {made['id']} is lifted\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("budgets add user 5", 1, "the budget is wrong: the scope `tenant` has no subject, every other"),
        ("budgets add tenant nan", 1, "the budget is wrong: limit: "),
        ("budgets add tenant five", 2, "'five' is no amount of USD; write it like 2.50"),
        ("limits add tenant concurrency 5 --window day", 1, "the limit is wrong: concurrency counts calls"),
        ("limits add tenant usd 5", 1, "the limit is wrong: unit: "),
    ],
)
async def test_what_is_wrong_is_said_in_a_line(backstay, arguments, code, said):
    left, shown = await backstay(*arguments.split())
    assert left == code, shown
    assert said in " ".join(shown.replace("│", " ").split())
    assert "Traceback" not in shown


async def test_tags_are_made_mandatory_and_lifted(backstay):
    assert await backstay("tags", "list") == (0, "no tag is mandatory\n")
    assert await backstay("tags", "set", "user", "feature") == (0, "feature and user: mandatory\n")
    assert json.loads((await backstay("tags", "list", "--json"))[1]) == ["feature", "user"]
    assert await backstay("tags", "rm") == (0, "no tag is mandatory\n")
    assert (await backstay("tags", "set", "task"))[0] == 2
