"""An amount in each window, as people write it: `20 USD/day`."""

import re
from dataclasses import dataclass
from decimal import Decimal

from ..kernel.errors import ConfigurationError
from .terms import Period

_WRITTEN = re.compile(r"\s*(\d{1,9}(?:\.\d{1,8})?)\s*USD\s*(?:/\s*(minute|hour|day|month|total))?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Allowance:
    """At most `limit` USD in each `window`."""

    limit: Decimal
    window: Period

    @classmethod
    def read(cls, text: str) -> "Allowance":
        """From `20 USD/day`; without a window it is in total.

        Raises:
            ConfigurationError: it is not written so.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"{text!r} is no budget: write it as `20 USD/day` (minute, hour, day, month, total)"
            )
        return cls(Decimal(found[1]), Period((found[2] or "total").lower()))
