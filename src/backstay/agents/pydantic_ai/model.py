"""The model of a durable agent: our gateway, in this process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import ModelSettings, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile

from .dialogue import request_of, response_of
from .journey import Journey

_PROFILE = ModelProfile(supports_json_schema_output=True, supports_json_object_output=True)


class GatewayModel(Model[Any]):
    """Each request is a step that calls the gateway as the run's principal: budget, audit and fallback hold.

    It speaks through the same Speaker as our own agents, not through an OpenAI client: what is recorded, streamed and
    billed is then the same, and no client library is needed.
    """

    def __init__(self, journey: Journey, model: str) -> None:
        super().__init__(profile=_PROFILE)
        self._journey, self._model = journey, model

    @property
    def model_name(self) -> str:
        return self._model

    @property
    def system(self) -> str:
        return "backstay"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        turn = await self._journey.say({"model": self._model, **request_of(messages, settings or {}, parameters)})
        return response_of(turn)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """For an agent that has an event handler: it hears of each answer once it is whole, and again in a replay."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)
