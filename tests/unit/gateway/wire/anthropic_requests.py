"""A request to the Messages API with all that other formats know as well, and what writes one."""

from dataclasses import dataclass

from backstay.gateway.wire.anthropic import WIRE


@dataclass(frozen=True)
class Quirks:
    max_tokens_field: str = "max_tokens"
    developer_role: bool = False
    default_max_tokens: int = 4096


CACHE = {"type": "ephemeral", "ttl": "1h"}
PIXEL = "iVBORw0KGgoAAAANSUhEUg=="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FULL = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 16_000,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": CACHE}, {"type": "text", "text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is on these?", "cache_control": CACHE},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                    "cache_control": CACHE,
                },
                {"type": "image", "source": {"type": "url", "url": "https://pictures.test/a.jpg"}},
                {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                    "title": "Bill",
                    "cache_control": CACHE,
                },
                {"type": "document", "source": {"type": "url", "url": "https://papers.test/a.pdf"}},
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
                    "title": "Letter",
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCg=="},
                {"type": "redacted_thinking", "data": "EmwKAh=="},
                {"type": "text", "text": "I look."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "weather",
                    "input": {"city": "Bern", "n": [1, 2.5, None]},
                    "cache_control": CACHE,
                },
                {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12 °C", "cache_control": CACHE},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [
                        {"type": "text", "text": "a picture"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    ],
                    "is_error": True,
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ],
    "tools": [
        {
            "name": "weather",
            "description": "Weather of a city",
            "input_schema": SCHEMA,
            "strict": True,
            "cache_control": CACHE,
        },
        {"name": "time", "input_schema": {"type": "object", "properties": {}}},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 4096},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "stop_sequences": ["###", "END"],
    "metadata": {"user_id": "u-1"},
    "stream": True,
}


def written(ask, **quirks):
    return WIRE.write(ask, Quirks(**quirks))
