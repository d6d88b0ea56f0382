"""A call to a third party, and its answer, as data. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_TRANSIENT = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `timeout`: seconds for all of it, redirects and the reading of the answer included. `redirects`: how
    many are followed. What `headers` say is for the first host alone: a redirect to another one takes none along."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    timeout: float = 30.0
    redirects: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `body` holds at most as many bytes as the client reads; `cut` says that there were more."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool
    url: str

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later: the other side failed, is too busy, or lost patience."""
        return self.status >= 500 or self.status in _TRANSIENT
