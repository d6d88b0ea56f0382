"""What is stored of a step: its output as JSON by the function's return annotation, its arguments as a hash."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Set
from enum import Enum
from types import FunctionType
from typing import Any, get_type_hints

import orjson
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from .models import NotStorable, ValueTooLarge

MOST_BYTES = 16 * 1024 * 1024  # of one input or output
_MASK = "**********"  # what a secret is written as
_PLAIN = (str, int, float, bool, type(None))


def adapter_of(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """Reads and writes what `function` returns, by its annotation; plain JSON when it has none."""
    return _adapter(_unwrapped(function))


@functools.lru_cache(maxsize=4096)
def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    try:
        hint = get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        hint = Any  # a name that only type checkers know, or an object without annotations
    return TypeAdapter(hint)


def encode(adapter: TypeAdapter[Any], value: Any, what: str) -> str:
    """`value` as JSON text.

    Raises:
        NotStorable: it has no JSON form, does not fit the annotation, or holds a secret or a NUL character.
        ValueTooLarge: it takes more than 16 MiB.
    """
    try:
        stored = adapter.dump_json(value, warnings="error")
        text = stored.decode()
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise NotStorable(f"{what} returned a {type(value).__name__} that cannot be stored: {error}") from None
    if len(stored) > MOST_BYTES:
        raise ValueTooLarge(
            f"{what} returned {len(stored) / 2**20:.1f} MiB, and at most {MOST_BYTES // 2**20} MiB are stored: keep it "
            "where you keep files or in a table of yours, and return where it lies, such as its name or id"
        )
    if _MASK in text and _holds_secret(adapter.dump_python(value)):
        raise NotStorable(
            f"{what} returned a secret (SecretStr or SecretBytes), which is never stored in clear and would be lost "
            "masked: return where it lies, such as its name or id, and read it in the step that uses it"
        )
    if "\\u0000" in text and _has_nul(orjson.loads(text)):
        raise NotStorable(f"{what} returned text with a NUL character, which Postgres cannot store")
    return text


def decode(adapter: TypeAdapter[Any], text: str | None, what: str) -> Any:
    """What `encode` stored, as the annotated type.

    Raises:
        NotStorable: the stored form does not fit the annotation.
    """
    try:
        return adapter.validate_json(text or "null")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise NotStorable(
            f"the stored output of {what} does not fit its return annotation: {first['msg']}. "
            "Annotate the function with what it really returns"
        ) from None


def hash_of(arguments: tuple[Any, ...]) -> bytes:
    """A hash that is the same in every process for equal arguments.

    An object that is no data (a client, a service) counts by its type only.
    """
    return hashlib.sha256(orjson.dumps(_canonical(arguments), option=orjson.OPT_SORT_KEYS)).digest()


def wants_key(function: Callable[..., Any]) -> bool:
    """Whether `function` takes the keyword `idempotency_key`."""
    plain = getattr(function, "__func__", function)
    if isinstance(plain, FunctionType) and not hasattr(plain, "__wrapped__"):
        code = plain.__code__  # building a signature would cost more than all the rest of a step
        named = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
        return "idempotency_key" in named
    try:
        return "idempotency_key" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def name_of(function: Callable[..., Any]) -> str:
    """The function's own name, such as `send_email` or `Mailer.send`."""
    plain = _unwrapped(function)
    return getattr(plain, "__qualname__", type(plain).__qualname__).replace("<locals>.", "").split(".<lambda>")[0]


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)


def _canonical(value: Any) -> Any:
    if isinstance(value, Enum):
        return _canonical(value.value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").hex() if not _encodable(value) else value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, BaseModel):
        return {name: _canonical(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Set):
        return sorted((_canonical(item) for item in value), key=lambda item: orjson.dumps(item))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if type(value).__module__ in _DATA:
        return str(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


_DATA = {"datetime", "uuid", "decimal", "fractions", "pathlib", "ipaddress", "zoneinfo"}


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _holds_secret(value: Any) -> bool:
    if isinstance(value, SecretStr | SecretBytes):
        return True
    if isinstance(value, Mapping):
        return any(_holds_secret(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple | Set) and any(map(_holds_secret, value))


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(item) for pair in value.items() for item in pair)
    return isinstance(value, list) and any(map(_has_nul, value))
