"""The job `email`: hands a mail to the operator's SMTP server, again where that may help."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.utils import parseaddr
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..jobs import Discard, JobContext, Jobs, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.crypto import Vault
from ..kernel.db import Tx
from ..kernel.errors import ConfigurationError
from ..kernel.settings import Settings
from .letter import Enclosure, message_id, written
from .mail import MOST_BYTES, Attachment, Email, JobFile, checked_address
from .models import COMMON
from .results import Results
from .smtp import Deferred, Refused, SmtpServer

_RETRY = Retry(max_attempts=12, base=timedelta(seconds=10), cap=timedelta(hours=2))
_UNTIL_CONFIGURED = timedelta(minutes=10)
_sent = telemetry.counter("backstay_email_job_mails_total", "Attempts of `email` jobs.", ["outcome"])


class EmailJob:
    """`app.email`. Enqueues mails, and sends them when a worker runs the job."""

    def __init__(
        self,
        jobs: Jobs,
        clock: Clock,
        settings: Settings,
        vault: Vault,
        audit: Audit,
        events: Events,
        results: Results,
    ) -> None:
        self._vault = vault
        self._clock, self._audit, self._events, self._results = clock, audit, events, results
        self._sender = _sender(settings)
        self._server = SmtpServer.of(settings.smtp_url.get_secret_value()) if settings.smtp_url else None
        self.job = jobs.handler("email", self._run, Email, retry=_RETRY, timeout=timedelta(minutes=15))

    async def enqueue(
        self,
        email: Email,
        *,
        tenant: UUID,
        key: str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        tx: Tx | None = None,
    ) -> UUID:
        """Has `email` sent once the transaction commits. Returns the job's id. See `Jobs.enqueue`."""
        return await self.job.enqueue(email, tenant=tenant, key=key, at=at, priority=priority, tx=tx)

    async def _run(self, context: JobContext, email: Email) -> None:
        if await self._results.stands(context):
            return
        if self._server is None or self._sender is None:
            raise Snooze(_UNTIL_CONFIGURED, "this worker has no SMTP server: set BACKSTAY_SMTP_URL")
        sender, last = self._sender, context.attempt >= _RETRY.max_attempts
        id = message_id(context.job, sender)
        enclosures = [await self._enclosed(context, email, one) for one in email.attachments]
        letter = written(email, enclosures, sender=sender, id=id, at=self._clock.now())
        try:
            refused = await self._server.deliver(sender.addr_spec, email.recipients, letter, last=last)
        except Deferred as error:
            _sent.labels("deferred").inc()
            raise RetryLater(str(error)) from None
        except Refused as error:
            _sent.labels("refused").inc()
            raise Discard(str(error)) from None
        _sent.labels("sent").inc()
        await self._keep(context, id, len(email.recipients), refused)

    async def _enclosed(self, context: JobContext, email: Email, one: Attachment | JobFile) -> Enclosure:
        if isinstance(one, Attachment):
            return Enclosure(one.name, one.media_type, one.content)
        found = await self._results.file_for(context.tenant, one.job)
        if found is None:
            raise Discard(f"job {one.job} has left no file, or none any more")
        file, parts = found
        if file.permission != COMMON and not self._permitted(context.tenant, one, email.recipients):
            raise Discard(f"the file of job {one.job} needs the permission {file.permission}: have that job mail it")
        if file.bytes > MOST_BYTES:
            raise Discard(f"the file of job {one.job} has {file.bytes} bytes; a mail takes {MOST_BYTES}")
        return Enclosure(file.name, file.media_type.partition(";")[0], b"".join([part async for part in parts]))

    def permit(self, tenant: UUID, job: UUID, recipients: Sequence[str]) -> JobFile:
        """The file of a job, for these recipients and no others, whatever it takes to read it. For jobs that have made
        sure that they may have it."""
        return JobFile(job=job, permit=self._vault.sign(_permit(tenant, job, recipients)).hex())

    def _permitted(self, tenant: UUID, one: JobFile, recipients: Sequence[str]) -> bool:
        try:
            signature = bytes.fromhex(one.permit or "")
        except ValueError:
            return False
        return self._vault.signed(_permit(tenant, one.job, recipients), signature)

    async def _keep(self, context: JobContext, id: str, recipients: int, refused: dict[str, str]) -> None:
        told = {"job_id": str(context.job), "message_id": id, "recipients": recipients, "refused": len(refused)}
        async with context.transaction() as tx:
            await self._results.keep(tx, context, told | {"refused": refused, "attempt": context.attempt})
            await self._audit.record(tx, context.by, "email.send", f"job:{context.job}", metadata=told)
            await self._events.emit(tx, "email.sent", told)


def _permit(tenant: UUID, job: UUID, recipients: Sequence[str]) -> bytes:
    return f"email-file:{tenant}:{job}:{','.join(sorted(recipients))}".encode()


def _sender(settings: Settings) -> Address | None:
    """Who mails come from.

    Raises:
        ConfigurationError: BACKSTAY_EMAIL_FROM is not an address.
    """
    if settings.email_from is None:
        return None
    name, address = parseaddr(settings.email_from)
    try:
        return Address(name, addr_spec=checked_address(address))
    except ValueError:
        raise ConfigurationError(
            "BACKSTAY_EMAIL_FROM is written like `shop@example.com` or `The shop <shop@example.com>`"
        ) from None
