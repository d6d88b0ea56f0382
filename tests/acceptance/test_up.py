"""`backstay up` as a new user meets it."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import openai
import psutil
import pytest

from backend import Backend

Make = Callable[..., Backend]
DOCUMENT = {"title": "Tides", "body": "The moon pulls the sea twice a day. Sailors plan their departure by it."}


def put_document(http: httpx.Client) -> None:
    http.put("/api/collections/notes", json={}).raise_for_status()
    http.put("/api/collections/notes/documents/tides", json=DOCUMENT).raise_for_status()


def test_it_starts_shows_the_key_once_and_answers_an_openai_client(backend: Make) -> None:
    one = backend().start()
    assert one.text.index("database") < one.text.index("migrations") < one.text.index("workers")
    assert httpx.get(f"{one.address}/readyz").json()["status"] == "ready"
    assert "backstay_http_requests_total" in httpx.get(f"{one.address}/metrics").text
    with openai.OpenAI(api_key=one.admin_key, base_url=f"{one.address}/v1") as client:
        answer = client.chat.completions.create(model="sim:echo", messages=[{"role": "user", "content": "ahoy"}])
        assert "ahoy" in (answer.choices[0].message.content or "")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="bs_live_wrong").models.list()
    key = one.admin_key
    assert one.stop() == 0
    again = one.start()
    assert "admin key" not in again.text
    with again.client(key) as http:
        assert http.get("/api/keys").status_code == 200


def test_a_preset_admin_key_works_from_the_first_boot(backend: Make) -> None:
    key = "a-preset-key-of-some-length"
    one = backend(BACKSTAY_ADMIN_KEY=key).start()
    with one.client(key) as http:
        assert http.get("/api/keys").status_code == 200


def test_kill_9_of_everything_loses_nothing(backend: Make) -> None:
    one = backend().start()
    key = one.admin_key
    with one.client(key) as http:
        put_document(http)
        run = http.post(
            "/api/agents/ask", json={"question": "what pulls the sea?", "collection": "notes", "model": "sim:extract"}
        )
        assert run.status_code == 202, run.text
    one.kill_everything()
    one.start()
    with one.client(key) as http:
        assert http.get("/api/collections/notes/documents/tides").json()["body"]["title"] == "Tides"
        id, deadline = run.json()["run"], time.monotonic() + 30
        while (state := http.get(f"/api/runs/{id}").json()["state"]) != "completed":
            assert time.monotonic() < deadline, f"the run is {state}"
            time.sleep(0.1)


def test_a_killed_worker_is_started_again_and_none_outlives_the_server(backend: Make) -> None:
    one = backend().start()
    (first,) = wait_for(one.workers)
    first.kill()
    (second,) = wait_for(lambda: [worker for worker in one.workers() if worker.pid != first.pid])
    psutil.Process(one.pid).kill()
    assert second.wait(20) is None or not second.is_running()


def test_a_taken_port_is_told_in_one_line_with_the_mend(backend: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "backstay", "up", "--port", str(port)], capture_output=True, text=True, timeout=30
        )
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def wait_for(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
