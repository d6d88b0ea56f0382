"""What the answer cache speaks about."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..dialogue import Stop


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that need not be asked for. `body` is whole and in the client's format; `by` is who gave it
    (`provider:model`); `age` in seconds.

    `found`: exact (the same request), semantic (one as near as `similarity`, a cosine), shared (the same request, asked
    at the same time).
    """

    body: bytes
    by: str
    found: Literal["exact", "semantic", "shared"]
    age: float = 0.0
    similarity: float = 1.0

    def told(self) -> str:
        """The value of the answer's `backstay-cache` header."""
        near = f", similarity={self.similarity:.4f}" if self.found == "semantic" else ""
        return f"hit, found={self.found}, age={max(0, int(self.age))}{near}"


@dataclass(frozen=True, slots=True)
class Embedder:
    """Makes vectors of texts, for one tenant. `model` names what makes them: vectors of two names are never compared.

    What `embed` raises as BackstayError or TimeoutError means that the answer is looked for by its exact request only.
    """

    model: str
    embed: Callable[[str], Awaitable[Sequence[float]]]


def lasting(stops: Sequence[Stop | None], tools: bool = False) -> bool:
    """Whether an answer may be given again: every choice of it ended by itself, and none of it calls a tool.

    `stops`: why each choice ended; `[Stop.END]` for embeddings. `tools`: it calls one, whatever the provider said about
    why it ended.
    """
    return not tools and bool(stops) and all(stop in (Stop.END, Stop.SEQUENCE) for stop in stops)
