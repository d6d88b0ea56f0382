"""`llm-comply`, which checks answers against the published schemas of the formats, on every surface of ours."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
_PROVIDERS = ["", "openai:", "anthropic:", "gemini:"]
# base, number of checks, how the key is sent. Of Google's Interactions API, which the suite knows as well, nothing is
# served.
_SURFACES: dict[str, tuple[str, int, list[str]]] = {
    "open-responses": ("/v1", 13, []),
    "openai-chat": ("/v1", 9, []),
    "anthropic": ("/v1", 9, ["--auth-header", "x-api-key", "--no-bearer"]),
    "google-genai": ("", 9, ["--auth-header", "x-goog-api-key", "--no-bearer"]),
}
_HEADERS = "anthropic-version:2023-06-01,backstay-sim:think=7"
# The suite's list of events has two of them under names that neither OpenAI's clients nor its own schemas know.
_ITS_MISTAKE = "unknown SSE event type: response.reasoning_summary_text."
# Compacting a conversation is for whoever keeps it, and we keep none: the suite accepts that nothing is served there.
_WARNED = {("open-responses", "compact-response")}


@dataclass(frozen=True)
class Comply:
    address: str
    key: str

    def results(self, form: str, model: str) -> list[dict[str, Any]]:
        base, _, more = _SURFACES[form]
        asked = ["--format", form, "-u", self.address + base, "-k", self.key, "-m", model, "-H", _HEADERS, *more]
        command = [sys.executable, str(Path(__file__).with_name("comply.py")), "--json", "-i", _ITS_MISTAKE, *asked]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert told.stdout.startswith("{"), told.stderr
        return list(json.loads(told.stdout)["results"])


@pytest.fixture
def comply(address: str, key: str) -> Comply:
    return Comply(address, key)


@pytest.mark.parametrize("provider", _PROVIDERS)
@pytest.mark.parametrize("form", _SURFACES)
def test_every_check_passes(comply: Comply, form: str, provider: str) -> None:
    results = comply.results(form, f"{provider}sim:tools")
    assert len(results) == _SURFACES[form][1]
    assert {result["id"]: result["errors"] for result in results if result["status"] != "passed"} == {}
    warned = {(form, result["id"]): result["warnings"] for result in results if result.get("warnings")}
    assert warned.keys() == {one for one in _WARNED if one[0] == form}, warned
