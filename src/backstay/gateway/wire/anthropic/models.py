"""What each generation of Claude takes in a request. Read from the model's name, as the wire itself says nothing of it.

| models        | thinking              | effort                 | temperature, top_p, top_k       |
|---------------|-----------------------|------------------------|---------------------------------|
| up to 4.5     | a budget of tokens    | Opus 4.5: low … high   | all; from 4.1 one of the first  |
| 4.6           | a budget, or adaptive | low … high, max        | two                             |
| 4.7 and later | adaptive only         | low … high, xhigh, max | none: refused                   |
| other names   | a budget of tokens    | none                   | all                             |

Claude 5 and later think unless told otherwise. Opus from 5.5, Fable and Mythos cannot be told; Sonnet from 5.5 is told
in a way of its own. Other names are models of other makers behind an endpoint that speaks this format.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

_FAMILY_FIRST = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2})(?!\d))?(?!\d)")
_VERSION_FIRST = re.compile(r"claude-(\d{1,2})(?:[-.](\d{1,2})(?!\d))?(?!\d)")
_NEVER_QUIET = ("fable", "mythos")
_LOW_TO_HIGH = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Abilities:
    """`quiet` is the `thinking.type` that keeps the model from thinking: None where it does not think unless asked, and
    `adaptive` where it cannot be kept from it. `one_sampler`: temperature or top_p, not both."""

    budget: bool = True
    adaptive: bool = False
    efforts: tuple[str, ...] = ()
    sampling: bool = True
    one_sampler: bool = False
    quiet: str | None = "disabled"


@lru_cache(maxsize=512)
def abilities(model: str) -> Abilities:
    """What `model` takes, whatever cloud's prefix or suffix its name carries."""
    version = _version(model.lower())
    if version is None:
        return Abilities()
    family, number = version
    return Abilities(
        budget=number <= (4, 6),
        adaptive=number >= (4, 6),
        efforts=_efforts(family, number),
        sampling=number <= (4, 6),
        one_sampler=number >= (4, 1),
        quiet=_quiet(family, number),
    )


def _version(model: str) -> tuple[str, tuple[int, int]] | None:
    if "claude-mythos-preview" in model:
        return "mythos", (5, 0)
    if found := _FAMILY_FIRST.search(model):
        return found[1], (int(found[2]), int(found[3] or 0))
    if found := _VERSION_FIRST.search(model):
        return "claude", (int(found[1]), int(found[2] or 0))
    return None


def _efforts(family: str, number: tuple[int, int]) -> tuple[str, ...]:
    if number >= (4, 7):
        return (*_LOW_TO_HIGH, "xhigh", "max")
    if number == (4, 6):
        return (*_LOW_TO_HIGH, "max")
    return _LOW_TO_HIGH if (family, number) == ("opus", (4, 5)) else ()


def _quiet(family: str, number: tuple[int, int]) -> str | None:
    if number < (5, 0):
        return None
    if family in _NEVER_QUIET or (family == "opus" and number >= (5, 5)):
        return "adaptive"
    return "between_tools" if family == "sonnet" and number >= (5, 5) else "disabled"
