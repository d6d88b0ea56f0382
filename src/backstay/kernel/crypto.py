"""Encryption at rest, keyed digests and signatures, all derived from one master key."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import BackstayError, ConfigurationError
from .settings import Settings

_NONCE_BYTES = 12


class Unsealable(BackstayError):
    """Sealed bytes were altered, belong to another context, or were sealed under another master key."""

    code, status, title = "unsealable", 500, "Sealed data cannot be opened"


class Cipher:
    """AES-256-GCM under one key (NIST SP 800-38D), with a random nonce in front of the ciphertext."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Encrypts; `context` is authenticated, not stored: opening needs the same one."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypts.

        Raises:
            Unsealable: altered, other context, or other key.
        """
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise Unsealable("stored data does not open under this master key; is BACKSTAY_MASTER_KEY right?") from None


class Vault:
    """What the master key is used for. Each use has its own key, derived by HKDF (RFC 5869)."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = Cipher(_derive(master_key, b"encryption"))
        self._digest_key = _derive(master_key, b"digest")
        self._signing_key = _derive(master_key, b"signature")

    @classmethod
    def of(cls, settings: Settings) -> "Vault":
        """The vault of this installation; an embedded one makes its key on first boot."""
        return cls(master_key(settings))

    def seal(self, plain: bytes, context: bytes) -> bytes:
        return self._cipher.seal(plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return self._cipher.open(sealed, context)

    def digest(self, secret: str) -> bytes:
        """Keyed digest (HMAC-SHA256) of a secret: what is stored in its place."""
        return hmac.digest(self._digest_key, secret.encode(), hashlib.sha256)

    def sign(self, message: bytes) -> bytes:
        """16 bytes that prove that we made `message`."""
        return hmac.digest(self._signing_key, message, hashlib.sha256)[:16]

    def signed(self, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(message), signature)


def master_key(settings: Settings) -> bytes:
    """The configured master key, or the embedded installation's own, made once in `data_dir/master.key`."""
    if settings.master_key is not None:
        return settings.master_key.get_secret_value().encode()
    return _own_key(settings.data_dir / "master.key")


def _own_key(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from None
    # Written aside and linked into place: of two processes that boot at once, one wins and both read its key.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        if not path.exists():
            with suppress(FileExistsError):  # another process was first: its key stands
                os.link(draft, path)
        return path.read_text(encoding="ascii").strip().encode()
    except OSError as error:
        raise _unusable(path, error) from None
    finally:
        draft.unlink(missing_ok=True)


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the master key {path} cannot be read or made: {error.strerror}. "
        "Make the folder writable or set BACKSTAY_MASTER_KEY."
    )


def _derive(master: bytes, use: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=b"backstay", info=use).derive(master)
