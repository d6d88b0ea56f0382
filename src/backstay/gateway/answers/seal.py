"""What makes an answer of one tenant impossible to find and to read for every other one."""

from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import orjson

from ...kernel import telemetry
from ...kernel.crypto import Unsealable, Vault
from .models import Hit

_log = telemetry.log("answers")


class Seal:
    """Digests and encryption for one tenant, both under the master key."""

    def __init__(self, vault: Vault, tenant: UUID) -> None:
        self._vault, self._tenant = vault, tenant

    def digest(self, use: str, content: bytes) -> bytes:
        """Keyed and with the tenant in it: it tells nothing of `content`, and no other tenant has the same."""
        return self._vault.digest(f"answer {self._tenant} {sha256(content).hexdigest()} {use}")

    def close(self, key: bytes, body: bytes, by: str, now: datetime) -> bytes:
        """The answer as it is kept; it opens for this tenant and key only."""
        head = orjson.dumps({"by": by, "at": now.timestamp()})
        return self._vault.seal(head + b"\n" + body, self._context(key))

    def open(self, key: bytes, sealed: bytes, now: datetime) -> Hit | None:
        """The answer; None when it was altered, or kept under another tenant, key or master key."""
        try:
            head, _, body = self._vault.open(sealed, self._context(key)).partition(b"\n")
        except Unsealable:
            _log.warning("a kept answer cannot be opened and is passed over: altered, or of another master key")
            return None
        told = orjson.loads(head)
        age = (now - datetime.fromtimestamp(told["at"], UTC)).total_seconds()
        return Hit(body, told["by"], "exact", max(0.0, age))

    def _context(self, key: bytes) -> bytes:
        return f"answer:{self._tenant}:{key.hex()}".encode()
