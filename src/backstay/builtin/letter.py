"""Writes a mail as it goes over the wire (RFC 5322), seven bits wide."""

from collections.abc import Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import NamedTuple
from uuid import UUID

from .mail import Email

_SEVEN_BITS = SMTP.clone(cte_type="7bit")


class Enclosure(NamedTuple):
    """An attachment with its content."""

    name: str
    media_type: str
    content: bytes


def message_id(job: UUID, sender: Address) -> str:
    """The same for every attempt of a job: a mail that comes twice can be told to be one."""
    return f"<{job}@{sender.domain}>"


def written(email: Email, enclosures: Sequence[Enclosure], *, sender: Address, id: str, at: datetime) -> bytes:
    """The mail. Whoever is in `bcc` does not appear in it."""
    letter = EmailMessage(policy=_SEVEN_BITS)
    letter["From"] = sender
    letter["To"] = _people(email.to)
    if email.cc:
        letter["Cc"] = _people(email.cc)
    if email.reply_to:
        letter["Reply-To"] = _people([email.reply_to])
    letter["Subject"] = email.subject
    letter["Date"] = format_datetime(at)
    letter["Message-ID"] = id
    letter["Auto-Submitted"] = "auto-generated"  # asks vacation responders to stay silent (RFC 3834)
    if email.text is not None:
        letter.set_content(email.text)
        if email.html is not None:
            letter.add_alternative(email.html, subtype="html")
    elif email.html is not None:
        letter.set_content(email.html, subtype="html")
    for one in enclosures:
        maintype, _, subtype = one.media_type.partition("/")
        letter.add_attachment(one.content, maintype=maintype, subtype=subtype, filename=one.name)
    return letter.as_bytes()


def _people(addresses: Sequence[str]) -> tuple[Address, ...]:
    return tuple(Address(addr_spec=address) for address in addresses)
