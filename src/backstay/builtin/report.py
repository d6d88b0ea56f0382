"""The input of the `report` job: what to report, as which kind of file, and who gets it by mail."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .mail import MailAddress

Part = Literal["day", "feature", "user", "model"]
PERMISSIONS = {"spend": "gateway:read", "audit": "audit:read"}


class Span(NamedTuple):
    """From `since` on, until before `until`."""

    since: datetime
    until: datetime


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]


class NewReport(BaseModel):
    """What to report. `spend`: calls, tokens and USD for each combination of `by`. `audit`: every entry of the audit,
    without payloads."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["spend", "audit"] = "spend"
    format: Literal["csv", "html"] = "html"
    by: list[Part] = Field(["feature", "model"], min_length=1, max_length=4, description="What spend is added up by.")
    days: int = Field(30, ge=1, le=3660, description="How many days back, when `since` is missing.")
    since: Moment | None = Field(None, description="Leave out what was before. UTC, unless said.")
    until: Moment | None = Field(None, description="Leave out what was from then on; now when missing.")
    email_to: list[MailAddress] = Field(default_factory=list, max_length=20, description="Who gets it by mail.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len(set(self.by)) < len(self.by):
            raise ValueError("`by` names something twice")
        if self.since and self.until and self.since >= self.until:
            raise ValueError("`since` must be before `until`")
        return self

    @property
    def permission(self) -> str:
        """What whoever asks for it must be permitted."""
        return PERMISSIONS[self.kind]

    def span(self, now: datetime) -> Span:
        until = self.until or now
        return Span(self.since or until - timedelta(days=self.days), until)


class Report(NewReport):
    """The input of the `report` job. `audit` takes a `permit`, which `POST /api/reports` gives to those who may read
    the audit: whoever runs the job cannot see who asked for it."""

    permit: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _permitted(self) -> Self:
        if self.kind == "audit" and self.permit is None:
            raise ValueError("a report of the audit is asked for at POST /api/reports, which needs audit:read")
        return self

    def permit_text(self, tenant: UUID) -> bytes:
        """What a permit is a signature of: this very report, of this tenant."""
        return f"report:{tenant}:{self.model_dump_json(exclude={'permit'})}".encode()
