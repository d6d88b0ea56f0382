"""Agents: a question becomes a durable run that searches, asks a model, streams the answer and stores it.

Owns        answer
States      those of the run `agents.answer`; an answer's outcome is answered | cancelled
Guarantees  A question asked in a transaction runs if and only if that transaction commits. After a crash the
run goes on
            with the step that was under way; finished steps are not repeated. The stored answer, its audit
            entry, its event and the stream's end commit together. A model call that a crash interrupted is
            made again (at-least-once; the ledger shows both), and its stream says so: a `status` event with
            `restarted` makes void what was shown.
"""

from .consent import Consent
from .context import ToolContext
from .errors import (
    AgentNotFound,
    AgentStopped,
    DeadlinePassed,
    LoopDetected,
    OutputInvalid,
    StepsExhausted,
    TokensExhausted,
    ToolError,
)
from .models import Answer, AnswerNotFound, Ask, Source, stream_of
from .service import Agents
from .tool import Tool

__all__ = [
    "AgentNotFound",
    "AgentStopped",
    "Agents",
    "Answer",
    "AnswerNotFound",
    "Ask",
    "Consent",
    "DeadlinePassed",
    "LoopDetected",
    "OutputInvalid",
    "Source",
    "StepsExhausted",
    "TokensExhausted",
    "Tool",
    "ToolContext",
    "ToolError",
    "stream_of",
]
