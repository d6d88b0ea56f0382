"""A checked request on its way to be admitted, and how it is put to each target."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

from ..kernel import json
from ..kernel.errors import BadRequest
from ..kernel.ids import new_id
from .answers import OFF, CachePolicy, Embedder, Question, Surface
from .dialogue import Ask, EmbedAsk, Kind, Part, Request, Text, ToolCall, ToolResult
from .guards import Guard, GuardContext, GuardedStream
from .models import ZERO, Mode, Tags, Timeouts, Usage
from .providers import Outgoing, Target
from .wire import ANTHROPIC, CHAT, EMBED_WIRES, GEMINI, WIRES, Body
from .wire.fields import wrong
from .wire.gemini import ids as gemini_ids
from .wire.gemini.answer import searches_once

_PLACES = {
    "openai-chat": Surface.CHAT,
    "openai-responses": Surface.RESPONSES,
    "anthropic": Surface.MESSAGES,
    "gemini": Surface.GENERATE,
    "openai-embed": Surface.EMBEDDINGS,
}
_TAGS = frozenset({"feature", "task"})


@dataclass(frozen=True, slots=True)
class Itinerary:
    """Whom to ask, in order, and how patiently. `revision` is the route's; `why` tells how the order came about.

    `mode` live: output leaves as it comes. guarded: it is held back until it is whole, so that another target can
    answer when one breaks off. `retries`: how often one target is asked again. `hedge`: seconds after which a second
    target is asked as well, None never.
    """

    targets: tuple[Target, ...]
    timeouts: Timeouts
    route: str | None = None
    revision: int | None = None
    why: Mapping[str, Any] = field(default_factory=dict)
    mode: Literal["live", "guarded"] = "live"
    retries: int = 2
    hedge: float | None = None
    fall_back_on_filter: bool = False
    cache: CachePolicy = OFF
    answered: Callable[[Target], None] = lambda target: None


@dataclass(frozen=True)
class Order:
    """`surface`: the client's format. `written`: the most tokens of output that are
    reserved for each choice. `hour`: a prompt cache may be asked to keep something for an hour. `forward`: headers
    that go to providers of the same format. `headers`: those that go to every provider. `guards`: those that look at
    answers. `mode`: whether the most is reserved, or what is expected. `told`: headers of the answer, as they become
    known.
    """

    surface: str
    kind: Kind
    body: Body
    request: Request
    plan: Itinerary
    tags: Tags
    written: int = 0
    hour: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    forward: Mapping[str, str] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    mode: Mode = Mode.STRICT
    cache: CachePolicy = OFF
    embedder: Embedder | None = None
    told: list[tuple[bytes, bytes]] = field(default_factory=list)
    id: UUID = field(default_factory=new_id)

    def without(self, model: str | None) -> "Order | None":
        """The order without the targets that answer as `model`; None when there is no such, or no other."""
        kept = tuple(target for target in self.plan.targets if target.name != model)
        if not kept or len(kept) == len(self.plan.targets):
            return None
        return replace(self, plan=replace(self.plan, targets=kept))

    @property
    def most_written(self) -> int:
        """Output tokens of all choices together, at most."""
        return self.written * self.request.choices if self.kind == "chat" else 0

    @cached_property
    def reserve(self) -> Decimal:
        """The most that the call may cost, in USD."""
        return self.bound(self.most_written)

    def bound(self, written: int) -> Decimal:
        """The most that it may cost with so many tokens of output, at the dearest target."""
        if self.kind == "count":
            return ZERO
        read, media, searches = self.request.input_bound, self.request.media > 0, self.request.web_searches
        return max(
            target.bound(read, written, media=media, hour=self.hour, searches=searches) for target in self.plan.targets
        )

    @property
    def unbounded(self) -> str | None:
        """A target that may search the web, for a fee, as often as it likes: nothing bounds what the call may cost."""
        if not self.request.searches_freely:
            return None
        free = (
            one for one in self.plan.targets if self.relays(one) and one.search_fee and not searches_once(one.asked)
        )
        return next((target.name for target in free), None)

    @property
    def question(self) -> Question:
        """What the answer cache knows the request by."""
        asked = self.plan.route or self.request.model
        if self.plan.revision is not None:
            asked = f"{asked}@{self.plan.revision}"
        changing = {name: value for name, value in self.headers.items() if name != "idempotency-key"}
        return Question(_PLACES[self.surface], asked, self.body, {**self.forward, **changing})

    @property
    def context(self) -> GuardContext:
        tags = self.tags
        return GuardContext(tags.tenant, tags.actor, tags.feature, tags.user, self.request.model)

    @property
    def watch(self) -> GuardedStream | None:
        """What looks at the answer's stream, if anything does."""
        return GuardedStream(self.guards, self.context) if self.guards else None

    @cached_property
    def ask(self) -> Ask:
        """Raises BadRequest: the request cannot be given to a provider of another format."""
        return WIRES[self.surface].read(self.body)

    @cached_property
    def embed_ask(self) -> EmbedAsk:
        """Raises BadRequest, as `ask`."""
        return EMBED_WIRES[self.surface].read_embed(self.body)

    def native(self, target: Target) -> str:
        """The format in which `target` is asked."""
        if self.kind == "embed":
            return target.provider.embeds or self.surface
        return target.wire_for(self.surface)

    def relays(self, target: Target) -> bool:
        """Request and answer pass as they came. Gemini's embeddings of one content do not: a batch is asked for."""
        alike = self.native(target) == self.surface
        return alike and not (self.kind == "embed" and self.surface == GEMINI.name and "requests" not in self.body)

    def outgoing(self, target: Target, *, prefill: bool = True) -> Outgoing:
        """The request as `target` gets it; its own bytes where both speak one format. Without `prefill`, the beginning
        of an answer that the request ends with is left out.

        Raises:
            BadRequest: the target's format cannot say something that the request depends on.
        """
        native = self.native(target)
        same = self.relays(target)
        body = self._relayed(target, native) if same and prefill else self._translated(target, native, prefill)
        headers = {**self.headers, **self.forward} if same else self.headers
        raw = json.dumps(body)
        if native != GEMINI.name and gemini_ids.MARK in raw:
            raw = json.dumps(gemini_ids.plain_ids(body))
        return Outgoing(native, self.kind, target.asked, self.request.stream, raw, headers, self.plan.timeouts.connect)

    def estimate(self, written: int) -> Usage:
        """Usage that nobody reported: four bytes a token, as in ordinary English, and `written` tokens of output."""
        try:
            size = sum(map(len, self.embed_ask.inputs)) if self.kind == "embed" else _spoken(self.ask)
        except BadRequest:
            size = self.request.input_bound
        return Usage((size + 3) // 4, written, estimated=True)

    def _relayed(self, target: Target, native: str) -> Body:
        wire = EMBED_WIRES[native] if self.kind == "embed" else WIRES[native]
        body = wire.native(_without_tags(self.body), target.asked)
        if native == CHAT.name and self.request.stream:
            # Usage is asked for in any case: the budget lives by it.
            body["stream_options"] = {**(self.body.get("stream_options") or {}), "include_usage": True}
        return target.provider.quirks.adapt(body)

    def _translated(self, target: Target, native: str, prefill: bool) -> Body:
        quirks = target.provider.quirks
        if self.kind == "embed":
            return quirks.adapt(EMBED_WIRES[native].write_embed(replace(self.embed_ask, model=target.asked)))
        ask = replace(self.ask, model=target.asked)
        if ask.choices > 1:
            raise wrong("n", "may be more than 1 only where the provider speaks the client's own format")
        if native == ANTHROPIC.name and ask.max_tokens is None:
            # It wants a limit; what was reserved is one that the budget can bear.
            ask = replace(ask, max_tokens=self.written)
        if not prefill:
            ask = replace(ask, turns=ask.turns[:-1])
        return quirks.adapt(WIRES[native].write(ask, quirks))


def _without_tags(body: Body) -> Body:
    """Tags in the metadata are ours, not the provider's: some refuse metadata on calls they do not store."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not _TAGS & metadata.keys():
        return body
    rest = {name: value for name, value in metadata.items() if name not in _TAGS}
    body = {name: value for name, value in body.items() if name != "metadata"}
    return body | {"metadata": rest} if rest else body


def _spoken(ask: Ask) -> int:
    """Characters of everything that the model reads."""
    tools = sum(len(tool.name) + len(tool.description or "") for tool in ask.tools)
    return tools + sum(len(part.text) for part in ask.system) + sum(_length(turn.parts) for turn in ask.turns)


def _length(parts: Iterable[Part]) -> int:
    size = 0
    for part in parts:
        if isinstance(part, Text):
            size += len(part.text)
        elif isinstance(part, ToolCall):
            size += len(part.arguments)
        elif isinstance(part, ToolResult):
            size += _length(part.parts)
    return size
