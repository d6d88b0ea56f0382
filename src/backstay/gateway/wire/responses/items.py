"""The items of a request's `input`, read into turns and written from them."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from ...dialogue import Media, Part, Refusal, Text, Thinking, ToolCall, ToolResult, Turn
from .. import values
from ..base import Body
from ..fields import wrong
from . import fields as read
from . import parts as content
from . import seal as seals
from .parts import Role

_SYSTEM = ("system", "developer")


class Conversation:
    """Takes items in their order. `system` holds what stood in messages of the system and the developer, wherever they
    stood: no other format has a place for them between turns."""

    def __init__(self) -> None:
        self.system: list[Text] = []
        self._turns: list[tuple[Role, list[Part]]] = []
        self._names: dict[str, str] = {}
        self._signatures: dict[str, str] = {}

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(Turn(role, tuple(parts)) for role, parts in self._turns)

    def take(self, item: Any, path: str) -> None:
        """Raises BadRequest for an item that is wrong, or that other formats have no words for."""
        item = values.mapping(item, path)
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else "item_reference"
        if kind == "message":
            self._message(item, path)
        elif kind == "reasoning":
            self._reasoning(item, path)
        elif kind == "function_call":
            self._call(item, path)
        elif kind == "function_call_output":
            self._result(item, path)
        elif kind == "image_generation_call":
            if data := values.maybe_string(item.get("result"), f"{path}.result"):
                form = values.maybe_string(item.get("output_format"), f"{path}.output_format") or "png"
                self._said([Media("image", f"image/{form}", data=data)])
        elif kind == "item_reference":
            raise read.untranslatable(path, "it refers to an item that is kept elsewhere: send the item itself")
        else:
            kind = values.string(kind, f"{path}.type")
            raise read.untranslatable(f"{path}.type", f"leave out items of the type {kind[:64]!r}")

    def _message(self, item: Body, path: str) -> None:
        role = item.get("role")
        parts = list[Part](content.parts(item.get("content"), f"{path}.content"))
        if role in _SYSTEM:
            self.system += [_words(part, f"{path}.content") for part in parts]
        elif role == "assistant":
            self._said(parts)
        elif role == "user":
            # Results of tools and what the user says after them are one turn; two messages of a user stay two.
            if self._turns and self._turns[-1][0] == "user" and isinstance(self._turns[-1][1][-1], ToolResult):
                self._turns[-1][1].extend(parts)
            elif parts:
                self._turns.append(("user", parts))
        else:
            raise wrong(f"{path}.role", "must be user, assistant, system or developer")

    def _reasoning(self, item: Body, path: str) -> None:
        summary = _texts(item.get("summary"), f"{path}.summary")
        raw = _texts(item.get("content"), f"{path}.content")
        encrypted = values.maybe_string(item.get("encrypted_content"), f"{path}.encrypted_content")
        id = values.maybe_string(item.get("id"), f"{path}.id")
        try:
            thought = seals.open_thought(encrypted, "\n\n".join(summary) or "".join(raw), id)
        except seals.SealBroken:
            raise wrong(f"{path}.encrypted_content", "was changed; send it back as it came") from None
        if isinstance(thought, Thinking):
            self._said([thought])
        else:
            call, signature = thought
            self._signatures[call] = signature

    def _call(self, item: Body, path: str) -> None:
        id, name = read.name(item.get("call_id"), f"{path}.call_id"), read.name(item.get("name"), f"{path}.name")
        self._names[id] = name
        arguments = values.string(item.get("arguments"), f"{path}.arguments")
        self._said([ToolCall(id, name, arguments, self._signatures.get(id))])

    def _result(self, item: Body, path: str) -> None:
        call = read.name(item.get("call_id"), f"{path}.call_id")
        parts = tuple(_results(item.get("output"), f"{path}.output"))
        result = ToolResult(call, parts, self._names.get(call))
        if self._turns and self._turns[-1][0] == "user" and isinstance(self._turns[-1][1][-1], ToolResult):
            self._turns[-1][1].append(result)
        else:
            self._turns.append(("user", [result]))

    def _said(self, parts: list[Part]) -> None:
        """Everything between two turns of the user is one turn of the model."""
        if not parts:
            return
        if self._turns and self._turns[-1][0] == "assistant":
            self._turns[-1][1].extend(parts)
        else:
            self._turns.append(("assistant", parts))


def written(turns: Iterable[Turn]) -> Iterator[Body]:
    """The items that say `turns`. Thoughts of other formats are left out.

    Raises:
        BadRequest: a part has no place in this format (400).
    """
    for turn in turns:
        said: list[Body] = []
        for part in turn.parts:
            if isinstance(part, Text | Media | Refusal):
                said.append(content.written(part, turn.role))
            elif (item := _item(part)) is not None:
                if said:
                    yield _message(turn.role, said)
                    said = []
                yield item
        if said:
            yield _message(turn.role, said)


def _words(part: Part, path: str) -> Text:
    if not isinstance(part, Text):
        raise wrong(path, "must hold only texts in a message of the system or the developer")
    return part


def _texts(value: Any, path: str) -> list[str]:
    found = []
    for index, part in enumerate(values.items(value, path)):
        found.append(values.string(values.mapping(part, f"{path}[{index}]").get("text"), f"{path}[{index}].text"))
    return found


def _results(output: Any, path: str) -> Iterator[Text | Media]:
    if output == "":
        return
    for part in content.parts(output, path):
        if not isinstance(part, Text | Media):
            raise wrong(path, "must hold texts, images and files")
        yield part


def _message(role: Role, said: list[Body]) -> Body:
    return {"type": "message", "role": role, "content": said}


def _item(part: Part) -> Body | None:
    if isinstance(part, Thinking):
        if part.origin != seals.ORIGIN or part.signature is None:
            return None
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        item = {"type": "reasoning", "summary": summary, "encrypted_content": part.signature}
        return item | {"id": part.id} if part.id else item
    if isinstance(part, ToolCall):
        return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments or "{}"}
    result = cast("ToolResult", part)
    return {"type": "function_call_output", "call_id": result.call, "output": _output(result.parts)}


def _output(parts: tuple[Text | Media, ...]) -> str | list[Body]:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [content.written(part, "user") for part in parts]
