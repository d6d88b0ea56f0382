"""The examples run as they stand, with the simulator for a model."""

import importlib.util
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg

FOLDER = Path(__file__).parents[2] / "examples"
MASTER_KEY = "examples-master-key-0123456789abcdef-0123"


async def test_the_support_desk_answers_a_ticket_with_its_tool_and_mails_the_answer(
    database_url: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.ticket (id uuid primary key, text text not null)")
        connection.execute("grant all on public.ticket to backstay_app")
    for name, value in [("DATABASE_URL", database_url), ("DATA_DIR", str(tmp_path)), ("MASTER_KEY", MASTER_KEY)]:
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    spec = importlib.util.spec_from_file_location("desk", FOLDER / "support-desk" / "desk.py")
    desk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(desk)
    transport = httpx.ASGITransport(app=desk.api)
    ticket = {"id": str(uuid4()), "text": "When does my money come back?"}
    async with desk.app.lifespan(desk.api), httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        answers = [await client.post("/tickets", json=ticket)]
        assert answers[0].status_code == 202
        await desk.app.jobs.worker().run_until_idle()
        run = await client.get(f"/ai/api/runs/{answers[0].json()}")
        assert run.status_code == 401  # the mounted API asks for a key
    printed = capsys.readouterr().out
    assert f"to the writer of {ticket['id']}: The tool answered:" in printed
    assert "Money comes back within 14 days" in printed
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from public.ticket").fetchone() == (1,)
