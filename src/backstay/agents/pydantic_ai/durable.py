"""An agent of pydantic-ai as a durable one."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import AgentRunResult, DeferredToolResults, ModelSettings, UsageLimits
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.messages import ModelMessage, UserContent

from ...workflows import Run
from ..agent import Means
from ..errors import AgentStopped
from .journey import Journey
from .model import GatewayModel
from .toolset import AsSteps

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741 -- output, as in Workflow[I, O]


class Durable(Generic[D, O]):
    """`model`: a route, or `provider:model`; it takes the place of the agent's own."""

    def __init__(self, means: Means, agent: PydanticAgent[D, O], model: str) -> None:
        self.name = agent.name or "pydantic-ai"
        self._means, self._agent, self._model = means, agent, model

    def __repr__(self) -> str:
        return f"<Durable {self.name}>"

    async def run(
        self,
        run: Run,
        prompt: str | Sequence[UserContent] | None = None,
        *,
        deps: D = None,  # type: ignore[assignment]  # as in pydantic-ai: only an agent without dependencies may leave it out
        message_history: Sequence[ModelMessage] | None = None,
        deferred_tool_results: DeferredToolResults | None = None,
        model_settings: ModelSettings | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> AgentRunResult[O]:
        """What the agent's own `run` gives, by steps of `run`: `.output` is typed, `.all_messages()` go on to the next.

        Tool calls of one turn are made one after another. What is said streams to the run's stream meanwhile. Times and
        ids in the new messages are the same in each replay, so they may be handed to steps.

        Raises:
            StepFailed: the model cannot be called, as when a budget has no room; a tool failed as often as it may.
            AgentStopped: pydantic-ai gave up: a limit was reached, or the model was told too often what is wrong.
            BadRequest: the messages hold what a chat completion has no place for, such as a video.
            ConfigurationError: a model setting cannot be passed on.
        """
        await self._means.output.open(run.by, run.id)
        began = await run.now()
        history = list(message_history or ())
        journey = Journey(self._means, run, self.name)
        try:
            with self._agent.parallel_tool_call_execution_mode("sequential"):
                result: AgentRunResult[O] = await self._agent.run(
                    prompt,
                    deps=deps,
                    message_history=history,
                    deferred_tool_results=deferred_tool_results,
                    model=GatewayModel(journey, self._model),
                    model_settings=model_settings,
                    usage_limits=usage_limits,
                    run_id=f"{run.id}/{began.isoformat()}",
                    conversation_id=_conversation(history) or str(run.id),
                    capabilities=[AsSteps(journey)],
                )
        except AgentRunError as error:
            raise AgentStopped(f"{type(error).__name__}: {error}") from error
        except BaseException:
            # A signal that ends the attempt comes through pydantic-ai's tasks, which may wrap it or cancel beside it.
            if (signal := journey.over or run.over) is not None:
                raise signal from None
            raise
        for message in result.new_messages():
            for dated in (message, *message.parts):
                if hasattr(dated, "timestamp"):
                    dated.timestamp = began
        return result


def _conversation(history: Iterable[ModelMessage]) -> str | None:
    return next((message.conversation_id for message in history if message.conversation_id), None)
