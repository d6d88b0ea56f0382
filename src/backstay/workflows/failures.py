"""What a failure says, and whether the same again could help."""

from ..kernel import telemetry
from ..kernel.errors import (
    BackstayError,
    BadRequest,
    ConfigurationError,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooLarge,
    Unauthorized,
)

HOPELESS = (
    Invalid,
    BadRequest,
    Forbidden,
    Unauthorized,
    NotFound,
    Gone,
    TooLarge,
    ConfigurationError,
)  # the same call again gets the same answer


def text_of(error: BaseException) -> str:
    """An error as it is stored: type and message, without what looks like a secret."""
    detail = error.detail if isinstance(error, BackstayError) else str(error)
    text = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    return telemetry.scrub(text.replace("\0", "").encode("utf-8", "replace").decode())[:4_000]
