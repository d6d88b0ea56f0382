"""Agents: a model that may call tools, until it answers; each model call and each tool call is a step of a run.

Owns        answer (of the first agent, `ask`, which answers one question from documents)
States      those of the run; an answer's outcome is answered | cancelled
Guarantees  A run started in a transaction exists if and only if that transaction commits. After a crash it goes on with
            the step that was under way; finished steps are not repeated. A model call that a crash interrupted is made
            again (at-least-once; the ledger shows both), and the stream says so: a `status` event with `restarted`
            makes void what was shown.
            A tool sees only arguments that fit its signature. Its call is audited before and after, linked to the
            model call; one that needs a human's consent is made as the human decided, and not before.
            The end of a run ends its stream, in one transaction.
            All of this holds for an agent of pydantic-ai, too, once `durable` has taken it on (pydantic_ai).
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
from .mcp import McpServer
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
    "McpServer",
    "OutputInvalid",
    "Source",
    "StepsExhausted",
    "TokensExhausted",
    "Tool",
    "ToolContext",
    "ToolError",
    "stream_of",
]
