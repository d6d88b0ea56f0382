"""LangChain's own tests of chat models, through its clients of OpenAI and Anthropic, on providers of every format.

Its unit tests of chat models are left out: they never call a server.
"""

import functools
import operator
import struct
import zlib
from typing import Any

import httpx
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models

PROVIDERS = ["sim:", "openai:sim:", "anthropic:sim:", "gemini:sim:"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.allow_hosts(["127.0.0.1"]),
    # Its clients keep their connections for all who use them in a process, and these belong to an event loop.
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore:The test .* is not an async function:pytest.PytestWarning"),
    # What it says of its own tests: schemas of pydantic 1, files without names, and an answer parsed into another type
    # than its client's.
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning"),
    pytest.mark.filterwarnings("ignore:OpenAI may require a filename:UserWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]


def _png() -> bytes:
    """A picture of one red point."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    points = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", points) + piece(b"IEND", b"")


def _wav() -> bytes:
    """Eight samples of silence."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = struct.pack("<4sI", b"data", 8) + b"\x80" * 8
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


_PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n%%EOF\n"
_FILES = {"png": _png(), "wav": _wav(), "pdf": _PDF}


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the tests would fetch from the internet."""

    def get(url: str, **more: Any) -> httpx.Response:
        return httpx.Response(200, content=_FILES[url.rpartition(".")[2]])

    monkeypatch.setattr(chat_models.httpx, "get", get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "nobody is asked")


class Standard(ChatModelIntegrationTests):
    """What the three have in common. The model calls a tool that it is offered, and fills the schema that it is asked
    to fill.
    """

    provider: str
    model_override_value = "sim:echo"  # whatever the provider: an answer names the model as who answered calls it
    supports_image_inputs = True
    supports_image_urls = True
    supports_pdf_inputs = True
    supports_image_tool_message = True
    supports_pdf_tool_message = True
    supports_anthropic_inputs = True
    supported_usage_metadata_details = {"invoke": ["reasoning_output"], "stream": ["reasoning_output"]}
    path = ""
    options: dict[str, Any] = {}

    @pytest.fixture(autouse=True, params=PROVIDERS)
    def gateway(self, request: pytest.FixtureRequest, address: str, key: str) -> None:
        self.provider = request.param
        # Anthropic has no mode for JSON of any shape: the prompt has to ask for it, which this model does not need.
        model = f"{self.provider}{'json' if 'json_mode' in request.node.name else 'tools'}"
        self.parameters = {"model": model, "base_url": address + self.path, "api_key": key, **self.options}
        if self.provider.startswith("anthropic") and "audio" in request.node.name:
            reason = "Anthropic's models take no sound, and the gateway says so"
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason, raises=openai.BadRequestError))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.parameters

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        model = self.chat_model_class(**{**self.chat_model_params, "model": f"{self.provider}echo?think=5"})
        if not stream:
            return model.invoke("Think.")
        return functools.reduce(operator.add, model.stream("Think."))


class TestChatCompletions(Standard):
    chat_model_class = ChatOpenAI
    path = "/v1"
    options = {"stream_usage": True, "use_responses_api": False}
    supports_json_mode = True
    supports_audio_inputs = True


class TestResponses(Standard):
    chat_model_class = ChatOpenAI
    path = "/v1"
    options = {"use_responses_api": True}
    supports_json_mode = True


class TestMessages(Standard):
    chat_model_class = ChatAnthropic
