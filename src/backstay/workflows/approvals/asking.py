"""`run.approve`: a run asks people and waits for their decision."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from .. import encoding
from ..models import Ended, NotStorable, StepFailed, StepKind
from ..waiting import wait
from .models import Decision, Fallback, Question

if TYPE_CHECKING:
    from ...kernel.db import Tx
    from ..run import Run

T = TypeVar("T", bound=BaseModel | Mapping[str, Any])
_FIELDS: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(list[str])
_DECISION: TypeAdapter[Any] = TypeAdapter(Decision[Any])


async def approve(
    run: "Run",
    request: T,
    *,
    title: str | None = None,
    timeout: timedelta | None = None,
    default: Fallback = "deny",
    role: str | None = None,
    permission: str | None = None,
    about: Mapping[str, str | UUID] | None = None,
) -> Decision[T]:
    """Asks people to approve `request`, and returns what they decide; the run waits meanwhile and holds nothing.

    It appears in the inbox (`/api/approvals`, `backstay approvals`) under `title`, by default the name of the
    request's model. Deciding takes the permission `approvals:write`, and the `role` or `permission` given here.
    `about` links it to what it is about, such as `{"call": <id of a model call>, "tool_call": …}`; the links are in
    the audit entries, in clear.

    When nobody has decided within `timeout` (None: it waits for ever), `default` holds.

    Raises:
        StepFailed: the request cannot be stored as JSON, or was edited to something that its model refuses.
    """
    model = type(request) if isinstance(request, BaseModel) else None
    adapter = _FIELDS if model is None else TypeAdapter(model)
    named = title or (model.__name__ if model else "approval")
    place = run._place(StepKind.APPROVAL, named, encoding.hash_of((request,)))
    due = None if timeout is None else run._clock.now() + timeout
    links = {name: str(value) for name, value in (about or {}).items()}
    try:
        text = encoding.encode(adapter, request, f"approval {named}")
        encoding.encode(_TEXTS, [named, *links, *links.values()], "its title or a link")
    except NotStorable as error:
        raise StepFailed(named, error.detail, place.seq) from error
    question = Question(named, text, links, role, permission, default, due)

    async def begin(tx: "Tx") -> None:
        await run._around.approvals.ask(tx, run.by, run.id, place.seq, run._taken.workflow, question)

    async def overdue(tx: "Tx") -> Ended | None:
        return await run._around.approvals.expire(tx, run.by, run.id, place.seq)

    ended = await wait(run, place, due, begin=begin, overdue=overdue)
    decision: Decision[T] = encoding.decode(_DECISION, ended.output, f"approval {named}")
    try:
        return replace(decision, request=adapter.validate_json(orjson.dumps(decision.request)))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StepFailed(named, f"it was edited to what its model refuses: {where}: {first['msg']}") from None
