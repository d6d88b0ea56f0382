"""How hard a request looks: a score of at most 100 from rules that can be read, and that say why.

    rule         points
    length       5 from 500 tokens on, 15 from 2,000, 25 from 8,000, 35 from 32,000 (estimated, four bytes a token)
    turns        5 from 4 messages on, 10 from 10, 15 from 20
    tools        10, from 4 tools on 20
    media        10 for pictures, sound or files
    reasoning    30 when it is asked for
    structured   10 when the answer must be JSON
    code         15 when the last user turn holds code, a stack trace or a fenced block

simple: below 25, moderate: below 50, complex: from 50 on. The rules look at the request only: nobody is asked, and the
same request has the same score everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .facts import Facts
from .route import Level

MODERATE, COMPLEX, MOST = 25, 50, 100
_LENGTH = ((32_000, 35), (8_000, 25), (2_000, 15), (500, 5))
_TURNS = ((20, 15), (10, 10), (4, 5))
_TOOLS = ((4, 20), (1, 10))


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that fired, with its points and what it saw."""

    rule: str
    points: int
    because: str


@dataclass(frozen=True, slots=True)
class Complexity:
    """The score and the rules that made it."""

    score: int
    fired: tuple[Fired, ...]

    @property
    def level(self) -> Level:
        return "simple" if self.score < MODERATE else "moderate" if self.score < COMPLEX else "complex"

    def explained(self) -> dict[str, Any]:
        rules = [{"rule": rule.rule, "points": rule.points, "because": rule.because} for rule in self.fired]
        return {"score": self.score, "level": self.level, "rules": rules}


def measured(facts: Facts) -> Complexity:
    """The complexity of a request."""
    fired = tuple(_rules(facts))
    return Complexity(min(MOST, sum(rule.points for rule in fired)), fired)


def _rules(facts: Facts) -> Iterator[Fired]:
    request = facts.request
    if points := _step(_LENGTH, facts.input_estimate):
        yield Fired("length", points, f"about {facts.input_estimate} input tokens")
    if points := _step(_TURNS, request.turns):
        yield Fired("turns", points, f"{request.turns} messages")
    if points := _step(_TOOLS, request.tools):
        yield Fired("tools", points, f"{request.tools} tools")
    if request.media:
        yield Fired("media", 10, f"{request.media} pictures, sounds or files")
    if request.reasoning:
        yield Fired("reasoning", 30, "reasoning is asked for")
    if facts.structured:
        yield Fired("structured", 10, "the answer must be JSON")
    if facts.code:
        yield Fired("code", 15, "the last user turn holds code")


def _step(steps: tuple[tuple[int, int], ...], value: int) -> int:
    return next((points for least, points in steps if value >= least), 0)
