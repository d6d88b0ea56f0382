"""Single flight: of those who ask the same at the same time, one asks the provider and the others wait for its answer.

A leader that fails or leaves fails nobody: it hands the lead to the first of those who wait.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")
# When so many leaders have failed, the rest go on their own: the provider's own errors are then better than waiting.
_MOST_LEADERS = 3


class _Told(Enum):
    LEAD = "the leader failed or left: it is your turn"
    ALONE = "there is nothing to wait for: ask by yourself"


@dataclass(slots=True)
class _Flight(Generic[T]):
    """What is on its way: who waits for it, and what the leader has brought."""

    waiting: "deque[asyncio.Future[T | _Told]]" = field(default_factory=deque)
    landed: "list[T]" = field(default_factory=list)
    leaders: int = 1

    def tell_all(self, word: "T | _Told") -> None:
        while self.waiting:
            _tell(self.waiting.popleft(), word)


class Flights(Generic[T]):
    """What is on its way in this process, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def seat(self, key: Hashable) -> "Seat[T]":
        return Seat(self._flights, key)


class Seat(Generic[T]):
    """One who asks. `board` first; a leader then says how it ended: `land`, `divert` or, in every case, `leave`."""

    def __init__(self, flights: "dict[Hashable, _Flight[T]]", key: Hashable) -> None:
        self._flights, self._key = flights, key
        self._led: _Flight[T] | None = None

    @property
    def leads(self) -> bool:
        return self._led is not None

    async def board(self, patience: float) -> T | None:
        """What a leader brings within `patience` seconds.

        None: this one has to ask by itself, and when it `leads`, others wait for it.
        """
        flight = self._flights.get(self._key)
        if flight is None:
            self._led = self._flights[self._key] = _Flight()
            return None
        if flight.landed:
            return flight.landed[0]
        word = await self._word(flight, patience)
        if word is _Told.LEAD:
            self._led = flight
        return None if isinstance(word, _Told) else word

    def land(self, result: T) -> None:
        """Gives `result` to all who wait, and until `leave` to those who come."""
        if self._led is not None and not self._led.landed:
            self._led.landed.append(result)
            self._led.tell_all(result)

    def divert(self) -> None:
        """Sends all who wait on their way, together: what this leader brings is its own."""
        if self._led is not None:
            self._led.tell_all(_Told.ALONE)
            self.leave()

    def leave(self) -> None:
        """Gives up the lead, to the first who still waits. Does nothing for one who does not lead."""
        flight, self._led = self._led, None
        if flight is None:
            return
        if flight.leaders >= _MOST_LEADERS:
            flight.tell_all(_Told.ALONE)
        while flight.waiting:
            if _tell(flight.waiting.popleft(), _Told.LEAD):
                flight.leaders += 1
                return
        del self._flights[self._key]

    async def _word(self, flight: _Flight[T], patience: float) -> T | _Told:
        place: asyncio.Future[T | _Told] = asyncio.get_running_loop().create_future()
        flight.waiting.append(place)
        try:
            async with asyncio.timeout(patience):
                return await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.result() is _Told.LEAD:
                # The lead came just as this one gave up: it goes to the next.
                self._led = flight
                flight.leaders -= 1
                self.leave()
            if isinstance(error, TimeoutError):
                return _Told.ALONE
            raise


def _tell(place: "asyncio.Future[T | _Told]", word: "T | _Told") -> bool:
    """Whether anybody still waits there."""
    if place.done():
        return False
    place.set_result(word)
    return True
