"""Clients of the npm registry: the AI SDK with its clients of every format, and OpenAI's and Anthropic's own."""

from typing import Any

import pytest

from .npm import Node, installed

pytestmark = pytest.mark.slow
PROVIDERS = ["sim", "openai:sim", "anthropic:sim", "gemini:sim"]
ON_A_SOCKET = len(PROVIDERS) - 1
AI_CLIENTS = ["chat", "responses", "compatible", "anthropic", "google"]
SURFACES = ["chat", "responses", "messages"]
SAY = "one two three four five six seven eight"
QUESTION = "What is the weather in Oslo?"
Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return installed(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def ai_reports(node: Node, simulated: Any, address: str, key: str) -> Reports:
    before = simulated.server.cancelled
    found = node.report("ai.mjs", ADDRESS=address, KEY=key)
    simulated.wait_for_cancelled(before + len(AI_CLIENTS) * ON_A_SOCKET, within=10)
    found["all"] = {"cancelled": simulated.server.cancelled - before}
    return found


@pytest.fixture(scope="session")
def official_reports(node: Node, simulated: Any, address: str, key: str) -> Reports:
    before = simulated.server.cancelled
    found = node.report("official.mjs", ADDRESS=address, KEY=key)
    simulated.wait_for_cancelled(before + len(SURFACES) * ON_A_SOCKET, within=10)
    found["all"] = {"cancelled": simulated.server.cancelled - before}
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("client", AI_CLIENTS)
class TestAISDK:
    @pytest.fixture(autouse=True)
    def _report(self, ai_reports: Reports, client: str, provider: str) -> None:
        self.report = ai_reports[f"{client} {provider}"]

    def test_text(self, client: str, provider: str) -> None:
        # The Gemini format's client takes the model of the question for that of the answer.
        model = f"{provider}:echo" if client == "google" else "sim:echo"
        told = {"text": SAY, "finishReason": "stop", "input": 12, "output": 8, "model": model}
        assert self.report["text"] == told

    def test_streamed_text(self, client: str, provider: str) -> None:
        assert self.report["stream"] == {"text": SAY, "several": True, "finishReason": "stop", "output": 8}

    @pytest.mark.parametrize("way", ["tools", "streamed_tools"])
    def test_a_tool_is_called_and_its_result_is_answered(self, client: str, provider: str, way: str) -> None:
        told = self.report[way]
        assert told["reasons"] == ["tool-calls", "stop"]
        assert (told["calls"], told["results"]) == ([["weather", QUESTION]], ["grey"])
        assert told["text"].startswith("The tool answered: ")
        assert '"sky":"grey"' in told["text"]

    def test_structured_output(self, client: str, provider: str) -> None:
        said = "A sailor of 44 with 3 masts"
        person = {"name": said, "age": 44, "role": "sailor", "ships": [{"name": said, "masts": 3}], "note": said}
        assert self.report["output"] == person
        assert self.report["streamed_output"]["last"] == person
        assert self.report["object"]["age"] == 27

    def test_thoughts(self, client: str, provider: str) -> None:
        told = self.report["reasoning"]
        # OpenAI's chat completions have no word for thoughts, and its client does not look for that of others.
        thought = {} if client == "chat" else {"thought": "one two three"}
        assert told == {"text": SAY, "tokens": 3, **thought}

    def test_embeddings(self, client: str, provider: str) -> None:
        told = self.report["embeddings"]
        if client in ("responses", "anthropic") or provider == "anthropic:sim":
            assert told is None, "neither has embeddings"
        else:
            assert (told["lengths"], told["alike"]) == ([256, 256, 256], True)

    def test_an_error_before_the_answer(self, client: str, provider: str) -> None:
        told = self.report["refused"]
        assert (told["overloaded"]["name"], told["overloaded"]["status"]) == ("AI_APICallError", 503)
        assert told["overloaded"]["message"] == "the provider answered with status 503"
        assert told["unknown"]["name"] == "AI_APICallError"
        assert "nothing" in told["unknown"]["message"]

    def test_an_error_in_the_middle_of_the_answer(self, client: str, provider: str) -> None:
        told = self.report["cut"]
        assert (told["text"], told["finished"]) == ("one two three", "error")
        assert "answer" in told["error"]["message"]

    def test_leaving_in_the_middle_of_the_answer(self, client: str, provider: str) -> None:
        assert self.report["left"] == {"pieces": 3, "last": "abort"}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("surface", SURFACES)
class TestOfficial:
    @pytest.fixture(autouse=True)
    def _report(self, official_reports: Reports, surface: str, provider: str) -> None:
        self.report = official_reports[f"{surface} {provider}"]

    def test_text(self, surface: str, provider: str) -> None:
        reason = {"chat": "stop", "responses": "completed", "messages": "end_turn"}[surface]
        assert self.report["plain"] == {"text": SAY, "reason": reason, "output": 8, "model": "sim:echo"}
        assert self.report["stream"] == {"text": SAY, "several": True}

    def test_an_error_before_the_answer(self, surface: str, provider: str) -> None:
        told = self.report["refused"]
        assert (told["kind"], told["status"]) == ("BadRequestError", 400)
        assert "maximum context length" in told["message"]

    def test_an_error_in_the_middle_of_the_answer(self, surface: str, provider: str) -> None:
        told = self.report["cut"]
        assert told["text"] == "one two three"
        assert told["error"]["kind"] == "APIError"
        assert "answer" in told["error"]["message"]

    def test_leaving_in_the_middle_of_the_answer(self, surface: str, provider: str) -> None:
        assert self.report["left"]["pieces"] == 3


def test_whoever_leaves_has_the_provider_stop(ai_reports: Reports, official_reports: Reports) -> None:
    assert ai_reports["all"]["cancelled"] == len(AI_CLIENTS) * ON_A_SOCKET
    assert official_reports["all"]["cancelled"] == len(SURFACES) * ON_A_SOCKET
