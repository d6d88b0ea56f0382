"""The text of an API key: `bs_<env>_<id>_<secret>_<crc>`.

The checksum lets us refuse a mistyped key without asking the database, and lets secret scanners be sure.
"""

import re
import secrets
import string
import zlib
from dataclasses import dataclass

_ALPHABET = string.ascii_letters + string.digits
_ID, _SECRET = 8, 32
_SHAPE = re.compile(rf"bs_[a-z]+_[A-Za-z0-9]{{{_ID}}}_[A-Za-z0-9]{{{_SECRET}}}_[0-9a-f]{{8}}")


@dataclass(frozen=True, slots=True)
class KeyText:
    """A fresh key: the whole text, and the part that people may recognise it by."""

    text: str
    prefix: str


def generate(environment: str = "live") -> KeyText:
    """A new key with 190 bits of randomness."""
    identifier = "".join(secrets.choice(_ALPHABET) for _ in range(_ID))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET))
    prefix = f"bs_{environment}_{identifier}"
    body = f"{prefix}_{secret}"
    return KeyText(f"{body}_{_checksum(body)}", prefix)


def mistyped(text: str) -> bool:
    """Whether the text has the shape of a generated key and another checksum. A preset admin key has its own shape."""
    body, _, checksum = text.rpartition("_")
    return _SHAPE.fullmatch(text) is not None and checksum != _checksum(body)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
