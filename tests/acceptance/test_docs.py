"""Every block of README and docs that a reader can run is run here, page by page, in the order it is read.

The blocks of a page share one fresh database. Python runs in this process, with `await` at the top level as in
`python -m asyncio`; bash runs the real `backstay` and `curl`. A command that stays (`backstay up`) runs until the page
ends, on a free port, which takes the place of 8080 (8000 for uvicorn); its admin key is `$KEY`.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backstay import App
from backstay.demo.documents import QUESTIONS
from backstay.kernel.settings import Settings
from pages import ROOT, Block, PageError, blocks, matches, pages

MASTER_KEY = "documentation-master-key-0123456789abcdef"
ADDRESSES = re.compile(r"127\.0\.0\.1:80[08]0")
WITHIN = 120.0  # seconds for a block, and for a process to say that it is ready
_STAYS = re.compile(r"^((?:[A-Z_]+=\S+ )*)((?:backstay (?:up|serve|worker|sim)|uvicorn)\b)", re.MULTILINE)
_READY = re.compile(r"ready in|^serving|^working|^simulator|Uvicorn running", re.MULTILINE)


class Process:
    """A command that stays, with what it has said so far."""

    def __init__(self, script: str, environment: dict[str, str], folder: Path) -> None:
        self.text = ""
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            ["bash", "-euc", script],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_ready(self, place: str) -> None:
        if not self._ready.wait(WITHIN) or not _READY.search(self.text):
            raise PageError(f"{place}: it did not become ready and said\n{self.text}")

    def found(self, pattern: str) -> str | None:
        match = re.search(pattern, self.text)
        return match[1] if match else None

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if _READY.search(line):
                self._ready.set()
        self._ready.set()


class Reader:
    """Somebody who types a page's blocks, one after the other."""

    def __init__(self, folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._environment, self._patch = folder, environment, monkeypatch
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._processes: list[Process] = []
        self._modules = set(sys.modules)
        self.printed = ""
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        for name in os.environ:
            if name.startswith(("BACKSTAY_", "OPENAI_")):
                monkeypatch.delenv(name)
        self._set(environment)

    async def read(self, block: Block) -> None:
        if block.note == "prints":
            if not matches(block.text, self.printed):
                raise PageError(f"{block.place}: the page says\n{block.text}\nbut it prints\n{self.printed}")
        elif block.title is not None:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(block.text), encoding="utf-8")
        elif block.note == "refused":
            with pytest.raises(psycopg.Error, match=re.escape(block.note_text)):
                await self._sql(self._here(block.text), block.place)
        elif block.runs:
            text = block.note_text if block.note == "run as" else block.text
            try:
                async with asyncio.timeout(WITHIN):
                    await getattr(self, f"_{block.language}")(self._here(text), block.place)
            except Exception as error:
                error.add_note(f"in the block at {block.place}, after it printed\n{self.printed}")
                raise

    async def end(self) -> None:
        for value in list(self._names.values()):
            if isinstance(value, App):
                await value.stop()
        for process in reversed(self._processes):
            await asyncio.to_thread(process.end)
        for name in set(sys.modules) - self._modules:
            if str(self._folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]

    async def _python(self, text: str, place: str) -> None:
        code = compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                result = eval(code, self._names)  # noqa: S307 -- running the page is what this is for
                if inspect.isawaitable(result):
                    await result
            finally:
                self.printed = out.getvalue()

    async def _sql(self, text: str, place: str) -> None:
        url = self._environment["BACKSTAY_DATABASE_URL"]
        self.printed = ""
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = await connection.execute(text.encode())
            more: bool | None = True
            while more:
                if cursor.description is not None:
                    lines = [" | ".join(map(str, row)) for row in await cursor.fetchall()]
                    self.printed += "\n".join(lines) + "\n"
                more = cursor.nextset()

    async def _bash(self, text: str, place: str) -> None:
        if _STAYS.search(text):
            await asyncio.to_thread(self._start, text, place)
            return
        if "curl" in text and shutil.which("curl") is None:
            pytest.skip("curl is not installed, and this page uses it")
        exported = self._folder / ".exported"
        script = f"trap 'env -0 > {exported}' EXIT\n{text}"
        process = await asyncio.create_subprocess_exec(
            *["bash", "-euo", "pipefail", "-c", script],
            env=self._environment,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            out, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing that a block began outlives it
        self.printed = out.decode()
        if process.returncode:
            raise PageError(f"{place}: exit code {process.returncode}, after it printed\n{self.printed}")
        lines = exported.read_text(encoding="utf-8").split("\0")
        # What a block exports, the next ones have, in Python too.
        self._set({name: value for name, _, value in (line.partition("=") for line in lines) if name.isupper()})

    def _start(self, text: str, place: str) -> None:
        process = Process(_STAYS.sub(r"\1exec \2", text), self._environment, self._folder)
        self._processes.append(process)
        process.await_ready(place)
        self.printed = process.text
        found = {
            "ADDRESS": process.found(r"(?:reference|serving|running on)\s+http://([\d.:]+)"),
            "KEY": process.found(r"admin key\s+(\S+)"),
        }
        self._set({name: value for name, value in found.items() if value is not None})

    def _here(self, text: str) -> str:
        return ADDRESSES.sub(self._environment.get("ADDRESS", r"\g<0>"), text)

    def _set(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            self._environment[name] = value
            self._patch.setenv(name, value)


@pytest.fixture
async def reader(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reader]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTAY_", "OPENAI_"))}
    environment = kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "BACKSTAY_DATABASE_URL": database_url,
        "BACKSTAY_MASTER_KEY": MASTER_KEY,
        "BACKSTAY_DATA_DIR": str(tmp_path / "data"),
        "BACKSTAY_PORT": "0",
        "UVICORN_PORT": "0",
        "BACKSTAY_LEASE_SECONDS": "1",
        "BACKSTAY_WORKER_CONCURRENCY": "8",
    }
    reading = Reader(tmp_path, environment, monkeypatch)
    try:
        yield reading
    finally:
        await reading.end()


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json" and "…" not in block.text and block.note != "prints":
            json.loads(block.text)
        if block.language == "toml":
            unknown = set(tomllib.loads(block.text)) - set(Settings.model_fields)
            assert not unknown, f"{block.place}: there is no setting {', '.join(unknown)}"


def _runnable() -> list[Any]:
    """Pages with something to run. All but README are part of `make check` only: each starts processes."""
    found = [page for page in pages() if any(block.runs for block in blocks(page))]
    return [
        pytest.param(page, id=_name(page), marks=[] if page.name == "README.md" else pytest.mark.slow) for page in found
    ]


@pytest.mark.parametrize("page", _runnable())
async def test_the_blocks_of_the_page_do_what_it_says(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        await reader.read(block)


async def test_the_questions_of_the_demo_are_answered_by_an_explanation(app: App) -> None:
    folder = ROOT / "docs"
    found = [(str(page.relative_to(folder)), {"text": page.read_text(encoding="utf-8")}) for page in pages()[1:]]
    documents = app.collection("docs", embedder=None)
    await documents.put_many(found, tenant=app.default_tenant)
    for question in QUESTIONS:
        hits = (await documents.search(question, k=1, tenant=app.default_tenant)).hits
        assert [hit.id.split("/")[0] for hit in hits] == ["explain"], f"{question} finds {[hit.id for hit in hits]}"
