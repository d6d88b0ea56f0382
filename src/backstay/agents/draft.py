"""What a model has said so far, put together from the chunks of its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from ..kernel.ids import new_id
from .texts import json_without_nul, without_nul
from .turn import Call, Turn


@dataclass(slots=True)
class _Asked:
    """A tool call as it comes in."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """`asked` is the model as the request names it; `call` the id of the model call."""

    asked: str
    call: UUID = field(default_factory=new_id)
    model: str = ""
    pieces: list[str] = field(default_factory=list)
    calls: dict[int, _Asked] = field(default_factory=dict)
    thoughts: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, chunk: Mapping[str, Any]) -> tuple[str, str]:
        """Takes in a chunk; gives the text and the reasoning that it brought."""
        self.model = _qualified(chunk.get("model"), self.asked)
        if usage := chunk.get("usage"):
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)
        delta = _delta(chunk)
        for piece in delta.get("tool_calls") or ():
            self._ask(piece)
        self.thoughts += delta.get("reasoning_details") or ()
        text = without_nul(delta.get("content") or "")
        if text:
            self.pieces.append(text)
        return text, without_nul(delta.get("reasoning_content") or delta.get("reasoning") or "")

    def turn(self, outcome: Literal["answered", "cancelled"], cost: Decimal) -> Turn:
        return Turn(
            outcome=outcome,
            model=self.model or self.asked,
            text="".join(self.pieces),
            calls=self.wanted() if outcome == "answered" else (),
            thoughts=tuple(self.thoughts),
            call=self.call,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost=cost,
        )

    def wanted(self) -> tuple[Call, ...]:
        """The tool calls, in the model's order. One without an id gets one."""
        return tuple(
            Call(
                id=one.id or f"call_{self.call.hex}_{place}",
                name=without_nul(one.name),
                arguments=json_without_nul("".join(one.arguments)),
            )
            for place, one in sorted(self.calls.items())
        )

    def _ask(self, piece: Mapping[str, Any]) -> None:
        asked = self.calls.setdefault(int(piece.get("index") or 0), _Asked())
        function = piece.get("function") or {}
        asked.id = asked.id or str(piece.get("id") or "")
        asked.name = asked.name or str(function.get("name") or "")
        asked.arguments.append(str(function.get("arguments") or ""))


def _delta(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta") or {}


def _qualified(answered: Any, asked: str) -> str:
    """The model as `provider:model`; who answered is the provider's word, which provider it was is ours."""
    if not isinstance(answered, str) or not answered:
        return asked
    return answered if answered.startswith("sim:") else f"{asked.partition(':')[0]}:{answered}"
