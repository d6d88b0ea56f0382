"""A run as a child would play it: a list of instructions, and a finger on the one that is next."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

MINUTE = timedelta(minutes=1)


class Instruction(BaseModel):
    """`what` is step, effect, signal, sleep or approve. `name` is the signal's; `number` is how often the step fails
    first, or how many minutes it sleeps."""

    what: str
    name: str = ""
    number: int = 0


class Program(BaseModel):
    instructions: list[Instruction]


@dataclass
class Model:
    """What is true of the run once a worker has gone as far as it can."""

    program: list[Instruction]
    now: datetime
    next: int = 0
    begun: bool = False
    state: str = "pending"
    due: datetime | None = None
    keys: set[str] = field(default_factory=set)
    letters: dict[str, deque[int]] = field(default_factory=lambda: defaultdict(deque))
    verdict: bool | None = None
    got: list[Any] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ("completed", "cancelled")

    @property
    def asks(self) -> bool:
        """Whether it waits for a decision."""
        return self.state == "waiting" and self.program[self.next].what == "approve" and self.verdict is None

    @property
    def needs(self) -> tuple[Any, ...]:
        """What brings it further."""
        if self.state != "waiting":
            return ("work",)
        match self.program[self.next]:
            case Instruction(what="signal", name=name):
                return ("send", name, self.next, f"help {self.next} {len(self.keys)}")
            case Instruction(what="sleep", number=minutes):
                return ("wait", minutes)
        return ("decide", True)

    def send(self, name: str, number: int, key: str) -> bool:
        """False when the run has ended. A key that was used before changes nothing."""
        if key in self.keys:
            return True
        if self.ended:
            return False
        self.keys.add(key)
        self.letters[name].append(number)
        return True

    def work(self) -> None:
        if self.ended:
            return
        while self.next < len(self.program):
            if not self._passes(self.program[self.next]):
                self.state = "waiting"
                return
            self.next += 1
        self.state = "completed"

    def _passes(self, instruction: Instruction) -> bool:
        match instruction.what:
            case "signal":
                if not self.letters[instruction.name]:
                    return False
                self.got.append(self.letters[instruction.name].popleft())
            case "sleep":
                self.due = self.due or self.now + instruction.number * MINUTE
                if self.due > self.now:
                    return False
                self.due = None
            case "approve":
                if self.verdict is None:
                    return False
                self.got.append(self.verdict)
                self.verdict = None
        return True
