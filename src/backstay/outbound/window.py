"""Two sums over the last seconds, at a cost that does not grow with the calls."""

PARTS = 10


class Window:
    """Counts calls and marks (failures, retries) of the last `seconds`.

    Time is cut into parts of a tenth of the window; the oldest part is forgotten as a whole. So nothing older than
    `seconds` counts, and nothing younger than nine tenths of them is forgotten.
    """

    __slots__ = ("_calls", "_marks", "_part", "_seconds_a_part", "calls", "marks")

    def __init__(self, seconds: float) -> None:
        self._seconds_a_part = seconds / PARTS
        self._part = 0
        self.clear()

    def clear(self) -> None:
        self._calls, self._marks = [0] * PARTS, [0] * PARTS
        self.calls = self.marks = 0

    def add(self, now: float, calls: int, marks: int) -> None:
        """Counts at `now`, in seconds of a clock that does not go back."""
        part = int(now / self._seconds_a_part)
        if part > self._part:
            self._forget_until(part)
        at = self._part % PARTS
        self._calls[at] += calls
        self._marks[at] += marks
        self.calls += calls
        self.marks += marks

    def roll(self, now: float) -> None:
        """Forgets what is too old at `now`."""
        self.add(now, 0, 0)

    def _forget_until(self, part: int) -> None:
        if part - self._part >= PARTS:
            self.clear()
        else:
            for passed in range(self._part + 1, part + 1):
                at = passed % PARTS
                self.calls -= self._calls[at]
                self.marks -= self._marks[at]
                self._calls[at] = self._marks[at] = 0
        self._part = part
