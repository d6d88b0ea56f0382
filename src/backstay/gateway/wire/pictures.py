"""Pictures that a model answered with, for formats whose models' turns hold none: the user's next turn shows them."""

from collections.abc import Collection, Iterable

from ..dialogue import Media, Part, Text, ToolResult, Turn


def handed_back(turns: Iterable[Turn], kinds: Collection[str] = ("image",)) -> list[Turn]:
    """`turns` with notes where a model's turn held media. Those of `kinds` follow in the user's next turn, after
    results of tools, which stand first in every format; the others are told of and left out."""
    told: list[Turn] = []
    shown: list[Part] = []
    for turn in turns:
        if turn.role == "user":
            told.append(_with(turn, shown) if shown else turn)
            shown = []
            continue
        told.append(Turn("assistant", tuple(_noted(part, kinds) for part in turn.parts)))
        shown += [part for part in turn.parts if isinstance(part, Media) and part.kind in kinds]
    return [*told, Turn("user", tuple(shown))] if shown else told


def _noted(part: Part, kinds: Collection[str]) -> Part:
    if not isinstance(part, Media):
        return part
    return Text(f"[{part.kind}, shown in the next message]" if part.kind in kinds else part.note)


def _with(turn: Turn, shown: list[Part]) -> Turn:
    results = tuple(part for part in turn.parts if isinstance(part, ToolResult))
    rest = tuple(part for part in turn.parts if not isinstance(part, ToolResult))
    return Turn("user", (*results, *shown, *rest))
