"""The simulator in other formats than OpenAI's: its answers, put through the same readers and writers as
everybody's.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from ...kernel.errors import BackstayError, BadRequest, Upstream
from ..dialogue import Ask, Media, Part, Request, ToolResult
from ..errors import ProviderFailed
from ..models import Usage
from ..passage import Passage
from ..wire import CHAT, COUNT_WIRES, EMBED, EMBED_WIRES, GEMINI, WIRES, Quirks, Wire
from .options import SimOptions
from .simulator import Reset, SimAnswer, Simulator, bare, problem

_MALFORMED = b'data: {"type": "malf\n\n'
_PLAIN = Quirks()


async def answer(simulator: Simulator, wire: str, kind: str, body: dict[str, Any], header: str | None) -> SimAnswer:
    """Answers a request of the format `wire`; `body` has its model, and whether it is streamed.

    Raises:
        Reset: the connection is reset before any answer.
    """
    try:
        if kind == "count":
            return SimAnswer(200, problem(200, "").headers, _once(orjson.dumps(COUNT_WIRES[wire].count(body))))
        if kind == "embed":
            return await _embeddings(simulator, wire, body, header)
        return await _chat(simulator, WIRES[wire], body, header)
    except BadRequest as error:
        return _told(error, error.status, WIRES[wire])


async def _chat(simulator: Simulator, wire: Wire, body: dict[str, Any], header: str | None) -> SimAnswer:
    request = wire.check(body)
    asked = orjson.dumps(CHAT.write(_seen(wire.read(body)), _PLAIN))
    given = await simulator.answer("/chat/completions", asked, header)
    if given.status != 200:
        return await _refused(given, wire)
    if request.stream:
        fault = SimOptions.parse(request.model, header).fault
        is_bare = fault is not None and fault.kind == "bare"
        return SimAnswer(200, given.headers, _stream(given.chunks, wire, request, is_bare))
    return SimAnswer(200, given.headers, _whole(given.chunks, wire, request))


def _seen(ask: Ask) -> Ask:
    """What the simulator looks at: everything but pictures, sounds and files, which the formats give in many ways."""

    def seen(part: Part) -> Part:
        if isinstance(part, ToolResult):
            return replace(part, parts=tuple(inner for inner in part.parts if not isinstance(inner, Media)))
        return part

    turns = (
        replace(turn, parts=tuple(seen(part) for part in turn.parts if not isinstance(part, Media)))
        for turn in ask.turns
    )
    return replace(ask, turns=tuple(turns))


async def _embeddings(simulator: Simulator, wire: str, body: dict[str, Any], header: str | None) -> SimAnswer:
    form = EMBED_WIRES[wire]
    ask = form.read_embed(body)
    given = await simulator.answer("/embeddings", orjson.dumps(EMBED.write_embed(ask)), header)
    if given.status != 200:
        return await _refused(given, WIRES[wire])
    vectors = EMBED.read_vectors(orjson.loads(await _read(given.chunks)), len(ask.inputs))
    return SimAnswer(200, given.headers, _once(orjson.dumps(form.write_vectors(vectors, body))))


async def _whole(chunks: AsyncIterator[bytes], wire: Wire, request: Request) -> AsyncIterator[bytes]:
    """One answer; a part of one passes as it is, for it will be cut off."""
    parts = []
    try:
        async for part in chunks:
            parts.append(part)
    except Reset:
        yield b"".join(parts)
        raise
    yield _translated(b"".join(parts), wire, request)


def _translated(whole: bytes, wire: Wire, request: Request) -> bytes:
    try:
        body = orjson.loads(whole)
    except orjson.JSONDecodeError:
        return whole  # a simulated fault
    if CHAT.error_of(body) is not None:
        return wire.error_body(_meant(body))
    return orjson.dumps(wire.write_answer(CHAT.read_answer(body), request))


async def _stream(
    chunks: AsyncIterator[bytes], wire: Wire, request: Request, is_bare: bool = False
) -> AsyncIterator[bytes]:
    passage = Passage(wire, CHAT, request)
    malformed = 0
    try:
        async for part in chunks:
            for chunk in passage.feed(part):
                yield chunk.frame
            if passage.malformed > malformed:
                malformed = passage.malformed
                yield _MALFORMED
        if passage.error is not None:
            raise passage.error
    except ProviderFailed:
        fault = _meant(passage.last)
        yield bare(wire.error_body(fault)) if is_bare else wire.error_event(fault)
        return
    ending = passage.ending(passage.talk.usage or Usage(0, passage.talk.outputs))
    # Gemini has no end mark that could be missing.
    for chunk in ending if passage.done or wire is GEMINI else ending[:-1]:
        yield chunk.frame


def _meant(body: Any) -> BackstayError:
    """The error in a chat answer, with the status that it stands for."""
    error = Upstream(CHAT.error_of(body) or "a simulated fault")
    error.status = CHAT.status_of(body) or error.status
    return error


async def _refused(given: SimAnswer, wire: Wire) -> SimAnswer:
    error = orjson.loads(await _read(given.chunks))["error"]
    return SimAnswer(given.status, given.headers, _told(Upstream(error["message"]), given.status, wire).chunks)


def _told(error: BackstayError, status: int, wire: Wire) -> SimAnswer:
    error.status = status
    plain: Mapping[str, str] = problem(status, "").headers
    return SimAnswer(status, plain, _once(wire.error_body(error)))


async def _read(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in chunks])


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
