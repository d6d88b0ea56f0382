"""What was spent, line by line, for reports that may be longer than memory."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from uuid import UUID

from ..kernel.db import Tx
from . import store
from .models import SpendLine


def spend_lines(
    tx: Tx, tenant: UUID, by: Sequence[str], since: datetime, until: datetime
) -> AsyncGenerator[SpendLine, None]:
    """What each combination of `day`, `feature`, `user` and `model` used and cost, as far as they are named in `by`.

    The newest day first, then the dearest. `since` is part of it, `until` is not.
    """
    return store.spend_lines(tx, tenant, by, since, until)
