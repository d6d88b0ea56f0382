"""A model call in no provider's words: what one wire format is read into, so that any other can be written from it.

A request is an Ask, a whole answer is a Said, a streamed answer is a sequence of deltas. Whatever a format cannot say
is left out when it is written, unless leaving it out would change the meaning: then the writer raises BadRequest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from .models import Usage

JsonObject = Mapping[str, Any]
Kind = Literal["chat", "embed", "count"]
SEARCHES = 10  # of a provider's own in the web: what is reserved and allowed where the request sets no limit


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"
    LENGTH = "length"
    SEQUENCE = "sequence"
    TOOL = "tool"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Text:
    """`cache`: the caller asks for a prompt cache breakpoint after this part (Anthropic's `cache_control`)."""

    text: str
    cache: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, sound or file, given as base64 `data` with its `type` (image/png), or by `url`, or by a `file` id that
    only its provider knows."""

    kind: Literal["image", "audio", "video", "document"]
    type: str | None = None
    data: str | None = None
    url: str | None = None
    file: str | None = None
    name: str | None = None
    detail: str | None = None
    cache: JsonObject | None = None

    @property
    def note(self) -> str:
        """What stands in its place in an answer whose format has none for it, so that nobody takes it for whole."""
        kind = "a picture" if self.kind == "image" else f"a {self.kind}" if self.kind != "audio" else "sound"
        told = f" ({self.type})" if self.type else ""
        return f"[The model answered with {kind}{told} here, which this format cannot carry.]"


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a model thought. `signature` (or the whole, when `redacted`) is opaque and is good only for the wire format
    named by `origin`; it goes back there unmodified and is left out elsewhere."""

    text: str
    signature: str | None = None
    redacted: bool = False
    origin: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is the JSON text as the model wrote it. `signature`: Gemini's thought signature of this part."""

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the call with id `call` gave. `name` is the tool's, where the format says it."""

    call: str
    parts: tuple["Text | Media", ...]
    name: str | None = None
    error: bool = False
    cache: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model declines, in its own words."""

    text: str


Part = Text | Media | Thinking | ToolCall | ToolResult | Refusal


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. Tool results stand in user turns."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    cache: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` tool: the one called `name` must be called."""

    mode: Literal["auto", "none", "any", "tool"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The answer must be JSON, and of this `schema` when there is one."""

    schema: JsonObject | None = None
    name: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How hard to think: by `effort` (none, minimal, low, medium, high, xhigh), or by a `budget` of tokens (0: not at
    all). `shown`: the thoughts, or a summary of them, are part of the answer."""

    effort: str | None = None
    budget: int | None = None
    shown: bool | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an answer. `system` may have several parts, for cache breakpoints."""

    model: str
    turns: tuple[Turn, ...]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    output: Output | None = None
    reasoning: Reasoning | None = None
    user: str | None = None
    choices: int = 1
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """A whole answer. `model` is who answered, in the provider's words; `sequence` the stop sequence that ended it."""

    id: str
    model: str
    parts: tuple[Part, ...]
    stop: Stop | None
    usage: Usage | None = None
    sequence: str | None = None
    created: int = 0


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """Texts to embed. `task` is Gemini's task type."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    task: str | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """Embeddings in the order of the inputs."""

    model: str
    vectors: Sequence[Sequence[float]]
    usage: Usage | None = None


# What happens in a stream, in order. A block is a part of the answer under way: text, thoughts or a tool call; blocks
# are numbered from 0 as they begin, and only the last one grows, except for tool calls of formats that interleave them.
# `choice` is 0 except where a caller asked for several answers at once.


@dataclass(frozen=True, slots=True)
class Began:
    """The answer's head. `usage`: what was read, when it is known this early."""

    id: str
    model: str
    usage: Usage | None = None
    created: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    block: int
    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    block: int
    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More of a thought; `signature`, `redacted` and `id` as in Thinking (a signature comes in one piece, mostly with
    no text)."""

    block: int
    text: str = ""
    signature: str | None = None
    redacted: bool = False
    origin: str | None = None
    id: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class MediaDelta:
    """A picture or a sound of the model's, which comes whole and is a block of its own."""

    block: int
    media: Media
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolBegan:
    block: int
    id: str
    name: str
    signature: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """More of the JSON text of the arguments."""

    block: int
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """Usage so far; the last one counts."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Stopped:
    """The model has finished one choice. The end mark, if the format has one, is still to come."""

    stop: Stop
    sequence: str | None = None
    choice: int = 0


Delta = Began | TextDelta | RefusalDelta | ThinkingDelta | MediaDelta | ToolBegan | ToolDelta | Used | Stopped
OUTPUT = (TextDelta, RefusalDelta, ThinkingDelta, MediaDelta, ToolBegan, ToolDelta)


@dataclass(frozen=True, slots=True)
class Request:
    """What the pipeline must know of a request before it is admitted, whatever the format.

    `input_bound`: at most so many input tokens (a token has at least one byte). `max_tokens` counts for one choice.
    `web_searches`: so many requests to the web the provider makes at most, none unless its own search is offered to
    the model; with `searches_freely`, its format knows no limit to them and these are only what is likely.
    `searches_untold`: so many are made in any case, and the answer need not say so. `told`: what the answer tells again
    of the request, where its format does that. The rest is for routing: what the request needs, and how much of it
    there is.
    """

    model: str
    stream: bool = False
    include_usage: bool = True
    max_tokens: int | None = None
    choices: int = 1
    input_bound: int = 0
    turns: int = 0
    tools: int = 0
    media: int = 0
    reasoning: bool = False
    web_searches: int = 0
    searches_freely: bool = False
    searches_untold: int = 0
    user: str | None = None
    metadata: JsonObject = field(default_factory=dict)
    told: JsonObject = field(default_factory=dict)
