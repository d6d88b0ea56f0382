"""The operator's SMTP server, and how one mail is handed to it. The only module that knows the SMTP library."""

import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from aiosmtplib import SMTP, SMTPAuthenticationError, SMTPException, SMTPRecipientRefused, SMTPResponseException

from ..kernel import telemetry
from ..kernel.errors import ConfigurationError

_TIMEOUT = 60.0  # seconds for each command
_LATER = range(400, 500)
_WRITTEN = "smtp://user:password@host:587 or smtps://user:password@host:465"


class Deferred(Exception):
    """Not now: the server is away, busy, or does not know us. Nobody got the mail, as far as we know."""


class Refused(Exception):
    """Never: the server will not take this mail."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed in. TLS is used from the first byte (`implicit`), by STARTTLS, or not at all (`never`)."""

    host: str
    port: int
    tls: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    authority: str | None = None  # file with the certificate authority, when it is not a public one

    @classmethod
    def of(cls, url: str) -> Self:
        """From a URL such as `smtp://user:password@host:587`. `?ca=FILE` names the authority of the server's
        certificate, `?tls=never` speaks in clear to a relay nearby.

        Raises:
            ConfigurationError: what is wrong with it, without the password.
        """
        parts, options = urlsplit(url), parse_qs(urlsplit(url).query)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or port == -1:
            raise ConfigurationError(f"BACKSTAY_SMTP_URL is written {_WRITTEN}")
        if unknown := set(options) - {"ca", "tls"}:
            raise ConfigurationError(f"BACKSTAY_SMTP_URL has an option {min(unknown)}; there are ca=FILE and tls=never")
        tls = "implicit" if parts.scheme == "smtps" else "starttls"
        if "tls" in options:
            if options["tls"] != ["never"] or tls == "implicit" or parts.username:
                raise ConfigurationError(
                    "BACKSTAY_SMTP_URL: tls=never is for smtp:// without user and password, which anybody could read"
                )
            tls = "never"
        usual = {"implicit": 465, "starttls": 587, "never": 25}[tls]
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        return cls(parts.hostname, port or usual, tls, user, password, options.get("ca", [None])[0])

    async def deliver(self, sender: str, recipients: Sequence[str], letter: bytes, *, last: bool) -> dict[str, str]:
        """Hands the mail in. Returns those whom the server refused for good, and why; all others get it.

        While some recipient is to be tried again later, nobody gets it, so that nobody gets it twice; except in the
        `last` attempt.

        Raises:
            Deferred, Refused: nobody gets it.
        """
        client = SMTP(
            hostname=self.host,
            port=self.port,
            use_tls=self.tls == "implicit",
            start_tls=self.tls == "starttls",
            username=self.user,
            password=self.password,
            tls_context=None if self.tls == "never" else self._trust(),
            timeout=_TIMEOUT,
        )
        try:
            await client.connect()
            await client.mail(sender)
            refused = await _recipients(client, recipients, last)
            await client.data(letter)
        except SMTPAuthenticationError as error:
            # The mail is not at fault, and will go out once the operator has mended the password.
            raise Deferred(f"the SMTP server refused the login: {_said(error)}") from None
        except SMTPResponseException as error:
            raise (Deferred if error.code in _LATER else Refused)(f"the SMTP server said {_said(error)}") from None
        except ssl.SSLError as error:
            raise Deferred(f"TLS with the SMTP server failed: {error.reason or 'no reason given'}") from None
        except (SMTPException, OSError) as error:
            raise Deferred(f"the SMTP server cannot be used: {telemetry.scrub(str(error))}") from None
        finally:
            # Taken is taken: that the farewell failed must not send it once more.
            with suppress(SMTPException, OSError):
                await client.quit()
            client.close()
        return refused

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise Deferred(f"the certificate authority of BACKSTAY_SMTP_URL cannot be read: {error.strerror}") from None


async def _recipients(client: SMTP, recipients: Sequence[str], last: bool) -> dict[str, str]:
    refused: dict[str, str] = {}
    later = ""
    for recipient in recipients:
        try:
            await client.rcpt(recipient)
        except SMTPRecipientRefused as error:
            refused[recipient] = _said(error)
            if error.code in _LATER:
                later = refused[recipient]
    if len(refused) == len(recipients):
        raise (Deferred if later else Refused)(f"the SMTP server takes no recipient: {later or min(refused.values())}")
    if later and not last:
        raise Deferred(f"the SMTP server does not take every recipient yet: {later}")
    return refused


def _said(error: SMTPResponseException) -> str:
    return telemetry.scrub(f"{error.code} {error.message}".replace("\n", " "))[:300]
