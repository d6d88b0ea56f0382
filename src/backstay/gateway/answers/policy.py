"""Whether an answer may come from the cache and for how long: what the request says, over what its route says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from ...kernel.errors import BadRequest, FieldError

HEADER = "backstay-cache"
MAX_TTL = 30 * 24 * 3600  # seconds
LEAST_SIMILARITY = 0.5
_DIRECTIVE = re.compile(r"([\w-]+)(?:\s*=\s*\"?([^\",]*)\"?)?")
_SIMILARITY = re.compile(r"0?\.\d{1,6}|1(\.0{1,6})?")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """`ttl`: seconds for which an answer is kept, and the age up to which one is taken; None: no caching.

    `semantic`: the cosine similarity from which another request's answer is taken; None: only the same request's.
    `reads`: an answer that stands may be taken. `max_age`: it may be no older, in seconds.
    """

    ttl: int | None = None
    semantic: float | None = None
    reads: bool = True
    max_age: int | None = None

    @classmethod
    def parse(cls, text: str, name: str = HEADER) -> Self:
        """What a route's setting says: `off`, `ttl=60`, or `ttl=60, semantic=0.92`.

        Raises:
            BadRequest: it cannot be understood; the error says what to write (400).
        """
        return cls()._with(_directives(text, name), name)

    @classmethod
    def of(cls, headers: Mapping[str, str], route: "CachePolicy | None" = None) -> "CachePolicy":
        """The policy of a request: its `backstay-cache` over the route's policy, `Cache-Control` over both.

        `headers` have lower-case names. `Cache-Control: no-store` switches the cache off, `no-cache` keeps the new
        answer and takes none, `max-age` bounds the age of what is taken; its other directives mean nothing here.

        Raises:
            BadRequest: `backstay-cache` cannot be understood; the error says what to write (400).
        """
        policy = route or OFF
        if (own := headers.get(HEADER)) is not None:
            policy = policy._with(_directives(own, HEADER), HEADER)
        control = headers.get("cache-control")
        return policy if control is None or not policy.on else policy._under(control)

    @property
    def on(self) -> bool:
        return self.ttl is not None

    @property
    def oldest(self) -> int:
        """The age in seconds up to which an answer is taken."""
        return min(self.ttl or 0, MAX_TTL if self.max_age is None else self.max_age)

    def _with(self, directives: dict[str, str], name: str) -> Self:
        if "off" in directives:
            if len(directives) > 1:
                raise _wrong(name, "`off` stands alone")
            return replace(self, ttl=None, semantic=None)
        changed = self
        if "ttl" in directives:
            changed = replace(changed, ttl=_ttl(directives["ttl"], name))
        if "semantic" in directives:
            changed = replace(changed, semantic=_similarity(directives["semantic"], name))
        if not changed.on:
            raise _wrong(name, "`semantic` needs a ttl as well, such as `ttl=60, semantic=0.92`")
        return changed

    def _under(self, control: str) -> "CachePolicy":
        said = {name.lower(): value for name, value in _DIRECTIVE.findall(control)}
        if "no-store" in said:
            return OFF
        policy = replace(self, reads=False) if "no-cache" in said else self
        if "max-age" in said:
            # A number that cannot be read counts as the strictest (RFC 9111, section 4.2.1).
            age = said["max-age"].strip()
            policy = replace(policy, max_age=int(age) if age.isascii() and age.isdigit() and len(age) < 12 else 0)
        return replace(policy, reads=policy.reads and policy.max_age != 0)


OFF = CachePolicy()


def _directives(text: str, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        word, equals, value = (piece.strip() for piece in part.partition("="))
        if word not in ("off", "ttl", "semantic") or bool(equals) == (word == "off"):
            raise _wrong(name, f"takes `off`, `ttl=<seconds>` and `semantic=<similarity>`, not {part.strip()[:40]!r}")
        if word in found:
            raise _wrong(name, f"names `{word}` twice")
        found[word] = value
    return found


def _ttl(value: str, name: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= MAX_TTL):
        raise _wrong(name, f"`ttl` must be a whole number of seconds from 1 to {MAX_TTL}, such as ttl=60")
    return int(value)


def _similarity(value: str, name: str) -> float | None:
    if value == "off":
        return None
    if not _SIMILARITY.fullmatch(value) or not LEAST_SIMILARITY <= float(value) <= 1:
        raise _wrong(
            name, f"`semantic` must be `off` or a similarity from {LEAST_SIMILARITY} to 1, such as semantic=0.92"
        )
    return float(value)


def _wrong(name: str, message: str) -> BadRequest:
    return BadRequest(f"`{name}` is wrong", errors=[FieldError(name, message)])
