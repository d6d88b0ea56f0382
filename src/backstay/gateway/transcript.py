"""What was said in a stream, in no provider's words: for the audit, the cache, estimates and other formats."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .dialogue import (
    OUTPUT,
    Began,
    Delta,
    Media,
    MediaDelta,
    Part,
    Refusal,
    RefusalDelta,
    Said,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolCall,
    ToolDelta,
    Used,
)
from .models import Usage


@dataclass(slots=True)
class _Block:
    """A part under way: its first delta says what it is, the pieces are its text or its arguments."""

    first: Delta
    pieces: list[str] = field(default_factory=list)
    signature: str | None = None


class Transcript:
    """Follows the deltas of one answer of so many `choices`. `outputs` counts those that carry output: about one token
    each; `characters` those of text, thoughts and arguments."""

    def __init__(self, choices: int = 1) -> None:
        self._expected = choices
        self._head: Began | None = None
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._stops: dict[int, Stopped] = {}
        self.usage: Usage | None = None
        self.outputs = 0
        self.characters = 0

    @property
    def finished(self) -> bool:
        """The provider gave a reason for the end of every choice it began."""
        stops = self._stops
        return len(stops) >= self._expected and all(choice in stops for choice, _ in self._blocks)

    def follow(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, OUTPUT):
                self.outputs += 1
                self._grow(delta)
            elif isinstance(delta, Used):
                self.usage = delta.usage
            elif isinstance(delta, Stopped):
                self._stops[delta.choice] = delta
            elif isinstance(delta, Began):
                self._head = delta
                self.usage = delta.usage or self.usage

    def said(self, usage: Usage | None = None) -> Said:
        """The first choice so far, as one answer."""
        return self._said(0, usage or self.usage)

    def choices(self) -> list[Said]:
        """Every choice so far; one, except where several answers were asked for."""
        numbers = sorted({choice for choice, _ in self._blocks} | self._stops.keys()) or [0]
        return [self._said(number, self.usage) for number in numbers]

    def _said(self, choice: int, usage: Usage | None) -> Said:
        head, stop = self._head or Began("", ""), self._stops.get(choice)
        parts = tuple(_part(block) for (number, _), block in sorted(self._blocks.items()) if number == choice)
        return Said(
            head.id,
            head.model,
            parts,
            stop.stop if stop else None,
            usage,
            sequence=stop.sequence if stop else None,
            created=head.created,
        )

    def _grow(self, delta: Delta) -> None:
        assert isinstance(delta, OUTPUT)  # noqa: S101 -- they alone come here
        key = (delta.choice, delta.block)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = _Block(delta)
        if isinstance(delta, ToolDelta):
            block.pieces.append(delta.arguments)
            self.characters += len(delta.arguments)
        elif isinstance(delta, ToolBegan | MediaDelta):
            block.first = delta
        else:
            block.pieces.append(delta.text)
            self.characters += len(delta.text)
            if isinstance(delta, ThinkingDelta):
                block.signature = delta.signature or block.signature


def deltas_of(said: Said) -> list[Delta]:
    """A whole answer as the deltas of a stream, as if it came at once."""
    out: list[Delta] = [Began(said.id, said.model, None, said.created)]
    for block, part in enumerate(said.parts):
        if isinstance(part, Text):
            out.append(TextDelta(block, part.text))
        elif isinstance(part, Refusal):
            out.append(RefusalDelta(block, part.text))
        elif isinstance(part, Thinking):
            out.append(ThinkingDelta(block, part.text, part.signature, part.redacted, part.origin, part.id))
        elif isinstance(part, Media):
            out.append(MediaDelta(block, part))
        elif isinstance(part, ToolCall):
            out += [ToolBegan(block, part.id, part.name, part.signature), ToolDelta(block, part.arguments)]
    if said.usage is not None:
        out.append(Used(said.usage))
    if said.stop is not None:
        out.append(Stopped(said.stop, said.sequence))
    return out


def _part(block: _Block) -> Part:
    first, text = block.first, "".join(block.pieces)
    if isinstance(first, TextDelta):
        return Text(text)
    if isinstance(first, MediaDelta):
        return first.media
    if isinstance(first, RefusalDelta):
        return Refusal(text)
    if isinstance(first, ThinkingDelta):
        return Thinking(text, block.signature, first.redacted, first.origin, first.id)
    if isinstance(first, ToolBegan):
        return ToolCall(first.id, first.name, text or "{}", first.signature)
    return ToolCall("", "", text)
