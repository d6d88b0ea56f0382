"""How much a running stream may still write: what was reserved for it, and what it is given beyond that."""

from decimal import Decimal

from .admission import Admission
from .call import Call
from .models import Mode
from .providers import Target
from .transcript import Transcript

_STEP = 4  # an extension is a fourth of the most that the call may write, and no less than _LEAST
_LEAST = 64
_CHARACTERS = 4  # a token, where one delta has several


class Allotment:
    """Extends a call before it writes more than it holds for. A budget that has no room then cuts it off."""

    def __init__(self, admission: Admission, call: Call, reserved: int) -> None:
        self._admission, self._call, self._order = admission, call, call.order
        order = call.order
        self._covered = reserved
        self._expected = order.mode is Mode.EXPECTED
        self._step = max(_LEAST, order.written * order.request.choices // _STEP)

    async def cover(self, target: Target, talk: Transcript) -> None:
        """Returns when all that was written is covered.

        Raises:
            BudgetExceeded, RateLimited: no more may be written; the message names what has no room.
        """
        while self._written(talk) >= self._covered:
            usd = self._bound(target, self._covered + self._step) - self._bound(target, self._covered)
            await self._admission.extend(self._call.admitted, usd, self._step)
            self._call.reserved += usd
            self._covered += self._step

    def _bound(self, target: Target, written: int) -> Decimal:
        return target.bound(self._order.request.input_bound, written)

    def _written(self, talk: Transcript) -> int:
        if not self._expected:
            # A strict call is extended only when a provider does not keep to its limit, so it must not be
            # overestimated.
            return talk.outputs - 1
        return max(talk.outputs, talk.characters // _CHARACTERS)
