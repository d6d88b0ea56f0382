"""Plans as the pipeline asks for them and as people see them: over HTTP, and at the command line."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.gateway import ModelNotFound
from backstay.gateway.catalog import NewAccount, NewPrice, NoTargetServes, Rates, Route, glance
from backstay.gateway.cli import commands
from backstay.kernel.errors import BackstayError, BadRequest
from backstay.kernel.principal import Principal

URL = "/api/gateway/explain"
HELLO = {"model": "smart", "messages": [{"role": "user", "content": "hello"}]}
BY_COMPLEXITY = Route(
    name="smart", targets=[{"model": "a:strong", "when": {"complexity": ["moderate", "complex"]}}, "b:cheap"]
)


async def plan(app: App, by: Principal, body=None, headers=None, **options):
    body = HELLO if body is None else body
    snapshot = await app.catalog.of(by.tenant)
    return app.catalog.plan(snapshot, glance.request(body), body, headers or {}, feature="f", **options)


def models(plan) -> list[str]:
    return [choice.model for choice in plan.targets]


class TestThePipelinesPlan:
    async def test_a_route_decides_and_a_model_by_name_goes_straight(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, BY_COMPLEXITY)
        assert models(await plan(app, owner)) == ["b:cheap"]
        hard = {**HELLO, "reasoning_effort": "high"}
        assert models(await plan(app, owner, hard)) == ["a:strong", "b:cheap"]
        straight = await plan(app, owner, {**HELLO, "model": "sim:echo"})
        assert (models(straight), straight.complexity) == (["sim:echo"], None)
        with pytest.raises(ModelNotFound, match="did you mean smart"):
            await plan(app, owner, {**HELLO, "model": "smartt"})
        assert models(await plan(app, owner, {**HELLO, "model": "gpt-5"}, plain="openai")) == ["openai:gpt-5"]

    async def test_a_plain_name_means_openai_once_the_tenant_has_an_account_there(
        self, app: App, owner: Principal
    ) -> None:
        with pytest.raises(ModelNotFound):
            await plan(app, owner, {**HELLO, "model": "gpt-5"})
        await app.catalog.providers.put(owner, "openai", NewAccount(kind="openai"))
        assert models(await plan(app, owner, {**HELLO, "model": "gpt-5"})) == ["openai:gpt-5"]

    async def test_none_that_serves_is_an_error_that_says_why(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, Route(name="smart", targets=[{"model": "a:m", "when": {"tools": True}}]))
        with pytest.raises(NoTargetServes, match="a:m serves requests with tools"):
            await plan(app, owner)

    async def test_a_wrong_task_is_refused(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, BY_COMPLEXITY)
        with pytest.raises(BadRequest):
            await plan(app, owner, headers={"backstay-task": "a\nb"})

    async def test_the_tenants_price_goes_before_the_listed_one(self, app: App, owner: Principal) -> None:
        listed = {"a:m": Rates(input=1, output=1), "b:m": Rates(input=2, output=2)}
        app.catalog.attach(listed=lambda snapshot, model, at: listed.get(model))
        await app.catalog.routes.put(owner, Route(name="smart", targets=["a:m", "b:m", "c:m"], strategy="cost"))
        assert models(await plan(app, owner)) == ["a:m", "b:m", "c:m"]
        await app.catalog.prices.add(owner, NewPrice(pattern="b:*", input=0, output=0))
        assert models(await plan(app, owner)) == ["b:m", "a:m", "c:m"]
        gone = datetime(2026, 1, 1, tzinfo=UTC)
        await app.catalog.prices.add(
            owner, NewPrice(pattern="c:m", input=0, output=0, starts_at=gone, ends_at=gone.replace(day=2))
        )
        assert models(await plan(app, owner)) == ["b:m", "a:m", "c:m"]

    async def test_what_calls_took_decides_by_latency(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, Route(name="smart", targets=["a:m", "b:m"], strategy="latency"))
        snapshot = await app.catalog.of(owner.tenant)
        for _ in range(3):
            app.catalog.board.observe(snapshot.key("a:m"), 0.9)
            app.catalog.board.observe(snapshot.key("b:m"), 0.1)
        assert models(await plan(app, owner)) == ["b:m", "a:m"]

    async def test_a_tenants_own_account_shares_no_latency_with_a_namesake(
        self, app: App, owner: Principal, other_owner: Principal
    ) -> None:
        for by in (owner, other_owner):
            await app.catalog.providers.put(by, "mine", NewAccount(kind="openai"))
        one, other = [await app.catalog.of(by.tenant) for by in (owner, other_owner)]
        assert one.key("mine:m") != other.key("mine:m")
        assert one.key("openai:m") == other.key("openai:m")

    async def test_an_open_breaker_comes_last(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, Route(name="smart", targets=["a:m", "b:m"]))
        app.catalog.attach(is_open=lambda snapshot, model: model == "a:m")
        assert models(await plan(app, owner)) == ["b:m", "a:m"]

    async def test_a_conversation_goes_back_to_who_answered_it(self, app: App, owner: Principal) -> None:
        await app.catalog.routes.put(owner, Route(name="smart", targets=["a:m", "b:m"], sticky=True))
        first = await plan(app, owner)
        app.catalog.pins.keep(first.route.name, first.conversation, "b:m")
        assert models(await plan(app, owner)) == ["b:m", "a:m"]
        other = {**HELLO, "messages": [{"role": "user", "content": "something else"}]}
        assert models(await plan(app, owner, other)) == ["a:m", "b:m"]


class TestHttp:
    async def test_the_plan_is_told_with_its_reasons(self, app: App, client, owner: Principal) -> None:
        await app.catalog.routes.put(owner, BY_COMPLEXITY)
        answer = await client.post(URL, json={"body": HELLO, "headers": {"Backstay-Task": "chat"}})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["route"], told["strategy"]) == ("smart", "ordered")
        assert told["why"] == "route smart, ordered: 1 of 2 targets may serve"
        assert [choice["model"] for choice in told["targets"]] == ["b:cheap"]
        assert told["skipped"][0]["reason"] == "serves moderate or complex; this request is simple (0)"
        assert told["complexity"] == {"score": 0, "level": "simple", "rules": []}

    async def test_headers_and_tags_count_as_they_do_in_a_call(self, app: App, client, owner: Principal) -> None:
        when = ({"task": "chat"}, {"feature": "search"}, {"user": "ada"}, {"feature": "default"})
        targets = [{"model": f"{letter}:m", "when": one} for letter, one in zip("abcd", when, strict=True)]
        await app.catalog.routes.put(owner, Route(name="smart", targets=targets))

        async def found(body, **headers) -> list[str]:
            answer = await client.post(URL, json={"body": {**HELLO, **body}, "headers": headers})
            return [choice["model"] for choice in answer.json()["targets"]]

        assert await found({}) == ["d:m"]
        named = {"backstay-task": "chat", "backstay-feature": "search", "backstay-user": "ada"}
        assert await found({}, **named) == ["a:m", "b:m", "c:m"]
        assert await found({"metadata": {"task": "chat", "feature": "search"}, "user": "ada"}) == ["a:m", "b:m", "c:m"]

    async def test_a_model_may_be_named_beside_the_body(self, client) -> None:
        answer = await client.post(URL, json={"body": {"contents": []}, "model": "gemini:flash"})
        assert answer.json()["targets"] == [{"model": "gemini:flash", "reason": "asked for by name"}]
        assert answer.json()["complexity"]["level"] == "simple"

    async def test_a_route_that_serves_nothing_is_shown_too(self, app: App, client, owner: Principal) -> None:
        await app.catalog.routes.put(owner, Route(name="smart", targets=[{"model": "a:m", "when": {"tools": True}}]))
        told = (await client.post(URL, json={"body": HELLO})).json()
        assert (told["targets"], [choice["model"] for choice in told["skipped"]]) == ([], ["a:m"])

    async def test_nothing_is_recorded(self, app: App, client, rows) -> None:
        before = await rows("select count(*) as n from backstay.audit_entry")
        await client.post(URL, json={"body": {**HELLO, "model": "sim:echo"}})
        assert await rows("select count(*) as n from backstay.audit_entry") == before
        assert await rows("select 1 as one from backstay.call") == []

    async def test_an_unknown_model_is_told_with_the_near_names(self, app: App, client, owner: Principal) -> None:
        await app.catalog.routes.put(owner, BY_COMPLEXITY)
        answer = await client.post(URL, json={"body": {**HELLO, "model": "smrt"}})
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
        assert "did you mean smart?" in answer.json()["detail"]
        assert (await client.post(URL, json={"body": {}})).status_code == 404


class TestCommandLine:
    """The commands, on the database of the test."""

    @pytest.fixture
    async def run(self, app: App, settings, monkeypatch: pytest.MonkeyPatch, tmp_path):
        monkeypatch.setenv("BACKSTAY_DATABASE_URL", settings.database_url)
        monkeypatch.setenv("BACKSTAY_MASTER_KEY", settings.master_key.get_secret_value())
        monkeypatch.chdir(tmp_path)

        async def run(*arguments: str, input: str = "", wrong: bool = False) -> str:
            """What it prints, or what it says is wrong."""
            result = await asyncio.to_thread(CliRunner().invoke, commands, arguments, input=input)
            assert (result.exit_code != 0) == wrong, (result.output, result.exception)
            return result.exception.detail if isinstance(result.exception, BackstayError) else result.output

        return run

    @pytest.fixture
    def by(self, app: App) -> Principal:
        return Principal.system(app.default_tenant, "test")

    async def test_routes(self, run, app: App, by: Principal, tmp_path) -> None:
        assert "smart: revision 1" in await run(
            "routes", "set", "smart", "a:m", "b:m", "--strategy", "cost", "--sticky"
        )
        route = (await app.catalog.of(by.tenant)).route("smart")
        assert (models_of(route), route.strategy, route.sticky) == (["a:m", "b:m"], "cost", True)
        (tmp_path / "smart.toml").write_text('targets = ["c:m"]\nmode = "guarded"\n')
        assert "revision 2" in await run("routes", "set", "smart", "--file", "smart.toml", "--sticky")
        (listed,) = json.loads(await run("routes", "list", "--json"))
        assert listed["definition"] == {"targets": [{"model": "c:m"}], "mode": "guarded", "sticky": True}
        assert "c:m" in await run("routes", "list")
        told = await run("explain", "--model", "smart", "--header", "backstay-task=chat")
        assert "route smart, ordered: 1 of 1 targets may serve" in told
        (tmp_path / "ask.json").write_text(json.dumps({**HELLO, "reasoning_effort": "high"}))
        explained = json.loads(await run("explain", "--file", "ask.json", "--json"))
        assert explained["complexity"]["score"] == 30
        assert "smart: removed" in await run("routes", "rm", "smart")
        assert "no route" in await run("explain", "--model", "smart", wrong=True)
        assert (await run("routes", "set", "smart", "nocolon", wrong=True)).startswith("targets.0.model: ")
        assert "name the model" in await run("explain", wrong=True)

    async def test_the_operators_file(self, run, tmp_path) -> None:
        (tmp_path / "backstay.toml").write_text('[gateway.routes.cheap]\ntargets = ["o:m"]\nsticky = true\n')
        (listed,) = json.loads(await run("routes", "list", "--json"))
        assert (listed["name"], listed["revision"]) == ("cheap", None)
        (tmp_path / "backstay.toml").write_text('[gateway.routes.cheap]\ntargets = ["o:m"]\nstciky = true\n')
        wrong = await run("routes", "list", wrong=True)
        assert "gateway.routes.cheap.stciky: unknown key" in wrong

    async def test_providers(self, run, app: App, by: Principal, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setenv("THE_KEY", "first-secret-of-the-provider")
        made = await run("providers", "set", "mine", "--kind", "vllm", "--base-url", "http://127.0.0.1:9/v1",
                         "--secret-env", "THE_KEY", "--option", "region=eu")  # fmt: skip
        assert "mine: 1 secret" in made
        rotated = await run("providers", "rotate", "mine", "--secret-file", "-", "--overlap", "60",
                            input="second-secret-of-the-provider\n")  # fmt: skip
        assert "secret-of" not in made + rotated
        snapshot = await app.catalog.of(by.tenant)
        account = snapshot.accounts["mine"]
        secrets = [secret.get_secret_value() for secret in snapshot.secrets(account, app.clock.now())]
        assert secrets == ["second-secret-of-the-provider", "first-secret-of-the-provider"]
        assert (account.kind, account.options) == ("vllm", {"region": "eu"})
        listed = await run("providers", "list") + await run("providers", "list", "--json")
        assert "secret-of" not in listed
        assert "…ider" in listed
        assert "removed" in await run("providers", "rm", "mine")
        assert "no account called 'mine'" in await run("providers", "rm", "mine", wrong=True)

    async def test_prices(self, run, app: App, by: Principal) -> None:
        await run(
            "prices",
            "set",
            "a:*",
            "--input",
            "0",
            "--output",
            "2.5",
            "--cached",
            "0.1",
            "--starts",
            "2026-01-01T00:00Z",
        )
        price = (await app.catalog.of(by.tenant)).price("a:m", app.clock.now())
        assert (price.rates.output, price.rates.cached) == (Decimal("2.5"), Decimal("0.1"))
        (listed,) = json.loads(await run("prices", "list", "--json"))
        assert listed["pattern"] == "a:*"
        assert "a:*" in await run("prices", "list")
        assert "removed" in await run("prices", "rm", listed["id"])
        assert "input" in await run("prices", "set", "a:m", "--input", "cheap", "--output", "1", wrong=True)


def models_of(route: Route) -> list[str]:
    return [target.model for target in route.targets]
