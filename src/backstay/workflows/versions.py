"""Edits of code whose runs are under way."""

from typing import TYPE_CHECKING

from .models import UNDO, Recorded, StepKind

if TYPE_CHECKING:
    from .run import Run

_MARK = "patched "


def patched(run: "Run", id: str) -> bool:
    """Whether this run takes the new way of an edit: `if run.patched("greet-by-name"): …new… else: …old…`.

    False for a run that had passed this place before the edit, true for every other, and for one run always the same.
    The answer is recorded. Once every run that went the old way has ended, the call and the old way can be deleted.
    """
    if run.over is not None:
        raise run.over
    if id not in run._patches:
        run._patches[id] = _decided(run, _MARK + id)
    return run._patches[id]


def _decided(run: "Run", name: str) -> bool:
    seq = run._next
    while is_mark(run._recorded.get(seq)):
        if run._recorded[seq].name == name:
            while run._next < seq:
                _pass(run)
            run._next = seq + 1
            return True
        seq += 1
    if any(run._next <= seq < UNDO for seq in run._recorded):
        return False
    place = run._place(StepKind.VALUE, name, b"")
    run._standing(place)
    run._complete(place, "true", run._clock.now())
    return True


def is_mark(recorded: Recorded | None) -> bool:
    """Whether an answer of `patched` is recorded here."""
    return recorded is not None and recorded.kind == StepKind.VALUE and recorded.name.startswith(_MARK)


def pass_marks(run: "Run") -> None:
    """Passes over answers that the code no longer asks for: its edit has become the only way."""
    while is_mark(run._recorded.get(run._next)):
        _pass(run)


def _pass(run: "Run") -> None:
    run._patches.setdefault(run._recorded[run._next].name.removeprefix(_MARK), True)
    run._next += 1
