"""Decides about approvals: who may decide, the one decision, expiry. Each is one transaction with its wake-up."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from ...audit import Audit
from ...events import Events
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import Forbidden
from ...kernel.ids import new_id
from ...kernel.principal import ALL, Principal
from ..models import Ended, StepState
from ..wakes import Wakes
from . import store
from .edits import edits
from .models import ApprovalClosed, ApprovalNotFound, ApprovalState, ApprovalView, Question


class Approvals:
    """The inbox: what runs ask people for, and what people decide."""

    def __init__(self, db: Database, clock: Clock, wakes: Wakes, audit: Audit, events: Events) -> None:
        self._db, self._clock, self._wakes, self._audit, self._events = db, clock, wakes, audit, events

    async def list(
        self,
        by: Principal,
        *,
        limit: int = 50,
        after: UUID | None = None,
        state: ApprovalState | None = ApprovalState.PENDING,
        run: UUID | None = None,
        workflow: str | None = None,
        role: str | None = None,
    ) -> list[ApprovalView]:
        """Approvals of the caller's tenant, newest first, older than the approval `after`. `state` None: every."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.page(
                tx, by.tenant, after=after, limit=limit, state=state, run=run, workflow=workflow, role=role
            )

    async def get(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> ApprovalView:
        """One approval.

        Raises:
            ApprovalNotFound: the tenant has none of that id.
        """
        async with self._db.join(tx, by.tenant) as tx:
            found = await store.find(tx, by.tenant, id)
        if found is None:
            raise ApprovalNotFound(f"there is no approval {id}")
        return found

    async def approve(
        self, by: Principal, id: UUID, *, reason: str | None = None, tx: Tx | None = None
    ) -> ApprovalView:
        """Approves what was asked for; its run goes on when this commits.

        Raises:
            ApprovalNotFound
            Forbidden: `by` lacks `approvals:write`, or the role or permission that the run demands.
            ApprovalClosed: it was decided before, has expired, or its run has ended (409).
        """
        return await self._decide(by, id, ApprovalState.APPROVED, reason, None, tx)

    async def deny(self, by: Principal, id: UUID, *, reason: str, tx: Tx | None = None) -> ApprovalView:
        """Denies it; its run goes on and learns why.

        Raises:
            ApprovalNotFound, Forbidden, ApprovalClosed: as for `approve`.
        """
        return await self._decide(by, id, ApprovalState.DENIED, reason, None, tx)

    async def edit(
        self, by: Principal, id: UUID, request: Mapping[str, Any], *, reason: str, tx: Tx | None = None
    ) -> ApprovalView:
        """Approves something else: the fields of `request` take the place of those asked for, the others stay.

        The audit entry is an override. It names the entry of the request and holds every changed field before and
        after.

        Raises:
            EditInvalid: a field would get a value of another kind (422).
            ApprovalNotFound, Forbidden, ApprovalClosed: as for `approve`.
        """
        return await self._decide(by, id, ApprovalState.APPROVED, reason, dict(request), tx)

    # -- for runs ---------------------------------------------------------------------------------------------------

    async def ask(self, tx: Tx, by: Principal, run: UUID, seq: int, workflow: str, question: Question) -> UUID:
        """Puts a request into the inbox, in the transaction that records the run's wait. Returns its id."""
        id, about = new_id(), dict(question.about)
        links = {"approval": str(id), "workflow": workflow, "seq": seq, "about": about}
        entry = await self._audit.record(
            tx,
            by,
            "approval.requested",
            f"approval:{id}",
            run=run,
            call=_call(about),
            metadata=links,
            payload={"title": question.title, "request": orjson.loads(question.request)},
        )
        await store.ask(tx, by.tenant, id, run, seq, workflow, question, entry, self._clock.now())
        due = question.due_at.isoformat() if question.due_at else None
        asked = {"title": question.title, "role": question.role, "permission": question.permission, "due_at": due}
        await self._events.emit(tx, "approval.requested", {"run": str(run), **links, **asked}, tenant=by.tenant)
        return id

    async def expire(self, tx: Tx, by: Principal, run: UUID, seq: int) -> Ended | None:
        """Nobody has decided in time: the default holds. None when somebody decides just now."""
        expired = await store.expire(tx, by.tenant, run, seq, self._clock.now())
        if expired is None:
            return None
        approved = expired.fallback == "approve"
        system = Principal.system(by.tenant, "approvals")
        facts = {"approval": str(expired.id), "approved": approved, "requested": str(expired.entry)}
        await self._audit.record(
            tx, system, "approval.expired", f"approval:{expired.id}", run=run, call=_call(expired.about), metadata=facts
        )
        told = {"run": str(run), "approval": str(expired.id), "approved": approved, "about": expired.about}
        await self._events.emit(tx, "approval.expired", told, tenant=by.tenant)
        return _ended(expired, expired.request, approved=approved)

    async def withdraw(self, tx: Tx, tenant: UUID, run: UUID) -> None:
        """The run has ended: nothing that it asked for is to be decided any more."""
        for id in await store.withdraw(tx, tenant, run, self._clock.now()):
            told = {"run": str(run), "approval": str(id)}
            await self._events.emit(tx, "approval.withdrawn", told, tenant=tenant)

    # -- the decision -----------------------------------------------------------------------------------------------

    async def _decide(
        self,
        by: Principal,
        id: UUID,
        state: ApprovalState,
        reason: str | None,
        edited: dict[str, Any] | None,
        tx: Tx | None,
    ) -> ApprovalView:
        by.require("approvals:write")
        async with self._db.join(tx, by.tenant) as tx:
            asked = await self.get(by, id, tx=tx)
            _permit(by, asked)
            if edited is not None:
                edited = edits(asked.request, edited)
            holds = {**asked.request, **edited} if edited else asked.request
            if not await store.decide(tx, by, id, state, reason, edited, self._clock.now()):
                raise await self._closed(tx, by, id)
            decided = await self.get(by, id, tx=tx)
            await self._tell(tx, by, decided, holds)
            await self._wakes.end(
                tx,
                by.tenant,
                decided.run,
                decided.seq,
                _ended(decided, holds, approved=state == ApprovalState.APPROVED),
            )
            return decided

    async def _closed(self, tx: Tx, by: Principal, id: UUID) -> ApprovalClosed:
        found = await self.get(by, id, tx=tx)
        late = found.state == ApprovalState.PENDING  # its time has passed, and its run is about to say so
        return ApprovalClosed(id, ApprovalState.EXPIRED if late else found.state, found.decider)

    async def _tell(self, tx: Tx, by: Principal, decided: ApprovalView, holds: Any) -> None:
        """The decision as evidence and as an event."""
        changed = sorted(decided.edited or {})
        links = {"approval": str(decided.id), "requested": str(decided.entry), "about": decided.about}
        evidence: dict[str, Any] = {"reason": decided.reason}
        if changed:
            evidence["before"] = {name: decided.request[name] for name in changed if name in decided.request}
            evidence["after"] = {name: holds[name] for name in changed}
        await self._audit.record(
            tx,
            by,
            "approval.overridden" if changed else f"approval.{decided.state}",
            f"approval:{decided.id}",
            run=decided.run,
            call=_call(decided.about),
            metadata={**links, "fields": changed} if changed else links,
            payload=evidence,
        )
        told = {"run": str(decided.run), **links, "decision": decided.state, "edited": changed, "by": by.name}
        await self._events.emit(tx, "approval.decided", told, tenant=by.tenant)


def _permit(by: Principal, asked: ApprovalView) -> None:
    if asked.role is not None and by.role != asked.role and ALL not in by.permissions:
        raise Forbidden(f"only the role {asked.role} may decide this; {by.name} has the role {by.role or 'of none'}")
    if asked.permission is not None:
        by.require(asked.permission)


def _ended(approval: ApprovalView, holds: Any, *, approved: bool) -> Ended:
    """The decision as the waiting step's output."""
    decision = {
        "approval": approval.id,
        "approved": approved,
        "edited": bool(approval.edited),
        "request": holds,
        "by": approval.decider,
        "reason": approval.reason,
        "at": approval.decided_at,
    }
    return Ended(StepState.COMPLETED, orjson.dumps(decision).decode())


def _call(about: Mapping[str, str]) -> UUID | None:
    """The model call that an approval is about, if it says so."""
    try:
        return UUID(about["call"])
    except (KeyError, ValueError):
        return None
