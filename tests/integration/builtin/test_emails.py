"""The job `email`, against a real SMTP server on loopback."""

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from backstay.app import App
from backstay.builtin import Attachment, Email
from backstay.jobs import JobDetail
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .conftest import until
from .mail_server import PASSWORD, USER, MailServer, certificate, mail_server

Run = Callable[[UUID], Awaitable[JobDetail]]
HELLO = Email(to=["ada@example.com"], subject="Hello", text="Good day.")


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with mail_server() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: MailServer) -> Settings:
    url = SecretStr(f"smtp://127.0.0.1:{server.port}?tls=never")
    return settings.model_copy(update={"smtp_url": url, "email_from": "The shop <shop@backstay.test>"})


async def test_a_mail_goes_out_once_its_transaction_has_committed(
    app: App, tenant: UUID, owner: Principal, server: MailServer, run: Run
) -> None:
    mail = Email(
        to=["ada@example.com", "bob@example.com"],
        cc=["cy@example.com"],
        bcc=["dee@example.com"],
        reply_to="desk@example.com",
        subject="Grüße 👋",
        text="Schöne Grüße\n.\n" + "x" * 2_000,
        html="<p>Schöne <b>Grüße</b></p>",
        attachments=[Attachment(name="zahlen.csv", media_type="text/csv", content=base64.b64encode(b"a,b\n1,2\n"))],
    )
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(tenant) as tx:
            await app.email.enqueue(mail, tenant=tenant, tx=tx)
            raise ZeroDivisionError
    async with app.transaction(tenant) as tx:
        job = await app.email.enqueue(mail, tenant=tenant, tx=tx)
    assert (await run(job)).state == "completed"
    [letter], [envelope] = server.letters, server.got
    assert envelope.mail_from == "shop@backstay.test"
    assert envelope.rcpt_tos == ["ada@example.com", "bob@example.com", "cy@example.com", "dee@example.com"]
    assert letter["from"] == "The shop <shop@backstay.test>"
    assert (letter["to"], letter["cc"]) == ("ada@example.com, bob@example.com", "cy@example.com")
    assert (letter["subject"], letter["reply-to"]) == ("Grüße 👋", "desk@example.com")
    assert letter["message-id"] == f"<{job}@backstay.test>"
    assert "dee@example.com" not in str(letter), "a blind copy shows in the mail"
    text, html = letter.get_body(("plain",)), letter.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == "Schöne Grüße\n.\n" + "x" * 2_000 + "\n"
    assert html.get_content().strip() == "<p>Schöne <b>Grüße</b></p>"
    [attached] = letter.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("zahlen.csv", "text/csv")
    assert attached.get_payload(decode=True) == b"a,b\n1,2\n"
    assert envelope.content is not None
    assert max(map(len, bytes(envelope.content).split(b"\r\n"))) < 998
    result = (await app.results.get(owner, job)).result
    assert (result["message_id"], result["recipients"], result["refused"]) == (letter["message-id"], 4, {})
    [event] = await app.events.page(owner, type="email.sent")
    assert event.payload["message_id"] == letter["message-id"]


@pytest.mark.parametrize(
    ("answer", "state"), [("450 4.2.1 busy", "retryable"), ("554 5.7.1 spam", "discarded"), ("421 bye", "retryable")]
)
async def test_what_the_server_says_of_the_text_decides(
    app: App, tenant: UUID, server: MailServer, run: Run, answer: str, state: str
) -> None:
    server.data = lambda: answer
    job = await app.email.enqueue(HELLO, tenant=tenant)
    found = await run(job)
    assert (found.state, found.attempt, answer in str(found.error)) == (state, 1, True)
    if state == "retryable":
        server.data = lambda: "250 OK"
        assert (await run(job)).state == "completed"
        assert [letter["message-id"] for letter in server.letters] == [f"<{job}@backstay.test>"]


async def test_recipients_who_do_not_exist_keep_the_mail_from_nobody_else(
    app: App, tenant: UUID, owner: Principal, server: MailServer, run: Run
) -> None:
    server.rcpt = lambda address: "550 no such user" if address.startswith("gone") else "250 OK"
    both = Email(to=["gone@example.com", "ada@example.com"], subject="s", text="t")
    job = await app.email.enqueue(both, tenant=tenant)
    assert (await run(job)).state == "completed"
    assert server.got[0].rcpt_tos == ["ada@example.com"]
    assert (await app.results.get(owner, job)).result["refused"] == {"gone@example.com": "550 no such user"}
    none = Email(to=["gone@example.com"], subject="s", text="t")
    found = await run(await app.email.enqueue(none, tenant=tenant))
    assert (found.state, "takes no recipient: 550" in str(found.error)) == ("discarded", True)


async def test_while_one_recipient_has_to_wait_nobody_gets_it_twice(
    app: App, tenant: UUID, server: MailServer, run: Run
) -> None:
    server.rcpt = lambda address: "451 greylisted" if address.startswith("slow") else "250 OK"
    both = Email(to=["ada@example.com", "slow@example.com"], subject="s", text="t")
    job = await app.email.enqueue(both, tenant=tenant)
    assert (await run(job)).state == "retryable"
    assert server.got == []
    server.rcpt = lambda _: "250 OK"
    assert (await run(job)).state == "completed"
    assert [one.rcpt_tos for one in server.got] == [both.to]


