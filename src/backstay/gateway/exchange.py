"""What a provider gives back, whoever carries it: the interface between the pipeline and the way out."""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from .errors import ProviderFailed

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Exchange(Protocol):
    """One answer, as it arrives."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in any case; look-up ignores it."""
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body's bytes as they come.

        Raises:
            StreamCut: the connection broke before the body's end.
        """
        ...


async def read(exchange: Exchange) -> bytes:
    """The whole body.

    Raises:
        StreamCut: the connection broke before the body's end.
        ProviderFailed: it is larger than MAX_ANSWER_BYTES.
    """
    parts, size = [], 0
    async for part in exchange.chunks():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ProviderFailed(f"the provider's answer is larger than {MAX_ANSWER_BYTES} bytes")
    return b"".join(parts)
