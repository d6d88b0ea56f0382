"""What may go wrong with an agent.

AgentNotFound        404  no agent of that name is registered
ToolError            422  raised by a tool: the model is told, and goes on
AgentStopped         409  the agent was stopped; the run fails with it unless its code catches it
├── StepsExhausted        as many steps as it may take were not enough
├── TokensExhausted       as many tokens as it may use were not enough
├── DeadlinePassed        it took too long
├── LoopDetected          the model makes the same call again and again
└── OutputInvalid         the answer does not fit the output's model, however often it was told
"""

from typing import ClassVar

from ..kernel.errors import Invalid, NotFound
from ..workflows import RunStopped


class AgentNotFound(NotFound):
    code, title = "agent_not_found", "No agent of that name"


class ToolError(Invalid):
    """Raise it in a tool to tell the model what went wrong, in words that help it to go on. It is not tried again."""

    code, title = "tool_failed", "The tool could not do it"


class AgentStopped(RunStopped):
    """Root of the ends that the same run would come to again."""

    code: ClassVar[str] = "agent_stopped"
    status, title = 409, "The agent was stopped"


class StepsExhausted(AgentStopped):
    code, title = "agent_steps_exhausted", "The agent used up its steps"


class TokensExhausted(AgentStopped):
    code, title = "agent_tokens_exhausted", "The agent used up its tokens"


class DeadlinePassed(AgentStopped):
    code, title = "agent_deadline_passed", "The agent took too long"


class LoopDetected(AgentStopped):
    """`tool` and `arguments` name the call."""

    code, title = "agent_loop_detected", "The agent repeats itself"

    def __init__(self, tool: str, arguments: str, times: int) -> None:
        shown = arguments[:500]
        super().__init__(f"the model asked {times} times for {tool} with the same arguments {shown}: it repeats itself")
        self.tool, self.arguments, self.times = tool, arguments, times


class OutputInvalid(AgentStopped):
    code, title = "agent_output_invalid", "The agent's answer does not fit its output"
