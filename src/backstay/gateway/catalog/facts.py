"""What a decision about a request rests on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ...kernel.errors import BadRequest, FieldError
from ..dialogue import Request
from . import glance

TASK, CONVERSATION = "backstay-task", "backstay-conversation"
USUAL_OUTPUT = 500
_BYTES_A_TOKEN = 4
_MAX_TAG = 256
_MOST_HASHED = 64 * 1024  # characters of each text: two conversations that differ only later may share a target


@dataclass(frozen=True, slots=True)
class Facts:
    """A request as routing sees it. `conversation` is a digest, the same for every turn; None when nothing tells."""

    request: Request
    feature: str
    user: str | None = None
    task: str | None = None
    conversation: str | None = None
    structured: bool = False
    code: bool = False

    @classmethod
    def of(
        cls,
        request: Request,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        tenant: UUID,
        feature: str,
        user: str | None = None,
    ) -> "Facts":
        """The facts of a request whose tags are known. Header names are in lower case.

        Raises:
            BadRequest: the task or the conversation is no printable text of 1 to 256 characters (400).
        """
        return cls(
            request=request,
            feature=feature,
            user=user,
            task=_tag(TASK, headers.get(TASK) or request.metadata.get("task")),
            conversation=_conversation(tenant, body, _tag(CONVERSATION, headers.get(CONVERSATION))),
            structured=glance.structured(body),
            code=glance.code(body),
        )

    @property
    def input_estimate(self) -> int:
        """About how many input tokens; `request.input_bound` is how many at most."""
        return -(-self.request.input_bound // _BYTES_A_TOKEN)

    @property
    def output_estimate(self) -> int:
        """About how many output tokens; nobody knows before, so a usual answer's, within what the request allows."""
        most = self.request.max_tokens
        return (USUAL_OUTPUT if most is None else min(most, USUAL_OUTPUT)) * self.request.choices


def _conversation(tenant: UUID, body: Mapping[str, Any], named: str | None) -> str | None:
    if named is not None:
        return _digest(str(tenant), "named", named)
    first = glance.first_user_text(body)
    return _digest(str(tenant), glance.system_text(body), first) if first else None


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        piece = part[:_MOST_HASHED].encode(errors="surrogatepass")
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()[:32]


def _tag(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > _MAX_TAG or not value.isprintable():
        wrong = FieldError(name, f"must be a printable text of 1 to {_MAX_TAG} characters")
        raise BadRequest(f"`{name}` is wrong", errors=[wrong])
    return value
