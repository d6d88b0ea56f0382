"""How long targets have taken in the last minutes, in this process.

Bounded: it keeps the newest samples of the targets that were called last.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

WINDOW = 300.0  # seconds
SAMPLES = 256  # a target
TARGETS = 2_000
MEDIAN_FROM, P95_FROM = 3, 20  # samples
_FRESH = 1.0  # seconds that a figure is not computed again


@dataclass(slots=True)
class _Target:
    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    sorted: list[float] = field(default_factory=list)
    sorted_at: float = float("-inf")


class LatencyBoard:
    """Medians and 95th percentiles by target. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, window: float = WINDOW) -> None:
        self._now, self._window = now, window
        self._targets: OrderedDict[Hashable, _Target] = OrderedDict()

    def observe(self, target: Hashable, seconds: float) -> None:
        """One answer: the seconds until its first token (until the whole of it, where it is not streamed)."""
        known = self._targets.get(target)
        if known is None:
            known = self._targets[target] = _Target()
            if len(self._targets) > TARGETS:
                self._targets.popitem(last=False)
        self._targets.move_to_end(target)
        known.samples.append((self._now(), seconds))

    def p50(self, target: Hashable) -> float | None:
        """The median of the window in seconds; None below 3 samples."""
        return _at(self._figures(target), 0.5, MEDIAN_FROM)

    def p95(self, target: Hashable) -> float | None:
        """What 95 of 100 answers of the window took at most; None below 20 samples."""
        return _at(self._figures(target), 0.95, P95_FROM)

    def _figures(self, target: Hashable) -> Sequence[float]:
        known = self._targets.get(target)
        if known is None:
            return ()
        now = self._now()
        if now - known.sorted_at >= _FRESH:
            while known.samples and now - known.samples[0][0] > self._window:
                known.samples.popleft()
            known.sorted, known.sorted_at = sorted(seconds for _, seconds in known.samples), now
        return known.sorted


def _at(figures: Sequence[float], share: float, least: int) -> float | None:
    """The smallest figure that no less than `share` of all are at or below (nearest rank)."""
    return figures[math.ceil(len(figures) * share) - 1] if len(figures) >= least else None
