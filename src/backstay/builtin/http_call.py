"""The input of the `http` job: one call to an address. Its headers are sealed before anything is stored."""

import base64
import re
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer, field_validator, model_validator
from yarl import URL

from ..kernel.crypto import Vault

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,8000}")
# What the client writes itself: given twice, they would make one request look like two to somebody in between.
_NOT_YOURS = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
Status = Annotated[int, Field(ge=100, le=599)]


class HttpCall(BaseModel):
    """A call of the `http` job.

    What `headers` say is a secret: it is stored encrypted, for this URL's host alone, and appears in no log and no
    answer. The URL and the body are stored as they are.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    url: str = Field(max_length=2048, description="Where to call. https, to public addresses, unless configured.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, SecretStr] = Field(default_factory=dict, max_length=50)
    sealed_headers: str | None = Field(None, description="The headers as they are stored.")
    content: Any = Field(None, alias="json", description="A body, sent as JSON.")
    body: str | None = Field(None, description="A body, sent as it is, in UTF-8.")
    timeout: float = Field(30.0, ge=0.1, le=300, description="Seconds for the whole call.")
    expect: list[Status] = Field(
        default_factory=list, max_length=50, description="Statuses that mean success; any 2xx when empty."
    )
    redirects: int = Field(0, ge=0, le=10, description="How many are followed. Another host gets no headers.")
    idempotency_header: str = Field("idempotency-key", description="Carries the job's id, the same in every attempt.")

    @field_validator("url")
    @classmethod
    def _has_host(cls, url: str) -> str:
        try:
            host = URL(url).host
        except ValueError:
            host = None
        if not host or not url.lower().startswith(("https://", "http://")):
            raise ValueError("must be a whole URL, such as https://example.com/path")
        return url

    @field_validator("headers")
    @classmethod
    def _may_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            _check_name(name)
            if not _VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"the value of {name} has a line break or a character that no header can carry")
        return headers

    @field_validator("idempotency_header")
    @classmethod
    def _named(cls, name: str) -> str:
        _check_name(name)
        return name

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.content is not None and self.body is not None:
            raise ValueError("give `json` or `body`, not both")
        if self.headers and self.sealed_headers is not None:
            raise ValueError("give `headers` or `sealed_headers`, not both")
        if self.method in ("GET", "HEAD") and (self.content is not None or self.body is not None):
            raise ValueError(f"a {self.method} has no body; use POST")
        return self

    @field_serializer("headers")
    def _never_in_clear(self, headers: dict[str, SecretStr]) -> dict[str, str]:
        if headers:
            raise ValueError("headers are stored sealed: enqueue it with `app.http.enqueue`, or `app.http.sealed` it")
        return {}

    @property
    def host(self) -> str:
        return URL(self.url).host or ""

    def sealed(self, vault: Vault) -> "HttpCall":
        """The same call with its headers encrypted for the URL's origin, so that nobody can send them elsewhere."""
        if not self.headers:
            return self
        plain = orjson.dumps({name.lower(): value.get_secret_value() for name, value in self.headers.items()})
        sealed = base64.b64encode(vault.seal(plain, self._context())).decode()
        return self.model_copy(update={"headers": {}, "sealed_headers": sealed})

    def opened(self, vault: Vault) -> dict[str, str]:
        """The headers in clear.

        Raises:
            Unsealable: they were sealed for another origin or under another master key, or are no sealed headers.
        """
        if self.sealed_headers is None:
            return {}
        try:
            sealed = base64.b64decode(self.sealed_headers, validate=True)
        except ValueError:
            sealed = b""
        found: dict[str, str] = orjson.loads(vault.open(sealed, self._context()))
        return found

    def payload(self) -> tuple[bytes | None, dict[str, str]]:
        """The body, and the header that says what it is."""
        if self.content is not None:
            return orjson.dumps(self.content), {"content-type": "application/json"}
        if self.body is not None:
            return self.body.encode(), {"content-type": "text/plain; charset=utf-8"}
        return None, {}

    def expects(self, status: int) -> bool:
        return status in self.expect if self.expect else 200 <= status < 300

    def _context(self) -> bytes:
        return f"http-job:{URL(self.url).origin()}".encode()


def _check_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name[:100]!r} cannot be the name of a header")
    if name.lower() in _NOT_YOURS or name.lower().startswith("proxy-"):
        raise ValueError(f"the header {name} is the client's own; leave it out")
