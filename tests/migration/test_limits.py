"""Limits end with the release that knows them; the budgets beside them stay as they are."""

import psycopg

from backstay.kernel.ids import new_id
from backstay.kernel.migrate import Migrations

TENANT = new_id()


def test_the_way_back_takes_the_limits_and_leaves_the_budgets(empty_url: str) -> None:
    migrations = Migrations(empty_url)
    migrations.up()
    with psycopg.connect(empty_url, autocommit=True) as connection:
        for unit in ("usd", "requests", "tokens", "concurrency"):
            budget = new_id()
            connection.execute(
                "insert into backstay.budget (tenant_id, id, scope, subject, unit, amount, period, hard, created_at)"
                " values (%s, %s, 'tenant', '', %s, 5, 'total', true, now())",
                [TENANT, budget, unit],
            )
            connection.execute(
                "insert into backstay.budget_window (tenant_id, budget_id, starts_at, spent, held)"
                " values (%s, %s, 'epoch', 2, 1)",
                [TENANT, budget],
            )
            connection.execute(
                "insert into backstay.hold (tenant_id, call_id, budget_id, starts_at, amount)"
                " values (%s, %s, %s, 'epoch', 1)",
                [TENANT, new_id(), budget],
            )
    migrations.down("0010")
    with psycopg.connect(empty_url) as connection:
        left = {
            table: connection.execute(f"select count(*) from backstay.{table}").fetchone()
            for table in ("budget", "budget_window", "hold")
        }
    assert left == {"budget": (1,), "budget_window": (1,), "hold": (1,)}
    migrations.up()
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select unit, amount from backstay.budget").fetchall() == [("usd", 5)]
