"""An answer that was kept, given again: whole as it is, or as a stream in the client's format."""

from decimal import Decimal

import orjson

from .answers import Hit
from .dialogue import Stop, ToolCall
from .models import ZERO, Usage
from .order import Order
from .passage import Chunk
from .transcript import deltas_of
from .wire import EMBED_WIRES, WIRES, Body


def usage_of(order: Order, body: Body) -> Usage:
    """What the answer had used when it was made."""
    wire = EMBED_WIRES[order.surface] if order.kind == "embed" else WIRES[order.surface]
    return wire.usage_of(body) or Usage()


def saved(order: Order, hit: Hit, usage: Usage) -> Decimal:
    """USD that the answer would have cost again, at the target that had given it."""
    target = next((target for target in order.plan.targets if target.name == hit.by), None)
    return ZERO if target is None else target.cost(usage)


def streamed(order: Order, body: Body) -> tuple[list[Chunk], list[Chunk]]:
    """The events of a stream that says `body`, and those that end it."""
    wire = WIRES[order.surface]
    said = wire.read_answer(body)
    writer = wire.writer(order.request)
    events = writer.feed(deltas_of(said))
    ends = writer.end(said.usage or Usage())
    mark = [Chunk(wire.end_mark)] if wire.end_mark else []
    return [Chunk(wire.frame(one)) for one in events], [*(Chunk(wire.frame(one)) for one in ends), *mark]


def ends_of(order: Order, body: Body) -> tuple[list[Stop | None], bool]:
    """Why an answer ended, and whether it calls a tool: what decides whether it may be given again."""
    if order.kind == "embed":
        return [Stop.END], False
    said = WIRES[order.surface].read_answer(body)
    return [said.stop] * order.request.choices, any(isinstance(part, ToolCall) for part in said.parts)


def parsed(hit: Hit) -> Body:
    body: Body = orjson.loads(hit.body)
    return body
