"""One tool call of a run: checked, audited, made, told."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..audit import Audit
from ..kernel.db import Database
from ..kernel.principal import Principal
from ..workflows.failures import text_of
from .context import ToolContext
from .errors import ToolError
from .output import Output
from .signature import BadArguments
from .texts import bounded
from .tool import Offer
from .turn import Call, Result

_MOST_TOLD = 2_000  # characters of an error that a model is told
_MOST_SHOWN = 32_000  # characters of a result that an event tells


class Hands:
    """Calls tools for runs."""

    def __init__(self, db: Database, audit: Audit, output: Output) -> None:
        self._db, self._audit, self._output = db, audit, output

    async def use(
        self,
        by: Principal,
        run: UUID,
        offer: Offer,
        call: Call,
        model_call: UUID | None,
        approval: UUID | None,
        idempotency_key: str,
    ) -> Result:
        """Calls the tool; `approval` is the one that allowed it.

        The audit entry that it begins is committed before, the one with its result after.

        Raises:
            What the tool raises, other than ToolError: the step is tried again.
        """
        await self._record(
            by, run, call, model_call, "tool.call.started", {"arguments": call.arguments}, approval=approval
        )
        context = ToolContext(by, run, idempotency_key, model_call)
        try:
            result = Result(outcome="ok", text=await offer.call(context, call.arguments))
        except BadArguments as error:
            result = Result(outcome="invalid", text=bounded(str(error), _MOST_TOLD))
        except ToolError as error:
            result = Result(outcome="error", text=bounded(error.detail, _MOST_TOLD))
        except Exception as error:
            failed = Result(outcome="error", text=bounded(text_of(error), _MOST_TOLD))
            await self._finished(by, run, call, model_call, failed)
            raise
        return await self._finished(by, run, call, model_call, result)

    async def refuse(self, by: Principal, run: UUID, call: Call, model_call: UUID | None, result: Result) -> Result:
        """A call that is not made, with the reason as its result."""
        return await self._finished(by, run, call, model_call, result, payload={"arguments": call.arguments})

    async def _finished(
        self,
        by: Principal,
        run: UUID,
        call: Call,
        model_call: UUID | None,
        result: Result,
        payload: Mapping[str, Any] | None = None,
    ) -> Result:
        told = {**(payload or {}), "result": result.text}
        action = "tool.call.finished" if payload is None else "tool.call.refused"
        await self._record(by, run, call, model_call, action, told, outcome=result.outcome)
        shown = {
            "id": call.id,
            "name": call.name,
            "outcome": result.outcome,
            "output": bounded(result.text, _MOST_SHOWN),
        }
        await self._output.tell(by, run, "tool.result", shown)
        return result

    async def _record(
        self,
        by: Principal,
        run: UUID,
        call: Call,
        model_call: UUID | None,
        action: str,
        payload: Mapping[str, Any],
        *,
        outcome: str = "ok",
        approval: UUID | None = None,
    ) -> None:
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._audit.record(
                tx,
                by,
                action,
                f"tool:{call.name}",
                outcome=outcome,
                run=run,
                call=model_call,
                metadata={"call": call.id, **({"approval": approval} if approval else {})},
                payload=payload,
            )
