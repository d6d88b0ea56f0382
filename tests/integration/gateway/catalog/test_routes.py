"""Routes and prices over HTTP and in Python: made, changed, removed, listed, and written down."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from backstay.app import App
from backstay.gateway.catalog import CatalogFull, NewPrice, PriceExists, Route, RouteNotFound, pricebook, routes
from backstay.kernel.errors import Forbidden, Invalid
from backstay.kernel.principal import Principal

URL, PRICES = "/api/gateway/routes", "/api/gateway/prices"
START = datetime(2026, 2, 1, tzinfo=UTC)


class TestRoutes:
    async def test_one_is_made_changed_and_removed(self, client) -> None:
        definition = {"targets": ["a:m", {"model": "b:m", "when": {"task": "chat"}}], "deadlines": {"idle": 5}}
        made = await client.put(f"{URL}/smart", json=definition)
        assert made.status_code == 200, made.text
        view = made.json()
        assert (view["name"], view["source"], view["revision"]) == ("smart", "tenant", 1)
        assert view["definition"]["targets"][1]["when"]["task"] == ["chat"]
        again = await client.put(f"{URL}/smart", json=view["definition"] | {"sticky": True})
        assert (again.json()["revision"], again.json()["definition"]["sticky"]) == (2, True)
        assert (await client.get(f"{URL}/smart")).json() == again.json()
        assert (await client.delete(f"{URL}/smart")).status_code == 204
        assert (await client.get(f"{URL}/smart")).json()["code"] == "route_not_found"
        assert (await client.delete(f"{URL}/smart")).status_code == 404

    async def test_a_change_may_demand_that_nobody_else_has_made_one(self, client) -> None:
        await client.put(f"{URL}/smart", json={"targets": ["a:m"]})
        for match in ('"1"', "2"):
            answer = await client.put(f"{URL}/smart", json={"targets": ["b:m"]}, headers={"if-match": match})
            assert answer.status_code == 200, answer.text
        late = await client.put(f"{URL}/smart", json={"targets": ["c:m"]}, headers={"if-match": "1"})
        assert (late.status_code, late.json()["code"]) == (412, "revision_mismatch")
        assert "revision 3" in late.json()["detail"]
        assert (await client.delete(f"{URL}/smart", headers={"if-match": "2"})).status_code == 412
        assert (await client.put(f"{URL}/new", json={"targets": ["c:m"]}, headers={"if-match": "1"})).status_code == 412
        wrong = await client.put(f"{URL}/smart", json={"targets": ["c:m"]}, headers={"if-match": "*"})
        assert wrong.status_code == 422

    async def test_the_list_has_the_operators_too_and_pages_by_name(self, settings, owner: Principal, another) -> None:
        operators = {"routes": {name: {"targets": ["o:m"]} for name in ("b", "d", "Z")}}
        catalog = await another(gateway=operators)
        for name in ("a", "b", "c"):
            await catalog.routes.put(owner, Route(name=name, targets=["a:m"]))
        expected = [("Z", None), ("a", 1), ("b", 1), ("c", 1), ("d", None)]
        for limit in (1, 2, 5):
            found, after = [], None
            while page := await catalog.routes.list(owner, after, limit):
                found += [(stored.name, stored.revision) for stored in page]
                after = page[-1].name
            assert found == expected, limit
        assert (await catalog.routes.get(owner, "d")).readable().targets[0].model == "o:m"
        with pytest.raises(RouteNotFound, match="of its own"):
            await catalog.routes.delete(owner, "d")

    async def test_every_change_is_in_the_audit_with_before_and_after(
        self, app: App, client, owner: Principal, rows
    ) -> None:
        await client.put(f"{URL}/smart", json={"targets": [{"model": "a:m", "when": {"user": "ada"}}]})
        await client.put(f"{URL}/smart", json={"targets": ["b:m"]})
        await client.delete(f"{URL}/smart")
        entries = [entry for entry in await app.audit.entries(owner) if entry.resource == "route:smart"]
        assert [entry.action for entry in entries] == ["route.deleted", "route.changed", "route.created"]
        payload = await app.audit.payload(owner, entries[1].id)
        assert payload["before"]["targets"][0]["when"]["user"] == ["ada"]
        assert payload["after"] == {"targets": [{"model": "b:m"}]}
        clear = await rows("select metadata::text || resource as text from backstay.audit_entry")
        assert "ada" not in str(clear)

    async def test_there_are_limits(self, app: App, owner: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(routes, "MOST", 2)
        for name in ("a", "b", "a"):
            await app.catalog.routes.put(owner, Route(name=name, targets=["a:m"]))
        with pytest.raises(CatalogFull):
            await app.catalog.routes.put(owner, Route(name="c", targets=["a:m"]))

    async def test_the_answer_to_a_repeated_request_is_the_first_one(self, client) -> None:
        for _ in range(2):
            answer = await client.put(f"{URL}/s", json={"targets": ["a:m"]}, headers={"idempotency-key": "k"})
            assert answer.json()["revision"] == 1


class TestPrices:
    NEW = {"pattern": "openai:gpt-5*", "input": "1.1", "output": "8.80"}

    async def test_one_is_made_corrected_and_removed(self, client) -> None:
        made = await client.post(PRICES, json=self.NEW | {"starts_at": "2026-02-01T01:00:00+01:00"})
        assert made.status_code == 201, made.text
        view = made.json()
        assert (view["pattern"], Decimal(view["input"]), view["cached"]) == ("openai:gpt-5*", Decimal("1.1"), None)
        assert datetime.fromisoformat(view["starts_at"]) == START
        url = f"{PRICES}/{view['id']}"
        corrected = await client.put(
            url, json=self.NEW | {"input": 0, "web_search": 12, "starts_at": "2026-02-01T00:00:00Z"}
        )
        assert (corrected.status_code, Decimal(corrected.json()["input"])) == (200, 0)
        assert (view["web_search"], Decimal(corrected.json()["web_search"])) == (None, 12)
        assert (await client.get(url)).json() == corrected.json()
        assert (await client.delete(url)).status_code == 204
        for answer in (await client.get(url), await client.delete(url), await client.put(url, json=self.NEW)):
            assert (answer.status_code, answer.json()["code"]) == (404, "price_not_found")

    async def test_calls_go_by_it_from_its_start_on_until_before_its_end(self, app: App, owner: Principal) -> None:
        day, tick = timedelta(days=1), timedelta(microseconds=1)
        await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START, ends_at=START + day))
        later = NewPrice(pattern="openai:gpt-5-mini", input=0, output=0, starts_at=START + day)
        await app.catalog.prices.add(owner, later)
        snapshot = await app.catalog.of(owner.tenant)
        found = [
            snapshot.price("openai:gpt-5-mini", at)
            for at in (START - tick, START, START + day - tick, START + day, START + 9 * day)
        ]
        assert [None if price is None else price.rates.input for price in found] == [
            None,
            Decimal("1.1"),
            Decimal("1.1"),
            0,
            0,
        ]
        assert snapshot.price("openai:gpt-5", START + day) is None

    async def test_without_a_start_it_holds_from_now_on(self, app: App, owner: Principal) -> None:
        before = app.clock.now()
        price = await app.catalog.prices.add(owner, NewPrice(**self.NEW))
        assert before <= price.starts_at <= app.clock.now()
        with pytest.raises(Invalid, match="later"):
            await app.catalog.prices.add(owner, NewPrice(**self.NEW, ends_at=START))

    async def test_two_for_one_pattern_need_two_starts(self, app: App, owner: Principal) -> None:
        first = await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START))
        with pytest.raises(PriceExists):
            await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START))
        other = await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START + timedelta(days=1)))
        with pytest.raises(PriceExists):
            await app.catalog.prices.replace(owner, other.id, NewPrice(**self.NEW, starts_at=START))
        assert [price.id for price in await app.catalog.prices.list(owner)] == [first.id, other.id]

    async def test_every_change_is_in_the_audit(self, app: App, owner: Principal) -> None:
        price = await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START))
        await app.catalog.prices.replace(owner, price.id, NewPrice(**self.NEW | {"input": 2}, starts_at=START))
        await app.catalog.prices.delete(owner, price.id)
        entries = [entry for entry in await app.audit.entries(owner) if entry.resource == f"price:{price.id}"]
        assert [entry.action for entry in entries] == ["price.deleted", "price.changed", "price.created"]
        payload = await app.audit.payload(owner, entries[1].id)
        assert (payload["before"]["input"], payload["after"]["input"]) == ("1.1", "2")

    async def test_there_are_limits(self, app: App, owner: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pricebook, "MOST", 1)
        price = await app.catalog.prices.add(owner, NewPrice(**self.NEW))
        await app.catalog.prices.replace(owner, price.id, NewPrice(**self.NEW))
        with pytest.raises(CatalogFull):
            await app.catalog.prices.add(owner, NewPrice(**self.NEW))

    async def test_a_rolled_back_price_holds_nowhere(self, app: App, owner: Principal) -> None:
        with pytest.raises(ZeroDivisionError):
            async with app.transaction(owner.tenant) as tx:
                await app.catalog.prices.add(owner, NewPrice(**self.NEW, starts_at=START), tx=tx)
                raise ZeroDivisionError
        assert (await app.catalog.of(owner.tenant)).price("openai:gpt-5", app.clock.now()) is None
        assert await app.catalog.prices.list(owner) == []


class TestPermissions:
    """In Python as over HTTP: a developer reads, an operator neither."""

    async def test_who_may_only_read_changes_nothing(self, app: App, owner: Principal) -> None:
        issued = await app.auth.create_key(owner, "dev", "developer")
        by = await app.auth.authenticate(issued.secret)
        await app.catalog.routes.list(by)
        await app.catalog.providers.list(by)
        await app.catalog.prices.list(by)
        await app.catalog.explain(by, {"model": "a:m"}, {})
        with pytest.raises(Forbidden):
            await app.catalog.routes.put(by, Route(name="a", targets=["a:m"]))
        with pytest.raises(Forbidden):
            await app.catalog.routes.delete(by, "a")
        with pytest.raises(Forbidden):
            await app.catalog.providers.delete(by, "a")
        with pytest.raises(Forbidden):
            await app.catalog.prices.add(by, NewPrice(**TestPrices.NEW))
        with pytest.raises(Forbidden):
            await app.catalog.prices.delete(by, uuid4())

    async def test_an_admin_may_do_all_and_an_operator_nothing(self, app: App, owner: Principal) -> None:
        admin, operator = [
            await app.auth.authenticate((await app.auth.create_key(owner, role, role)).secret)
            for role in ("admin", "operator")
        ]
        await app.catalog.routes.put(admin, Route(name="a", targets=["a:m"]))
        await app.catalog.prices.add(admin, NewPrice(**TestPrices.NEW))
        for room in (app.catalog.routes, app.catalog.providers, app.catalog.prices):
            with pytest.raises(Forbidden):
                await room.list(operator)