async def test_a_server_that_is_away_is_tried_again(app: App, tenant: UUID, server: MailServer, run: Run) -> None:
    server.data = lambda: "250 OK"
    job = await app.email.enqueue(HELLO, tenant=tenant)
    app.email._server = None
    found = await run(job)
    assert (found.state, found.attempt, "set BACKSTAY_SMTP_URL" in str(found.error)) == ("scheduled", 0, True)


# the test's server leaves its socket open when the handshake after STARTTLS fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls_and_login_hold_and_no_password_goes_out_in_clear(
    settings: Settings, tenant: UUID, tmp_path: Path
) -> None:
    context, trusted = certificate(tmp_path)
    by = Principal.system(tenant, "test")
    login = f"{USER}:{quote(PASSWORD, safe='')}"

    async def sent_over(url: str) -> JobDetail:
        chosen = settings.model_copy(update={"smtp_url": SecretStr(url)})
        async with App(chosen) as app:
            job = await app.email.enqueue(HELLO, tenant=tenant)
            await app.jobs.worker().run_until_idle()
            found = await app.jobs.get(by, job)
            if found.state == "retryable":
                await app.jobs.cancel(by, job)  # the next one's worker is not to run it
            return found

    async with mail_server(context=context, login=True) as starttls:
        place = f"127.0.0.1:{starttls.port}?ca={trusted}"
        assert (await sent_over(f"smtp://{login}@{place}")).state == "completed"
        assert starttls.secured == [True]
        assert starttls.logins == [USER.encode()]
        wrong = await sent_over(f"smtp://{USER}:wrong@{place}")
        assert (wrong.state, "refused the login" in str(wrong.error)) == ("retryable", True)
        before = len(starttls.logins)
        stranger = await sent_over(f"smtp://{login}@127.0.0.1:{starttls.port}")
        assert (stranger.state, "certificate" in str(stranger.error).lower()) == ("retryable", True)
        assert len(starttls.logins) == before, "a password went to a server that is not trusted"
    async with mail_server(context=context, implicit=True, login=True) as implicit:
        found = await sent_over(f"smtps://{login}@127.0.0.1:{implicit.port}?ca={trusted}")
        assert (found.state, found.error) == ("completed", None)
        assert (implicit.secured, implicit.logins) == ([True], [USER.encode()])
    async with mail_server() as plain:
        found = await sent_over(f"smtp://{login}@127.0.0.1:{plain.port}?ca={trusted}")
        assert found.state == "retryable"
        assert (plain.logins, plain.got) == ([], [])


@pytest.mark.parametrize(
    "url",
    ["smtp://", "smtp://h:x", "smtp://u:geheim1@h?tls=never", "smtps://h?tls=never", "smtp://h?starttls=no"],
)
def test_a_url_that_would_not_work_stops_the_start_and_tells_no_password(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        App(settings.model_copy(update={"smtp_url": SecretStr(url)}))
    assert "BACKSTAY_SMTP_URL" in str(refused.value)
    assert "geheim1" not in str(refused.value)


async def test_header_injection_is_refused_when_it_is_enqueued(client: httpx.AsyncClient, server: MailServer) -> None:
    answer = await client.post(
        "/api/jobs",
        json={"name": "email", "input": {"to": ["a@example.com"], "subject": "x\r\nBcc: e@evil.com", "text": "t"}},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "job_input_invalid")
    assert "must be one line" in answer.text


async def sent(app: App, tenant: UUID) -> bool:
    return bool(await app.events.page(Principal.system(tenant, "test"), type="email.sent"))


async def test_a_worker_killed_after_sending_sends_again_under_the_same_message_id(
    app: App, tenant: UUID, server: MailServer
) -> None:
    job = await app.email.enqueue(HELLO, tenant=tenant)
    accepted = asyncio.Event()

    def accept() -> str:
        accepted.set()
        return "250 OK"

    server.data = accept
    environment = os.environ | {
        "BACKSTAY_DATABASE_URL": str(app.settings.database_url),
        "BACKSTAY_MASTER_KEY": app.settings.master_key.get_secret_value() if app.settings.master_key else "",
        "BACKSTAY_SMTP_URL": app.settings.smtp_url.get_secret_value() if app.settings.smtp_url else "",
        "BACKSTAY_EMAIL_FROM": str(app.settings.email_from),
        "BACKSTAY_LEASE_SECONDS": "1",
    }
    async with app.db.system_tx() as tx:
        # What the worker writes after it has sent waits for this transaction: it cannot say that it did.
        await tx.execute("lock table backstay.job_result in share mode")
        worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "backstay", "worker", env=environment)
        try:
            async with asyncio.timeout(60):
                await accepted.wait()
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            await worker.wait()
    stop = asyncio.Event()
    another = asyncio.create_task(app.jobs.worker().run(stop))
    await until(lambda: sent(app, tenant))
    stop.set()
    await another
    assert [letter["message-id"] for letter in server.letters] == [f"<{job}@backstay.test>"] * 2
    found = await app.jobs.get(Principal.system(tenant, "test"), job)
    assert (found.state, found.attempt, found.rescues) == ("completed", 1, 1)
