"""What a provider gives back, whoever carries it: the interface between the pipeline and the way out."""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
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

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            StreamCut: the connection broke before the body's end.
            ProviderFailed: it is larger than MAX_ANSWER_BYTES.
        """
        ...


async def joined(parts: AsyncIterable[bytes]) -> bytes:
    """Raises ProviderFailed: it is larger than MAX_ANSWER_BYTES."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise too_large()
    return bytes(body)


def too_large() -> ProviderFailed:
    return ProviderFailed(f"the provider's answer is larger than {MAX_ANSWER_BYTES} bytes")
