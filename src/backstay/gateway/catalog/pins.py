"""Which target each conversation had last, in this process: what keeps a provider's prompt cache warm. Bounded.

Another process has its own memory of it. By weight a conversation draws the same target everywhere; by the other
strategies it may change once when it changes the process.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

KEPT = 3600.0  # seconds since the last turn; no provider's cache lasts longer
CONVERSATIONS = 10_000


class Pins:
    """Targets by route and conversation. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, most: int = CONVERSATIONS) -> None:
        self._now, self._most = now, most
        self._pins: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def keep(self, route: str, conversation: str, model: str) -> None:
        """`model` has answered a turn of the conversation."""
        self._pins[route, conversation] = (model, self._now())
        self._pins.move_to_end((route, conversation))
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)

    def of(self, route: str, conversation: str) -> str | None:
        """The target that answered last, if that was less than an hour ago."""
        pin = self._pins.get((route, conversation))
        return pin[0] if pin is not None and self._now() - pin[1] < KEPT else None
