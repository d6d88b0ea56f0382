"""The simulator as a provider in this process: the same bytes as its server, its faults as exceptions."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

from ..errors import BadModelOptions, ModelNotFound, ProviderUnreachable, StreamCut
from ..exchange import Exchange, joined
from ..pricing import PerCall, Price
from ..sim.options import BEHAVIOURS, EMBEDDER, BadOptions, SimOptions
from ..sim.simulator import HEADER, Reset, SimAnswer, Simulator
from ..wire import Quirks
from .base import Outgoing
from .table import PATHS


class SimProvider:
    """`sim:<behaviour>?<options>`: free of charge unless the option `price` says otherwise."""

    name = key = "sim"
    refusal = "the simulator refused the key by a simulated fault: it accepts every key"
    wires = ("openai-chat",)
    embeds = "openai-embed"
    quirks = Quirks()

    def __init__(self, simulator: Simulator | None = None) -> None:
        self._simulator = simulator or Simulator()

    @asynccontextmanager
    async def post(self, outgoing: Outgoing) -> AsyncIterator[Exchange]:
        path = PATHS[outgoing.wire, outgoing.kind]
        try:
            yield _SimExchange(await self._simulator.answer(path, outgoing.body, outgoing.headers.get(HEADER)))
        except Reset:
            raise ProviderUnreachable("the simulator reset the connection before it answered") from None

    def price(self, model: str, at: datetime) -> Price:
        options = self._options(model)
        return PerCall(options.price or Decimal(0), options.behaviour)

    def search_fee(self, model: str, at: datetime) -> Decimal | None:
        return Decimal(0)  # it searches nothing

    def canonical(self, model: str) -> str:
        return self._options(model).behaviour

    def models(self) -> list[str]:
        return [*BEHAVIOURS, EMBEDDER]

    def _options(self, model: str) -> SimOptions:
        if model.partition("?")[0] not in self.models():
            raise ModelNotFound(f"there is no model sim:{model}; the simulator has {', '.join(self.models())}")
        try:
            return SimOptions.parse(model)
        except BadOptions as error:
            raise BadModelOptions(str(error)) from None


class _SimExchange:
    def __init__(self, answer: SimAnswer) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._answer.chunks:
                yield chunk
        except Reset:
            raise StreamCut("the simulator cut its answer off") from None

    async def read(self) -> bytes:
        return await joined(self.chunks())
