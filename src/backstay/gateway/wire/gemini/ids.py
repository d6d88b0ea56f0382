"""Opaque values that travel through a client of one format and come back for a provider of another.

A Gemini model signs its function calls and wants the signature back, but clients of other formats know only a call's
id: `pack_id` hides the signature inside it. The other way round, a Gemini client knows only one kind of signature:
`seal` hides in it what another provider signed, and for whom.
"""

import base64
import binascii
from hashlib import blake2s
from typing import Any

ORIGIN = "gemini"
_PACKED = "gsig_"
MARK = b'"gsig_'  # what JSON with such an id has in it
_BASE64, _PLAIN = b"b", b"t"
# Nine bytes, so that their base64 does not depend on what follows.
_SEAL = b"backstay\x00"
_SEALED = base64.b64encode(_SEAL).decode()


def make_id(answer: str, choice: int, number: int) -> str:
    """An id for a call that came without one: the same for the same place in the same answer, and of a form that every
    provider takes."""
    return "call_" + blake2s(f"{answer}/{choice}/{number}".encode(), digest_size=12).hexdigest()


def pack_id(id: str, signature: str) -> str:
    """`id` and `signature` as one url-safe id that begins with `gsig_`; `unpack_id` gives both back.

    For writers that give a function call of a Gemini model to a client whose format has no place for the signature.
    """
    name = id.encode()
    kind, raw = _raw(signature)
    packed = base64.urlsafe_b64encode(len(name).to_bytes(4, "big") + kind + name + raw)
    return _PACKED + packed.rstrip(b"=").decode()


def unpack_id(id: str) -> tuple[str, str | None]:
    """The id and the signature that `pack_id` put together; any other id comes back as it is, without a signature.

    Writers for providers call this on every call and result, so that a long id never reaches a provider that bounds it.
    """
    if not id.startswith(_PACKED):
        return id, None
    packed = _decoded(id.removeprefix(_PACKED), "-_")
    if packed is None or len(packed) < 5:
        return id, None
    end = 5 + int.from_bytes(packed[:4], "big")
    kind, name, raw = packed[4:5], packed[5:end], packed[end:]
    try:
        signature = base64.b64encode(raw).decode() if kind == _BASE64 else raw.decode()
        # Whoever merely looks like it is left alone.
        found = name.decode()
        return (found, signature) if pack_id(found, signature) == id else (id, None)
    except UnicodeDecodeError:
        return id, None


def plain_ids(value: Any) -> Any:
    """JSON with the ids that `pack_id` made replaced by their own, for a provider that knows nothing of them."""
    if isinstance(value, str):
        return unpack_id(value)[0]
    if isinstance(value, list):
        return [plain_ids(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_ids(item) for name, item in value.items()}
    return value


def seal(signature: str, origin: str, redacted: bool) -> str:
    """Another provider's signature (or redacted thought) in the shape of a thought signature."""
    kind = b"\x00r" if redacted else b"\x00s"
    return base64.b64encode(_SEAL + origin.encode() + kind + signature.encode()).decode()


def unseal(signature: str) -> tuple[str, str, bool]:
    """(signature, origin, redacted) of what `seal` made; any other signature is Gemini's own."""
    if not signature.startswith(_SEALED):
        return signature, ORIGIN, False
    # Google's clients write base64 in its url-safe letters, whatever letters they were given.
    sealed = _decoded(signature.translate({ord("-"): "+", ord("_"): "/"}).rstrip("="), "+/")
    origin, mark, rest = (sealed or b"").removeprefix(_SEAL).partition(b"\x00")
    try:
        if mark and rest[:1] in (b"r", b"s"):
            return rest[1:].decode(), origin.decode(), rest[:1] == b"r"
    except UnicodeDecodeError:
        return signature, ORIGIN, False
    return signature, ORIGIN, False


def _raw(signature: str) -> tuple[bytes, bytes]:
    """Signatures are base64 already; encoding them twice would make ids a third longer."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return _PLAIN, signature.encode()
    return (_BASE64, raw) if base64.b64encode(raw).decode() == signature else (_PLAIN, signature.encode())


def _decoded(text: str, letters: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=letters.encode(), validate=True)
    except (binascii.Error, ValueError):
        return None
