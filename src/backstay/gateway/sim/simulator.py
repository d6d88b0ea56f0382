"""The simulated provider: takes a request in the OpenAI format, gives a status, headers and the body's bytes in time.

How a fault reaches the other side (an exception in process, a reset connection on a socket) is left to whoever runs it.
"""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from ..sse import DONE, event
from . import answers, embedding
from .options import BEHAVIOURS, BadOptions, Fault, SimOptions

HEADER = "backstay-sim"
_JSON, _SSE = "application/json", "text/event-stream; charset=utf-8"
_CREATED = 1_700_000_000  # fixed, so that the same request gives the same answer
_MAX_INPUTS = 2048
# What real providers say (message, Retry-After, code).
_REFUSALS: Mapping[str, tuple[str, None, str | None]] = {
    "too-long": ("This model's maximum context length is 8 tokens.", None, "context_length_exceeded"),
    "filtered": ("The request was flagged by the content filter.", None, "content_filter"),
    "prefill": ("This model does not support assistant message prefill.", None, None),
}


class Reset(Exception):
    """The connection breaks here."""


@dataclass(frozen=True, slots=True)
class SimAnswer:
    """What goes back. `chunks` raises Reset where the connection breaks, and never ends where it falls silent."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Simulator:
    """Deterministic: the same requests in the same order give the same answers."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._calls: dict[str, int] = {}

    async def answer(self, path: str, raw: bytes, header: str | None = None) -> SimAnswer:
        """Answers `chat/completions` and `embeddings`.

        Raises:
            Reset: the connection is reset before any answer.
        """
        try:
            body = orjson.loads(raw)
            options = SimOptions.parse(body["model"], header)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return problem(400, "the body must be a JSON object with a model")
        except BadOptions as error:
            return problem(400, str(error))
        fault = options.fault
        if fault is not None:
            if fault.kind == "reset":
                raise Reset
            if fault.kind == "silence":
                await asyncio.Event().wait()
            if fault.kind == "status" or (fault.kind == "flap" and self._is_down(body["model"], fault)):
                return problem(fault.status, "a simulated fault", fault.retry_after)
            if fault.kind in _REFUSALS and (fault.kind != "prefill" or _is_prefilled(body)):
                return problem(400, *_REFUSALS[fault.kind])
        if path.endswith("embeddings"):
            return await self._embeddings(options, body)
        if options.behaviour not in BEHAVIOURS:
            return problem(400, f"{options.model} makes embeddings, not answers")
        try:
            return await self._chat(options, body)
        except (KeyError, TypeError, AttributeError, IndexError):
            return problem(400, "the messages cannot be understood")

    def _is_down(self, model: str, fault: Fault) -> bool:
        count = self._calls.get(model, 0)
        if len(self._calls) > 1000:
            self._calls.clear()
        self._calls[model] = count + 1
        return count % fault.of < fault.down

    async def _chat(self, options: SimOptions, body: Mapping[str, Any]) -> SimAnswer:
        messages = body["messages"]
        conversation = answers.Conversation(
            messages, body.get("tools") or [], body.get("tool_choice"), body.get("response_format")
        )
        reply = answers.reply(options.behaviour, conversation)
        tokens = answers.pieces(reply.text)
        if options.tokens is not None and not reply.tool_calls:
            tokens = _repeated(tokens, options.tokens)
        thoughts = _repeated(answers.pieces(conversation.question), options.think)
        finish = reply.finish_reason
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        boundless = options.fault is not None and options.fault.kind == "boundless"
        if isinstance(limit, int) and len(tokens) > limit and not boundless:
            tokens, finish = tokens[:limit], "length"
        written = len(thoughts) + len(tokens) + sum(1 + len(answers.pieces(a)) for _, a in reply.tool_calls)
        read = sum(4 + len(answers.pieces(answers.text(message))) for message in messages)
        usage: dict[str, Any] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if thoughts:
            usage["completion_tokens_details"] = {"reasoning_tokens": len(thoughts)}
        talk = _Talk(options, "chatcmpl-sim-" + _digest(body), thoughts, tokens, reply, finish, usage)
        if body.get("stream"):
            wanted = bool((body.get("stream_options") or {}).get("include_usage"))
            await self._sleep_for(options.ttft)
            return SimAnswer(200, {"content-type": _SSE}, self._stream(talk, wanted and options.usage))
        await self._sleep_for(options.ttft + options.itl * max(0, len(tokens) - 1))
        return SimAnswer(200, {"content-type": _JSON}, self._whole(talk))

    async def _whole(self, talk: "_Talk") -> AsyncIterator[bytes]:
        answer = orjson.dumps(talk.completion())
        fault = talk.options.fault
        if fault is not None and fault.kind == "cut":
            yield answer[: len(answer) // 2]
            raise Reset
        if fault is not None and fault.kind == "stall":
            yield answer[: len(answer) // 2]
            await asyncio.Event().wait()
        if fault is not None and fault.kind == "malformed":
            answer = answer[:-1]
        if fault is not None and fault.kind in ("error", "bare"):
            answer = _error(fault)
        yield answer

    async def _stream(self, talk: "_Talk", include_usage: bool) -> AsyncIterator[bytes]:
        fault = talk.options.fault
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        yield talk.chunk({"role": "assistant", "content": ""}, extra)
        for count, delta in enumerate(talk.deltas()):
            if fault is not None and fault.after == count:
                if fault.kind == "malformed":
                    yield event(b'{"id": "chatcmpl-sim", "choices": [{"del')
                elif fault.kind in ("cut", "stall", "error", "bare"):
                    break
            if count:
                await self._sleep_for(talk.options.itl)
            yield talk.chunk(delta, extra)
        if fault is not None and fault.kind == "cut":
            raise Reset
        if fault is not None and fault.kind == "stall":
            await asyncio.Event().wait()
        if fault is not None and fault.kind in ("error", "bare"):
            yield event(_error(fault)) if fault.kind == "error" else bare(_error(fault))
            return
        yield talk.chunk({}, extra, talk.finish)
        if include_usage:
            yield event(orjson.dumps(talk.head("chat.completion.chunk") | {"choices": [], "usage": talk.usage}))
        if fault is None or fault.kind != "no-done":
            yield DONE

    async def _embeddings(self, options: SimOptions, body: Mapping[str, Any]) -> SimAnswer:
        if options.behaviour != "dev-hash":
            return problem(400, f"{options.model} makes answers, not embeddings; use sim:dev-hash")
        given = body.get("input")
        inputs: list[Any] = given if isinstance(given, list) else [given]
        if inputs and all(isinstance(item, int) for item in inputs):
            inputs = [inputs]  # one text, as tokens
        if len(inputs) > _MAX_INPUTS:
            return problem(400, f"at most {_MAX_INPUTS} inputs fit into one request")
        wanted = body.get("dimensions")
        dimensions = wanted if isinstance(wanted, int) and 1 <= wanted <= 4096 else options.dims
        try:
            texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in inputs]
        except TypeError:
            return problem(400, "the input must be a text, tokens, or a list of these")
        await self._sleep_for(options.ttft)
        packed = body.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(texts):
            vector: Any = embedding.embed(text, dimensions)
            if packed:
                vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        read = sum(max(1, len(answers.pieces(text))) for text in texts)
        answer: dict[str, Any] = {"object": "list", "data": data, "model": options.model}
        if options.usage:
            answer["usage"] = {"prompt_tokens": read, "total_tokens": read}
        return SimAnswer(200, {"content-type": _JSON}, _once(orjson.dumps(answer)))

    async def _sleep_for(self, seconds: float) -> None:
        if seconds > 0:
            await self._sleep(seconds)


@dataclass(frozen=True, slots=True)
class _Talk:
    options: SimOptions
    id: str
    thoughts: list[str]
    tokens: list[str]
    reply: answers.Reply
    finish: str
    usage: Mapping[str, Any]

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": _CREATED, "model": self.options.model}

    def completion(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.tokens) or None}
        message |= {"refusal": None, "annotations": []}
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.reply.tool_calls:
            message["tool_calls"] = [self._tool(n, name, text) for n, (name, text) in enumerate(self.reply.tool_calls)]
        answer = self.head("chat.completion")
        answer["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}]
        return answer | ({"usage": self.usage} if self.options.usage else {})

    def deltas(self) -> Iterator[dict[str, Any]]:
        for token in self.thoughts:
            yield {"reasoning_content": token}
        for token in self.tokens:
            yield {"content": token}
        for index, (name, arguments) in enumerate(self.reply.tool_calls):
            yield {"tool_calls": [{"index": index} | self._tool(index, name, "")]}
            for piece in answers.pieces(arguments):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def chunk(self, delta: Mapping[str, Any], extra: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(orjson.dumps(self.head("chat.completion.chunk") | {"choices": [choice]} | extra))

    def _tool(self, index: int, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"id": f"call_{self.id[-12:]}_{index}", "type": "function", "function": function}


def _error(fault: Fault) -> bytes:
    told = {"message": "a simulated fault", "type": "server_error", "param": None, "code": fault.status or None}
    return orjson.dumps({"error": told})


def bare(error: bytes) -> bytes:
    """An error as Google puts it into a stream at times: outside of any event, laid out, and its last line unended."""
    return orjson.dumps(orjson.loads(error), option=orjson.OPT_INDENT_2)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _repeated(tokens: list[str], count: int) -> list[str]:
    """So many tokens, the same ones over and over."""
    base = tokens or ["token"]
    found = [base[n % len(base)] for n in range(count)]
    return [token if n == 0 or token[0].isspace() else " " + token for n, token in enumerate(found)]


def _is_prefilled(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def problem(status: int, message: str, retry_after: float | None = None, code: str | None = None) -> SimAnswer:
    """An answer that says no."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"content-type": _JSON}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    body = orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    return SimAnswer(status, headers, _once(body))


def _digest(body: Mapping[str, Any]) -> str:
    return blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=12).hexdigest()
