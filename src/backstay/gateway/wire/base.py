"""What the pipeline asks of a wire format. One module a format; none of them does I/O.

Same format on both sides: the provider's bytes are relayed, and a Reader only follows them. Different formats: the
client's format reads the request into an Ask, the provider's writes it; a Reader of the provider's format makes deltas
of its stream, and a Writer of the client's makes events of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...kernel.errors import BackstayError
from ..dialogue import Ask, Delta, EmbedAsk, Request, Said, Vectors
from ..models import Usage

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quirks:
    """In what a provider departs from the formats it speaks.

    `drops`: fields it refuses; `renames`: fields it knows by another name. `default_max_tokens`: what to ask for where
    the format demands a limit and the caller named none.
    """

    max_tokens_field: str = "max_tokens"
    developer_role: bool = False
    default_max_tokens: int = 4096
    drops: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)

    def adapt(self, body: Body) -> Body:
        """A request of the provider's own format, without what this provider refuses."""
        if not self.drops and not self.renames:
            return body
        return {self.renames.get(name, name): value for name, value in body.items() if name not in self.drops}


def status(value: Any) -> int | None:
    """The HTTP status of a failure that `value` is, as a number or as its digits; None when it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:4])
    return value if type(value) is int and 400 <= value < 600 else None


class Reader(Protocol):
    """Follows one stream of a provider.

    `body` is the last event, parsed; `done` turns true with the end mark, `used` with usage; `final` says that the last
    event ends the answer for its reader and so must not leave before the call is settled. `malformed` counts events
    that were skipped, `searches` the provider's own requests to the web that were seen and are billed.
    """

    body: Body | None
    done: bool
    used: bool
    final: bool
    malformed: int
    searches: int

    def feed(self, data: bytes) -> Sequence[Delta]:
        """What the `data` of one event says.

        Raises:
            ProviderFailed: the event is an error of the provider.
        """
        ...


class Writer(Protocol):
    """Makes the events of one client's stream, each as its JSON object, in the order in which they must leave."""

    def feed(self, deltas: Iterable[Delta]) -> list[Body]:
        """Events that may leave at once."""
        ...

    def end(self, usage: Usage) -> list[Body]:
        """The events that end the answer; they leave when the call is settled. `usage` is what was billed."""
        ...


class Wire(Protocol):
    """One format."""

    @property
    def name(self) -> str: ...

    @property
    def end_mark(self) -> bytes:
        """What follows the last event of a stream that ended well; empty where the format has no end mark of its
        own.
        """
        ...

    def check(self, body: Body, size: int | None = None) -> Request:
        """Checks what the gateway relies on; everything else is left to the provider. `size`: bytes, when known.

        Raises:
            BadRequest: a field is missing or of the wrong type; the error names it (400).
        """
        ...

    def read(self, body: Body) -> Ask:
        """The request in no one's words.

        Raises:
            BadRequest: a field has a shape that cannot be understood; the error names it (400).
        """
        ...

    def write(self, ask: Ask, quirks: Quirks) -> Body:
        """The request for a provider; `ask.model` is already the provider's name for the model. Streamed chat
        completions ask for usage.

        Raises:
            BadRequest: this format cannot say something that the request depends on (400).
        """
        ...

    def native(self, body: Body, model: str) -> Body:
        """A client's request as a provider of this format takes it, who calls the model `model`: without what earlier
        answers of other formats had sealed into the conversation, and with a limit to searches in the web where the
        format has one and the client set none: as many as are reserved."""
        ...

    def read_answer(self, body: Body) -> Said:
        """A provider's whole answer.

        Raises:
            ProviderFailed: it has no shape that can be understood.
        """
        ...

    def write_answer(self, said: Said, request: Request | None = None) -> Body:
        """A whole answer for a client; some formats tell the request again in it."""
        ...

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        """What the provider says was used; None when it says nothing that can be counted."""
        ...

    def error_of(self, body: Any) -> str | None:
        """The message of an error that stands in an answer; None when there is none."""
        ...

    def status_of(self, body: Any) -> int | None:
        """The HTTP status that an error in an answer stands for; None when it does not say."""
        ...

    def reader(self) -> Reader: ...

    def writer(self, request: Request) -> Writer: ...

    def relay(self, reader: Reader, data: bytes, request: Request) -> bytes | None:
        """The event that `reader` was just fed, framed for a client of the same format; None when it is not shown."""
        ...

    def missing(self, reader: Reader, said: Said, request: Request) -> list[Body]:
        """Events that a relayed stream which ended well should have ended with and did not. `said` has the usage that
        was billed."""
        ...

    def frame(self, event: Body) -> bytes:
        """One event as bytes on the wire."""
        ...

    def ping(self) -> bytes:
        """A heartbeat that every client of this format passes over."""
        ...

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        """The error as the body of an answer that has its status."""
        ...

    def error_event(self, error: BackstayError, usage: Usage | None = None) -> bytes:
        """The error in the middle of a stream, framed: this format's clients raise on it."""
        ...


class CountWire(Protocol):
    """The counting of tokens, where a format has it."""

    def check_count(self, body: Body, size: int | None = None) -> Request: ...

    def count(self, body: Body) -> Body:
        """The answer of one that can only estimate: four bytes of text a token.

        Raises:
            BadRequest: the request cannot be understood (400).
        """
        ...


class EmbedWire(Protocol):
    """The embedding half of a format, where it has one."""

    @property
    def name(self) -> str: ...

    def check_embed(self, body: Body, size: int | None = None) -> Request: ...

    def native(self, body: Body, model: str) -> Body:
        """As `Wire.native`."""
        ...

    def read_embed(self, body: Body) -> EmbedAsk: ...

    def write_embed(self, ask: EmbedAsk) -> Body: ...

    def read_vectors(self, body: Body, count: int) -> Vectors:
        """Raises ProviderFailed when the answer cannot be read or has not `count` vectors."""
        ...

    def write_vectors(self, vectors: Vectors, asked: Body) -> Body:
        """The answer for a client who sent `asked` (its encoding format, say)."""
        ...

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None: ...

    def error_of(self, body: Any) -> str | None: ...

    def status_of(self, body: Any) -> int | None: ...

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes: ...
