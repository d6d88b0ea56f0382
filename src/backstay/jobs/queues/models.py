"""Settings of queues as data: what a queue may do, and what each tenant gets of it. No I/O."""

from uuid import UUID

from pydantic import BaseModel, Field

from ...kernel.errors import Forbidden


class NotTheOperator(Forbidden):
    """Queues are shared by all tenants, so no tenant but the installation's own may set them."""

    code, title = "not_the_operator", "Only the operator of the installation may do this"


class QueueLimit(BaseModel):
    """What a queue may do, over all workers and tenants. A missing field is no limit."""

    max_running: int | None = Field(None, ge=0, le=1_000_000, description="How many of its jobs run at once.")
    rate: str | None = Field(None, max_length=50, description="How many start in any such time, like `100/minute`.")


class ShareChange(BaseModel):
    """What a tenant gets of a queue."""

    weight: float = Field(1.0, gt=0, le=1_000, description="Starts in proportion to it while several tenants wait.")
    max_running: int | None = Field(None, ge=0, le=1_000_000, description="How many of its jobs run at once.")


class Share(ShareChange):
    """A tenant whose share someone has set."""

    tenant: UUID


class QueueSettings(QueueLimit):
    """A queue's settings."""

    name: str
    paused: bool = False
    shares: list[Share] = Field(default_factory=list, description="Tenants whose share someone has set; at most 1000.")
