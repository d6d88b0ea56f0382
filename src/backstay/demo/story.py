"""The demo's story: start, ingest, ask, kill, resume, account, verify. Every claim it prints has been checked."""

import asyncio
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..kernel.embedded import EmbeddedPostgres
from ..kernel.migrate import Migrations
from ..kernel.roles import bootstrap
from . import evidence
from .answering import Followed, ask, follow, sources
from .choice import Choice, choose
from .client import Client, until_ready
from .documents import Library, library
from .evidence import Kill, money
from .processes import Child, Processes, environment
from .screen import Screen
from .sse import Event

COLLECTION = "library"
LEASE = 2.0
_KILL_AFTER = 6  # words of the answer, when the simulator gives them one by one
_BATCH = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    docs: Path | None = None
    questions: tuple[str, ...] = ()
    model: str | None = None
    keep: bool = False


@dataclass(slots=True)
class Report:
    """What happened, for `--json`. `failures` is empty when every check held."""

    model: str = ""
    simulated: bool = True
    documents: int = 0
    chunks: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    resumed_run: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    spend: list[dict[str, Any]] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    folder: str | None = None


async def tell(options: Options, screen: Screen) -> Report:
    """Runs the demo. Processes, database and folder are gone when it returns or raises (the folder stays with `keep`).

    Raises:
        BackstayError: something could not be started or did not answer; the message says what.
    """
    report, begun = Report(), time.monotonic()
    books = library(options.docs)
    choice = await choose(options.model)
    report.model, report.simulated, report.documents = choice.model, choice.simulated, len(books.documents)
    screen.title(
        "Backstay demo: documents in, answers out, and a worker killed in the middle",
        ("documents", f"{len(books.documents)} from {books.origin}"),
        ("model", f"{choice.model} ({choice.note})"),
    )
    async with _folder(options.keep) as folder, _database(folder, screen):
        if options.keep:
            report.folder = str(folder)
        port = _free_port()
        key = f"demo-{secrets.token_hex(16)}"
        settings = {
            "BACKSTAY_PORT": str(port),
            "BACKSTAY_ADMIN_KEY": key,
            "BACKSTAY_LEASE_SECONDS": str(LEASE),
            "BACKSTAY_LOG_FORMAT": "json",
        }
        inside = environment(folder, **settings, **choice.environment)
        async with Processes(folder, inside) as processes, Client(f"http://127.0.0.1:{port}", key) as client:
            show = _Show(client, processes, screen, choice, report)
            await show.start()
            await show.ingest(books)
            await show.answer(options.questions or books.questions)
            await show.account()
            await show.verify()
    report.seconds = round(time.monotonic() - begun, 1)
    screen.chapter("Result")
    if report.failures:
        for failure in report.failures:
            screen.failed(failure)
    else:
        screen.fact(f"everything held, in {report.seconds} s")
    if report.folder:
        screen.note(f"database and logs are kept in {report.folder}")
    return report


