"""What a request becomes when an approver puts other values in place of some."""

from collections.abc import Mapping
from typing import Any

import orjson

from ...kernel import json
from ...kernel.errors import FieldError, Invalid
from .models import EditInvalid

_KINDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


def edits(request: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `wanted` as they are stored, when they fit `request`: a value keeps its kind, or becomes null.

    Raises:
        EditInvalid: naming each field that would get another kind.
    """
    if not isinstance(request, dict):
        raise EditInvalid("only a request with fields can be edited; approve or deny it as it is")
    try:
        text = json.dumps(dict(wanted))
    except Invalid as error:
        raise EditInvalid(error.detail) from None
    fields: dict[str, Any] = orjson.loads(text)
    wrong = [
        FieldError(f"request.{name}", f"is {_kind(request[name])} and cannot become {_kind(value)}")
        for name, value in fields.items()
        if None not in (request.get(name), value) and _kind(request[name]) != _kind(value)
    ]
    if wrong:
        raise EditInvalid("; ".join(f"{item.field} {item.message}" for item in wrong), errors=wrong)
    return fields


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
