"""Google's Gemini format."""

from .embed import count_answer, count_order, count_request, counted
from .ids import pack_id, seal, unpack_id, unseal
from .stream import ArrayFraming
from .wire import Gemini, path
from .write import FOREIGN_SIGNATURE

__all__ = [
    "FOREIGN_SIGNATURE",
    "ArrayFraming",
    "Gemini",
    "count_answer",
    "count_order",
    "count_request",
    "counted",
    "pack_id",
    "path",
    "seal",
    "unpack_id",
    "unseal",
]