class _Show:
    """The acts."""

    def __init__(self, client: Client, processes: Processes, screen: Screen, choice: Choice, report: Report) -> None:
        self._client, self._processes, self._screen = client, processes, screen
        self._choice, self._report = choice, report
        self._worker: Child | None = None

    async def start(self) -> None:
        begun = time.monotonic()
        api = await self._processes.start("api", "serve")
        self._worker = await self._processes.start("worker 1", "worker")
        await until_ready(self._client, self._processes.check)
        started = f"a worker (process {self._worker.pid}) beside it"
        self._screen.fact(f"API (process {api.pid}) answers after {_since(begun)}, {started}")

    async def ingest(self, books: Library) -> None:
        self._screen.chapter("Documents")
        begun = time.monotonic()
        collection = f"/api/collections/{COLLECTION}"
        await self._client.put(collection, {"embedder": self._choice.embedder, "fields": ["text"]})
        for at in range(0, len(books.documents), _BATCH):
            batch = [
                {"id": document.id, "body": {"title": document.title, "text": document.text}}
                for document in books.documents[at : at + _BATCH]
            ]
            await self._client.post(f"{collection}/documents", {"documents": batch})
        written = f"{len(books.documents)} documents written in {_since(begun)}"
        self._screen.fact(f"{written}; workers embed them in the background")
        with self._screen.progress("chunks embedded in the background") as advance:
            while True:
                covered = await self._client.get(f"{collection}/coverage")
                advance(covered["embedded"], covered["chunks"])
                if covered["pending"] == 0:
                    break
                self._processes.check()
                await asyncio.sleep(0.1)
        self._report.chunks = covered["chunks"]
        self._screen.fact(f"{covered['embedded']} of {covered['chunks']} chunks embedded after {_since(begun)}")
        if covered["parked"]:
            self._report.failures.append(f"{covered['parked']} chunks could not be embedded")

    async def answer(self, questions: tuple[str, ...]) -> None:
        self._screen.chapter("Questions")
        killed_at = 1 if len(questions) > 1 else 0
        for place, question in enumerate(questions):
            # An answer may be over before it can be interrupted; then the next one is tried.
            strike = place >= killed_at and self._report.resumed_run is None
            await self._ask(question, strike=strike)
        if self._report.resumed_run is None:
            self._report.failures.append(
                "every answer was over before the worker could be killed in the middle of it; ask for a longer one, or "
                "use --model 'sim:extract?itl=45ms'"
            )

    async def _ask(self, question: str, *, strike: bool) -> None:
        self._screen.question(question)
        followed = await ask(self._client, question, COLLECTION, self._choice.model)
        kill: Kill | None = None
        words = 0

        async def shown(event: Event) -> bool:
            nonlocal kill, words
            if event.type == "text.delta":
                self._screen.say(event.data["text"])
                words += 1
                if strike and kill is None and words >= (_KILL_AFTER if self._choice.simulated else 1):
                    kill = await self._kill(followed)
                    return False  # the client loses its connection as well, and resumes
            elif event.type == "status" and event.data.get("restarted"):
                self._screen.turn("worker 2 took the run over and restarted the model step; the text above is void")
            return True

        await follow(self._client, followed, shown)
        for source in sources(followed):
            place = " › ".join([source["document"], *source["heading"]])
            self._screen.note(f"[{source['number']}] {place}")
        answer = await self._client.get(followed.answer_url)
        if answer["text"] != followed.text:
            self._report.failures.append(f"the stored answer to {question!r} is not what was streamed")
        self._report.answers.append(answer)
        if kill is not None:
            await self._prove(followed, kill, answer)

    async def _kill(self, followed: Followed) -> Kill:
        if self._worker is None:
            raise RuntimeError("there is no worker to kill")
        await self._processes.kill(self._worker)
        kill = Kill(datetime.now(UTC), await evidence.steps_of(self._client, followed.run))
        self._screen.blow(f"kill -9 {self._worker.pid}: the worker is dead in the middle of the answer")
        last = followed.last.id if followed.last else 0
        self._worker = await self._processes.start("worker 2", "worker")
        self._screen.note(
            f"worker 2 is process {self._worker.pid}; the dead one's lease of {LEASE:g} s has to run out. "
            f"The client reconnects with Last-Event-ID: {last}"
        )
        return kill

    async def _prove(self, followed: Followed, kill: Kill, answer: dict[str, Any]) -> None:
        steps = await evidence.steps_of(self._client, followed.run)
        wrong = evidence.wrong_in_resume(followed, kill, steps, answer)
        if wrong and not any(step["name"] == "model" and step["attempt"] > 1 for step in steps):
            return  # the answer was complete before the kill
        self._report.resumed_run, self._report.steps = followed.run, steps
        self._report.failures += wrong
        at_kill = {step["name"]: step["state"] for step in kill.steps}
        self._screen.chapter("The run after the crash")
        self._screen.table(
            ["step", "kind", "when killed", "begun", "now"],
            [
                [
                    step["name"],
                    step["kind"],
                    {"completed": "finished", "started": "under way"}.get(at_kill.get(step["name"], ""), "not begun"),
                    "once" if step["attempt"] == 1 else f"{step['attempt']} times",
                    step["state"],
                ]
                for step in steps
            ],
        )
        if not wrong:
            self._screen.fact("finished steps were not repeated; only the step under way was begun again")
            self._screen.fact(
                f"{len(followed.events)} events over {followed.connections} connections: each came once, in order"
            )
            self._screen.fact("the answer was stored once, and it is the text that came after the restart")

    async def account(self) -> None:
        self._screen.chapter("What it cost, by feature")
        calls = await evidence.settled_calls(self._client)
        rows = self._report.spend = await evidence.spend(self._client)
        total = sum((Decimal(row["cost"]) for row in rows), Decimal(0))
        self._screen.table(
            ["feature", "calls", "input tokens", "output tokens", "cost"],
            [
                [
                    row["name"] or "-",
                    str(row["calls"]),
                    str(row["input_tokens"]),
                    str(row["output_tokens"]),
                    money(row["cost"]),
                ]
                for row in rows
            ]
            + [["total", str(sum(row["calls"] for row in rows)), "", "", money(total)]],
            right=(1, 2, 3, 4),
        )
        if self._choice.simulated:
            self._screen.note("the simulator's tokens cost nothing; with a provider's model this is its price")
        if any(call["state"] == "abandoned" for call in calls):
            self._screen.note("the call that died with its worker is not in it: only its provider knows what it billed")
        self._report.audit = asdict(await evidence.audited(self._client, calls))

    async def verify(self) -> None:
        self._screen.chapter("Audit")
        audit = self._report.audit
        self._report.failures += audit["wrong"]
        if not audit["calls"]:
            self._report.failures.append("no model call was recorded")
        if not audit["wrong"]:
            lost = f", {audit['abandoned']} of a call that died with its worker" if audit["abandoned"] else ""
            ends = f"{audit['finished']} of an outcome{lost}"
            self._screen.fact(f"{audit['calls']} provider calls: {audit['started']} audit entries of a start, {ends}")


@asynccontextmanager
async def _folder(keep: bool) -> AsyncIterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="backstay-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


@asynccontextmanager
async def _database(folder: Path, screen: Screen) -> AsyncIterator[None]:
    begun = time.monotonic()
    server = EmbeddedPostgres(folder)
    # A thread cannot be stopped: whoever interrupts the start waits for its end, else the server would stay behind.
    starting = asyncio.ensure_future(asyncio.to_thread(server.start))
    try:
        url = await asyncio.shield(starting)
        await bootstrap(url)
        count = await asyncio.to_thread(Migrations(url).up)
        screen.fact(f"embedded Postgres in {folder}, {count} migrations, ready in {_since(begun)}")
        yield
    finally:
        await asyncio.wait({starting})
        await asyncio.shield(asyncio.to_thread(server.stop))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.1f} s"
