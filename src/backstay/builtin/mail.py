"""The input of the `email` job: one mail, to a few people."""

import re
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, model_validator

MOST_BYTES = 8 * 1024 * 1024
_MOST_PEOPLE = 100
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_FILE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\\"\x85\u2028\u2029]{1,200}")
_MEDIA_TYPE = re.compile(r"(?!multipart/|message/)[a-z]+/[a-z0-9][a-z0-9.+-]{0,99}")


def checked_address(address: str) -> str:
    """A bare address such as `ada@example.com`: one recipient, whichever program reads it.

    Raises:
        ValueError: it is something else.
    """
    if not _ADDRESS.fullmatch(address):
        raise ValueError("must be a bare address in ASCII, such as ada@example.com; write other domains in Punycode")
    return address


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be one line, without control characters")
    return text


def _file_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError("must be a file's name, without path, quotes and control characters")
    return name


def _media_type(kind: str) -> str:
    if not _MEDIA_TYPE.fullmatch(kind):
        raise ValueError("must be a media type in lower case, such as application/pdf")
    return kind


MailAddress = Annotated[str, AfterValidator(checked_address)]
People = Annotated[list[MailAddress], Field(max_length=_MOST_PEOPLE)]


class Attachment(BaseModel):
    """A file that the mail brings along."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_file_name)]
    media_type: Annotated[str, AfterValidator(_media_type)] = "application/octet-stream"
    content: Base64Bytes = Field(description="In Base64.")


class JobFile(BaseModel):
    """The file that a job of the same tenant has made, read when the mail is sent."""

    model_config = ConfigDict(extra="forbid")

    job: UUID
    permit: str | None = Field(None, description="Made by the job itself for a file that not everybody may read.")


class Email(BaseModel):
    """A mail of the `email` job. It comes from BACKSTAY_EMAIL_FROM. Its text is stored with the job, in clear."""

    model_config = ConfigDict(extra="forbid")

    to: People = Field(min_length=1)
    cc: People = Field(default_factory=list)
    bcc: People = Field(default_factory=list)
    reply_to: MailAddress | None = None
    subject: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_one_line)]
    text: str | None = Field(None, max_length=1_000_000)
    html: str | None = Field(None, max_length=1_000_000, description="Shown instead of the text by those who can.")
    attachments: list[Attachment | JobFile] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _says_something_and_fits(self) -> Self:
        if self.text is None and self.html is None:
            raise ValueError("give `text`, `html` or both")
        size = sum(len(one.content) for one in self.attachments if isinstance(one, Attachment))
        if size > MOST_BYTES:
            raise ValueError(f"the attachments have {size} bytes; together they may have {MOST_BYTES}")
        return self

    @property
    def recipients(self) -> list[str]:
        """Everyone, once."""
        return list(dict.fromkeys([*self.to, *self.cc, *self.bcc]))
