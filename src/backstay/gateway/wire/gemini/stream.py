"""Gemini's streams: one GenerateContentResponse an event, function calls whole, and no end mark."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from ....kernel.ids import new_id
from ...dialogue import (
    Began,
    Delta,
    MediaDelta,
    RefusalDelta,
    Request,
    Stop,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    Used,
)
from ...errors import ProviderFailed
from ...models import Usage
from ..base import Body, status
from .answer import (
    MALFORMED_CALL,
    blocked,
    call_of,
    function_call,
    media_of,
    media_part,
    queries_of,
    reason_of,
    refusal_of,
    searches_of,
    stop_of,
    thought,
    usage_metadata,
    usage_of,
)
from .ids import ORIGIN, unseal

_MOST_CHOICES = 128


def error_of(body: Any) -> str | None:
    """The message of an error that stands in an answer; Google sends one with status 200 when a stream breaks."""
    if isinstance(body, list) and body:
        body = body[-1]
    error = body.get("error") if isinstance(body, dict) else None
    if not error:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500] if message else "the provider reported an error without a message"


def status_of(body: Any) -> int | None:
    """The status of such an error, which stands in it as `code`."""
    if isinstance(body, list) and body:
        body = body[-1]
    error = body.get("error") if isinstance(body, dict) else None
    return status(error.get("code")) if isinstance(error, dict) else None


class GeminiReader:
    """Follows one stream of a Gemini provider.

    There is no end mark, so `done` stays False: a stream has ended well when the transport ended after `Stopped`.
    `final` is true from the event with the last finish reason on, since the usage may come on it or after it; the
    pipeline keeps these events until the transport ends and the call is settled.

    When `feed` raises, `body` is the event that made it do so, and `usage_of(body)` what was used until then.
    """

    __slots__ = ("_answer", "_choices", "_queries", "_usage", "body", "done", "final", "malformed", "searches", "used")

    def __init__(self) -> None:
        self.body: Body | None = None
        self.done = self.used = self.final = False
        self.malformed = self.searches = 0
        self._answer: str | None = None
        self._choices: dict[int, _Choice] = {}
        self._queries: set[str] = set()
        self._usage: Usage | None = None

    def feed(self, data: bytes) -> Sequence[Delta]:
        self.body = None
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            self.malformed += 1
            return ()
        self.body = body
        if "error" in body and (message := error_of(body)) is not None:
            raise ProviderFailed(f"the provider reported an error in its answer: {message}")
        deltas: list[Delta] = []
        usage = self._used(body)
        if self._answer is None:
            deltas.append(self._begin(body, usage))
        if usage is not None:
            self.used = True
            deltas.append(Used(usage))
        candidates = body.get("candidates")
        if isinstance(candidates, list) and candidates:
            for candidate in candidates:
                if isinstance(candidate, dict):
                    self._follow(candidate, deltas)
            self.final = bool(self._choices) and all(choice.finished for choice in self._choices.values())
        elif blocked(body) and not self._choices:
            choice = self._choices[0] = _Choice(0, "")
            if said := refusal_of(body["promptFeedback"], "blockReasonMessage"):
                deltas.append(RefusalDelta(choice.next(None), said))
            deltas.append(choice.stop(Stop.REFUSAL))
            self.final = True
        return deltas

    def _used(self, body: Body) -> Usage | None:
        """The usage so far, when something new is said of it. What was searched for may be told in any event, before
        the usage or after it."""
        usage, queries = usage_of(body), queries_of(body)
        if usage is None and queries <= self._queries:
            return None
        self._queries |= queries
        self.searches = searches_of(self._queries, body.get("modelVersion"))
        self._usage = usage or self._usage
        if self._usage is None:
            return None
        return replace(self._usage, web_searches=self.searches)

    def _begin(self, body: Body, usage: Usage | None) -> Began:
        id, model = body.get("responseId"), body.get("modelVersion")
        self._answer = id if isinstance(id, str) and id else new_id().hex
        return Began(self._answer, model if isinstance(model, str) else "", usage)

    def _follow(self, candidate: dict[str, Any], deltas: list[Delta]) -> None:
        index = candidate.get("index", 0)
        index = index if type(index) is int and 0 <= index < _MOST_CHOICES else 0
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index, self._answer or "")
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        if isinstance(parts, list):
            for part in parts:
                if isinstance(part, dict):
                    choice.part(part, deltas)
        reason = candidate.get("finishReason")
        if reason is not None:
            message = candidate.get("finishMessage")
            stop = stop_of(reason, choice.calls > 0, message)
            if stop is Stop.REFUSAL and isinstance(message, str) and message:
                deltas.append(RefusalDelta(choice.next(None), message, index))
            if stop is not None:
                deltas.append(choice.stop(stop))


class _Choice:
    """One candidate under way. A block grows while parts of its kind follow each other; a signature closes it."""

    __slots__ = ("_answer", "_block", "_kind", "_number", "calls", "finished")

    def __init__(self, number: int, answer: str) -> None:
        self._number, self._answer = number, answer
        self._block, self._kind = -1, ""
        self.calls, self.finished = 0, False

    def next(self, kind: str | None) -> int:
        """The block for a piece of this kind; None always begins a new one, which ends with it."""
        if kind is None or kind != self._kind:
            self._block += 1
            self._kind = kind or ""
        return self._block

    def stop(self, stop: Stop) -> Stopped:
        self.finished = True
        return Stopped(stop, None, self._number)

    def part(self, part: dict[str, Any], deltas: list[Delta]) -> None:
        text = part.get("text")
        if isinstance(text, str):
            signature = part.get("thoughtSignature")
            if signature or part.get("thought") is True:
                self._thought(text, signature, part.get("thought") is True, deltas)
            elif text:
                deltas.append(TextDelta(self.next("text"), text, self._number))
        elif isinstance(part.get("functionCall"), dict):
            call = call_of(part, self._answer, self._number, self.calls)
            if call is not None:
                self.calls += 1
                block = self.next(None)
                deltas.append(ToolBegan(block, call.id, call.name, call.signature, self._number))
                deltas.append(ToolDelta(block, call.arguments, self._number))
        elif (media := media_of(part)) is not None:
            deltas.append(MediaDelta(self.next(None), media, self._number))
        elif part.keys() - {"thought", "thoughtSignature"}:
            # A program, say, which no delta can carry: it is output all the same, and the silence is over.
            deltas.append(TextDelta(self.next("text"), "", self._number))

    def _thought(self, text: str, signature: Any, thinks: bool, deltas: list[Delta]) -> None:
        if not isinstance(signature, str) or not signature:
            if text:
                kind = "thought" if thinks else "text"
                block = self.next(kind)
                more = ThinkingDelta(block, text, origin=ORIGIN, choice=self._number)
                deltas.append(more if thinks else TextDelta(block, text, self._number))
            return
        opaque, origin, redacted = unseal(signature)
        if text and not thinks:
            deltas.append(TextDelta(self.next("text"), text, self._number))
        block = self.next("thought" if thinks and not redacted else None)
        self._kind = ""
        told = text if thinks else ""
        deltas.append(ThinkingDelta(block, told, opaque, redacted, origin, choice=self._number))


class GeminiWriter:
    """Makes the events of a Gemini client's stream.

    A function call leaves whole, when the next block has begun or the choice has ended. The event with the finish
    reasons is made by `end`.
    """

    def __init__(self, request: Request) -> None:
        self._head: Body = {"modelVersion": request.model, "responseId": new_id().hex}
        self._calls: dict[tuple[int, int], _Call] = {}
        self._stops: dict[int, str] = {}
        self._malformed: set[int] = set()

    def feed(self, deltas: Iterable[Delta]) -> list[Body]:
        events: list[Body] = []
        for delta in deltas:
            match delta:
                case TextDelta() | RefusalDelta():
                    self._flush(delta.choice, events)
                    if delta.text:
                        events.append(self._event(delta.choice, [{"text": delta.text}]))
                case ThinkingDelta():
                    self._flush(delta.choice, events)
                    if parts := thought(delta.text, delta.signature, delta.origin, delta.redacted):
                        events.append(self._event(delta.choice, parts))
                case MediaDelta():
                    self._flush(delta.choice, events)
                    events.append(self._event(delta.choice, [media_part(delta.media)]))
                case ToolDelta():
                    if (call := self._calls.get((delta.choice, delta.block))) is not None:
                        call.arguments.append(delta.arguments)
                case ToolBegan():
                    self._calls[delta.choice, delta.block] = _Call(delta)
                case Began():
                    self._head = {"modelVersion": delta.model or self._head["modelVersion"], "responseId": delta.id}
                case Stopped():
                    self._flush(delta.choice, events)
                    self._stop(delta)
                case Used():
                    pass
        return events

    def end(self, usage: Usage) -> list[Body]:
        events: list[Body] = []
        for choice in sorted({number for number, _ in self._calls}):
            self._flush(choice, events)
        candidates = [
            {
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": reason,
                "index": choice,
            }
            for choice, reason in sorted((self._stops or {0: reason_of(None)}).items())
        ]
        return [*events, {"candidates": candidates, "usageMetadata": usage_metadata(usage), **self._head}]

    def _stop(self, stopped: Stopped) -> None:
        malformed = stopped.choice in self._malformed and stopped.stop is not Stop.LENGTH
        self._stops[stopped.choice] = MALFORMED_CALL if malformed else reason_of(stopped.stop)

    def _flush(self, choice: int, events: list[Body]) -> None:
        if not self._calls:
            return
        for key in [key for key in self._calls if key[0] == choice]:
            call = self._calls.pop(key)
            part = function_call(call.began.id, call.began.name, "".join(call.arguments), call.began.signature)
            if part is None:
                self._malformed.add(choice)
            else:
                events.append(self._event(choice, [part]))

    def _event(self, choice: int, parts: list[Body]) -> Body:
        return {"candidates": [{"content": {"parts": parts, "role": "model"}, "index": choice}], **self._head}


class _Call:
    __slots__ = ("arguments", "began")

    def __init__(self, began: ToolBegan) -> None:
        self.began = began
        self.arguments: list[str] = []


class ArrayFraming:
    """The stream as one JSON array, an element an event: what Google gives a client that did not ask for `alt=sse`.

    The front chooses it and passes through it whatever it would have sent as events.
    """

    content_type = b"application/json; charset=UTF-8"

    def __init__(self) -> None:
        self._begun = False

    def add(self, framed: bytes) -> bytes:
        """Events as `frame`, `relay`, `error_event` or `ping` made them, in the shape of the array."""
        elements = [event[6:] for event in framed.split(b"\n\n") if event[:6] == b"data: "]
        if not elements:
            # A heartbeat: space between two elements means nothing.
            return b"\n"
        opening = b",\r\n" if self._begun else b"["
        self._begun = True
        return opening + b",\r\n".join(elements)

    def end(self) -> bytes:
        """What ends the answer, also one that an error cut."""
        return b"]" if self._begun else b"[]"
