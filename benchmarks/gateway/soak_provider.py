"""A provider in three formats (OpenAI, Anthropic, Gemini) that misbehaves now and then. Used by soak.py."""

import asyncio
import contextlib
import json
import random
import re
from typing import Any

import uvloop

VECTOR = [round(0.001 * number, 3) for number in range(256)]
WORDS = ["tide", "ship", "bell", "harbour", "night", "leaves", "turns", "counts", "slowly", "again", "é", "…"]
SLOW_SECONDS = 2.5
# Of a thousand calls.
FAULTS = {"429": 8, "429 retry-after": 4, "500": 8, "503": 4, "reset": 4, "slow": 4, "cut": 8, "error inside": 4}
_MODEL = re.compile(r"/models/([^:]+):")


class Faulty(asyncio.Protocol):
    """One connection: answers requests one after another, each in a task that ends when the gateway leaves."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.buffer = b""
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self.buffer = body[length:]
            path = head.split(b" ", 2)[1].decode()
            self.answering = asyncio.create_task(self.answer(path, json.loads(body[:length])))

    async def answer(self, path: str, body: dict[str, Any]) -> None:
        # A client that asks for `max_tokens` decides the length; the rest is chance.
        kind = "openai" if "/chat/completions" in path else "anthropic" if "/messages" in path else "gemini"
        stream = bool(body.get("stream")) or ":streamGenerateContent" in path
        fault = self.fault()
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        elif fault in ("429", "429 retry-after", "500", "503"):
            after = b"retry-after: 1\r\n" if fault == "429 retry-after" else b""
            self.send(int(fault[:3]), b'{"error":{"message":"out of sorts","type":"server_error"}}', after)
            return
        elif fault == "reset":
            self.transport.abort()
            return
        if "/embeddings" in path:
            self.send(200, embeddings(body["input"]))
            return
        if ":embedContent" in path:
            self.send(200, json.dumps({"embedding": {"values": VECTOR}}).encode())
            return
        await asyncio.sleep(self.chance.expovariate(1 / 0.02))
        words = [self.chance.choice(WORDS) + " " for _ in range(int(self.chance.paretovariate(1.2) * 8) % 1500 + 1)]
        found = _MODEL.search(path)
        model = found[1] if found else body["model"]
        if not stream:
            self.send(200, json.dumps(whole(kind, model, "".join(words))).encode())
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        # Long answers come in larger pieces, so that no stream lasts for more than about a second.
        size = max(1, len(words) // 60)
        pieces = ["".join(words[begin : begin + size]) for begin in range(0, len(words), size)]
        stop = self.chance.randrange(len(pieces)) if fault in ("cut", "error inside") else None
        for number, event in enumerate(events(kind, model, pieces)):
            if number == stop:
                if fault == "cut":
                    self.transport.abort()
                    return
                event = 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"full"}}\n\n'
                if kind != "anthropic":
                    event = 'data: {"error":{"message":"full","code":503,"status":"UNAVAILABLE"}}\n\n'
            raw = event.encode()
            self.transport.write(b"%x\r\n%b\r\n" % (len(raw), raw))
            await asyncio.sleep(self.chance.expovariate(1 / 0.012))
        self.transport.write(b"0\r\n\r\n")

    def fault(self) -> str | None:
        throw = self.chance.randrange(1000)
        for name, share in FAULTS.items():
            throw -= share
            if throw < 0:
                return name
        return None

    def send(self, status: int, body: bytes, more: bytes = b"") -> None:
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, more, len(body)) + body)


def embeddings(texts: str | list[str]) -> bytes:
    count = len(texts) if isinstance(texts, list) else 1
    data = [{"object": "embedding", "index": index, "embedding": VECTOR} for index in range(count)]
    usage = {"prompt_tokens": 8 * count, "total_tokens": 8 * count}
    return json.dumps({"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}).encode()


def whole(kind: str, model: str, text: str) -> dict[str, Any]:
    used = len(text) // 5
    if kind == "openai":
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": used, "total_tokens": 100 + used}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }
    if kind == "anthropic":
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": used},
        }
    return gemini(model, text, {"finishReason": "STOP"}, used)


def gemini(model: str, text: str, more: dict[str, str], used: int) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    usage = {"promptTokenCount": 100, "candidatesTokenCount": used, "totalTokenCount": 100 + used}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "r1"}


def events(kind: str, model: str, pieces: list[str]) -> list[str]:
    used = sum(map(len, pieces)) // 5
    if kind == "openai":
        shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
        chunks = [{**shared, "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
        chunks.append({**shared, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 100, "completion_tokens": used, "total_tokens": 100 + used}
        chunks.append({**shared, "choices": [], "usage": usage})
        return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]
    if kind == "gemini":
        told = [gemini(model, piece, {}, used) for piece in pieces[:-1]]
        told.append(gemini(model, pieces[-1], {"finishReason": "STOP"}, used))
        return [f"data: {json.dumps(body)}\n\n" for body in told]
    begun = {**whole(kind, model, ""), "content": [], "stop_reason": None}
    named = [
        ("message_start", {"message": begun}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}) for piece in pieces),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": used}}),
        ("message_stop", {}),
    ]
    return [f"event: {name}\ndata: {json.dumps({'type': name, **body})}\n\n" for name, body in named]


def provide(ports: Any, seed: int) -> None:
    """Runs the provider on a free port of loopback, which it puts into `ports`."""
    chance = random.Random(seed)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Faulty(chance), "127.0.0.1", 0, backlog=1024)
        ports.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
