"""Guards: your own code that sees every text on its way to a model and back, and may change or stop it.

What a guard has changed is what is sent, answered, cached and kept in the audit; the original is nowhere.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from .dialogue import Delta, MediaDelta, RefusalDelta, Stopped, TextDelta, ThinkingDelta, ToolBegan

_REQUEST_ROOTS = ("messages", "system", "input", "instructions", "contents", "systemInstruction", "system_instruction")
_ANSWER_ROOTS = ("choices", "content", "output", "candidates")
# Keys of texts that people and models wrote, over all formats. Thoughts are signed: a changed one would be refused.
_TEXTS = frozenset({"text", "content", "output", "input", "instructions", "refusal"})
_LEFT_ALONE = frozenset({"thinking", "redacted_thinking", "reasoning"})


@dataclass(frozen=True, slots=True)
class GuardContext:
    """Whose call it is."""

    tenant: UUID
    principal: str
    feature: str
    user: str | None
    model: str


class AnswerGuard:
    """Watches one text of an answer as it comes. It may hold text back until it has seen enough."""

    def feed(self, text: str) -> str:
        """What may go on now.

        Raises:
            GuardBlocked: nothing more may.
        """
        return text

    def rest(self) -> str:
        """What was held back; the text is over."""
        return ""


class Guard:
    """Derive from it and override what is wanted; as it stands, everything passes."""

    async def request(self, text: str, context: GuardContext) -> str:
        """One text of a request, as it may go out.

        Raises:
            GuardBlocked: the request may not go out.
        """
        return text

    def answer(self, context: GuardContext) -> AnswerGuard | None:
        """Watches one text of the answer; None when this guard does not look at answers."""
        return None


async def guarded_request(guards: Sequence[Guard], body: dict[str, Any], context: GuardContext) -> dict[str, Any]:
    """The request as it may go out.

    Raises:
        GuardBlocked: it may not.
    """
    for root in _REQUEST_ROOTS:
        if root in body:
            body = {**body, root: await _passed({root: body[root]}, guards, context)}
    return body


async def _passed(node: Any, guards: Sequence[Guard], context: GuardContext) -> Any:
    (root,) = node
    texts = {text async for text in _asked(node, guards, context)}
    changed = dict(texts)
    return _mapped(node, lambda text: changed.get(text, text))[root]


async def _asked(node: Any, guards: Sequence[Guard], context: GuardContext) -> AsyncIterator[tuple[str, str]]:
    for text in set(_texts(node)):
        passed = text
        for guard in guards:
            passed = await guard.request(passed, context)
        yield text, passed


def guarded_answer(guards: Sequence[Guard], body: dict[str, Any], context: GuardContext) -> dict[str, Any]:
    """A whole answer as it may be told; the same object when nothing was changed.

    Raises:
        GuardBlocked: it may not be.
    """
    if not any(guard.answer(context) is not None for guard in guards):
        return body
    changed = {
        root: _mapped({root: body[root]}, lambda text: _whole(guards, text, context))[root]
        for root in _ANSWER_ROOTS
        if root in body
    }
    found = body | changed
    return body if found == body else found


def _whole(guards: Sequence[Guard], text: str, context: GuardContext) -> str:
    for guard in guards:
        watch = guard.answer(context)
        if watch is not None:
            text = watch.feed(text) + watch.rest()
    return text


class GuardedStream:
    """The deltas of a stream as they may go on: each text block has watches of its own."""

    def __init__(self, guards: Sequence[Guard], context: GuardContext) -> None:
        self._guards, self._context = guards, context
        self._watches: dict[tuple[int, int], list[AnswerGuard]] = {}

    def feed(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Raises GuardBlocked."""
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                self._text(delta, out)
                continue
            if isinstance(delta, Stopped | ToolBegan | ThinkingDelta | RefusalDelta | MediaDelta):
                # Another part begins or the answer ends: what was held back of a text goes before it.
                self._flush(out, delta.choice)
            out.append(delta)
        return out

    def _text(self, delta: TextDelta, out: list[Delta]) -> None:
        key = (delta.choice, delta.block)
        if key not in self._watches:
            self._flush(out, delta.choice)
            found = (guard.answer(self._context) for guard in self._guards)
            self._watches[key] = [watch for watch in found if watch is not None]
        text = delta.text
        for watch in self._watches[key]:
            text = watch.feed(text)
        if text:
            out.append(replace(delta, text=text))

    def _flush(self, out: list[Delta], choice: int) -> None:
        for key in [key for key in self._watches if key[0] == choice]:
            text = ""
            for watch in self._watches.pop(key):
                text = watch.feed(text) + watch.rest()
            if text:
                out.append(TextDelta(key[1], text, key[0]))


def _texts(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, str):
        if key in _TEXTS:
            yield node
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item, key)
    elif isinstance(node, dict) and node.get("type") not in _LEFT_ALONE:
        for name, value in node.items():
            yield from _texts(value, name)


def _mapped(node: Any, change: Callable[[str], str], key: str = "") -> Any:
    if isinstance(node, str):
        return change(node) if key in _TEXTS else node
    if isinstance(node, list):
        return [_mapped(item, change, key) for item in node]
    if isinstance(node, dict) and node.get("type") not in _LEFT_ALONE:
        return {name: _mapped(value, change, name) for name, value in node.items()}
    return node
