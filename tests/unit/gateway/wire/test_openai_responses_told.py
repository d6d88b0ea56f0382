"""What an answer of the Responses API tells again of its request."""

from openai.types.responses import Response

from backstay.gateway.dialogue import Began, Said, Stop
from backstay.gateway.wire.responses import OpenAIResponses

wire = OpenAIResponses()
BEGAN = Began("1", "m")


def test_an_answer_tells_its_request_again_whole_and_streamed():
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    request = wire.check(
        {
            "model": "sim:echo",
            "input": "Hi",
            "temperature": 0.2,
            "instructions": "Be kind.",
            "reasoning": {"summary": "auto"},
            "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "a", "schema": {}}},
            "tools": [tool, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "add"},
            "parallel_tool_calls": False,
            "top_p": None,
        }
    )
    for told in (
        wire.write_answer(Said("1", "m", (), Stop.END), request),
        wire.writer(request).feed([BEGAN])[0]["response"],
    ):
        Response.model_validate(told)
        assert (told["temperature"], told["top_p"], told["instructions"]) == (0.2, 1.0, "Be kind.")
        assert told["reasoning"] == {"effort": None, "summary": "auto"}
        assert told["text"] == {
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "a", "schema": {}, "description": None, "strict": False},
        }
        assert told["tools"] == [{**tool, "description": None, "strict": None}, {"type": "web_search"}]
        assert (told["tool_choice"], told["parallel_tool_calls"]) == ({"type": "function", "name": "add"}, False)
