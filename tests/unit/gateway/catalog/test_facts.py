"""What is read from a request, in any format, and the conversation it belongs to."""

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.catalog import Facts, glance
from backstay.gateway.dialogue import Request
from backstay.kernel.errors import BadRequest

TENANT, OTHER = UUID(int=1), UUID(int=2)
CODE = "Why does this fail?\n```python\nprint(1)\n```"

CHAT = {
    "model": "smart",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": CODE}, {"type": "image_url", "image_url": {"url": "x"}}]},
    ],
    "tools": [{"type": "function"}, {"type": "function"}],
    "reasoning_effort": "high",
    "max_completion_tokens": 300,
    "response_format": {"type": "json_schema"},
}
MESSAGES = {
    "model": "smart",
    "system": [{"type": "text", "text": "Be kind."}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "text", "text": CODE}, {"type": "image", "source": {}}]},
    ],
    "tools": [{"name": "a"}, {"name": "b"}],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "max_tokens": 300,
    "output_format": {"type": "json_schema"},
}
RESPONSES = {
    "model": "smart",
    "instructions": "Be kind.",
    "input": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "input_text", "text": CODE}, {"type": "input_image", "image_url": "x"}]},
    ],
    "tools": [{"type": "function"}, {"type": "web_search"}],
    "reasoning": {"effort": "high"},
    "max_output_tokens": 300,
    "text": {"format": {"type": "json_schema"}},
}
GEMINI = {
    "model": "smart",
    "systemInstruction": {"parts": [{"text": "Be kind."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Hello"}]},
        {"role": "model", "parts": [{"text": "Hi"}]},
        {"parts": [{"text": CODE}, {"inlineData": {"mimeType": "image/png"}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}],
    "generationConfig": {
        "thinkingConfig": {"thinkingBudget": 1024},
        "maxOutputTokens": 300,
        "responseMimeType": "application/json",
    },
}
BODIES_BY_FORMAT = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES, "gemini": GEMINI}
FORMATS = pytest.mark.parametrize("body", BODIES_BY_FORMAT.values(), ids=BODIES_BY_FORMAT.keys())


def of(body, headers=None, tenant=TENANT) -> Facts:
    return Facts.of(glance.request(body), body, headers or {}, tenant=tenant, feature="default")


@FORMATS
def test_every_format_tells_the_same(body) -> None:
    facts = of(body)
    assert facts.structured
    assert facts.code
    request = facts.request
    assert (request.turns, request.tools, request.media, request.reasoning) == (3, 2, 1, True)
    assert (request.model, request.max_tokens) == ("smart", 300)
    assert facts.conversation == of(CHAT).conversation


@FORMATS
def test_the_next_turn_belongs_to_the_same_conversation(body) -> None:
    name = next(name for name in ("messages", "input", "contents") if name in body)
    later = {**body, name: [*body[name], {"role": "user", "content": "More", "parts": [{"text": "More"}]}]}
    assert of(later).conversation == of(body).conversation


def test_another_beginning_is_another_conversation() -> None:
    def said(system: str, user: str) -> str | None:
        return of({"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}).conversation

    assert len({said("a", "b"), said("a", "c"), said("b", "b"), said("ab", ""), said("", "ab")}) == 5


def test_two_tenants_never_share_a_conversation() -> None:
    assert of(CHAT).conversation != of(CHAT, tenant=OTHER).conversation
    named = {"backstay-conversation": "7"}
    assert of(CHAT, named).conversation != of(CHAT, named, OTHER).conversation


def test_the_header_names_the_conversation() -> None:
    named = {"backstay-conversation": "7"}
    assert of(CHAT, named).conversation == of(MESSAGES | {"system": "else"}, named).conversation
    assert of(CHAT, named).conversation not in (
        of(CHAT).conversation,
        of(CHAT, {"backstay-conversation": "8"}).conversation,
    )


def test_a_request_without_a_text_of_the_user_has_no_conversation() -> None:
    assert of({"messages": [{"role": "user", "content": [{"type": "image"}]}]}).conversation is None
    assert of({"input": [[1, 2, 3]]}).conversation is None


def test_the_task_comes_from_the_header_or_the_metadata() -> None:
    request = Request("smart", metadata={"task": "summary"})

    def task(headers):
        return Facts.of(request, {}, headers, tenant=TENANT, feature="f").task

    assert task({}) == "summary"
    assert task({"backstay-task": "chat"}) == "chat"


@pytest.mark.parametrize("name", ["backstay-task", "backstay-conversation"])
@pytest.mark.parametrize("value", ["x" * 257, "a\x00b", "a\nb", "\ud800"])
def test_a_tag_that_is_no_tag_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of(CHAT, {name: value})
    assert caught.value.errors[0].field == name


def test_a_task_in_the_metadata_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadRequest):
        of({"metadata": {"task": {"a": 1}}})


@pytest.mark.parametrize(
    "text", ["def main():", " class Thing(Base):", "#include <x>", "SELECT 1", "const a = 1", "```"]
)
def test_code_is_seen(text: str) -> None:
    assert glance.code({"messages": [{"role": "user", "content": f"look:\n{text}\n"}]})


@pytest.mark.parametrize("text", ["Select a gift from the list.", "first class: how much?", "I import goods.", "var"])
def test_prose_is_no_code(text: str) -> None:
    assert not glance.code({"messages": [{"role": "user", "content": text}]})


def test_only_what_the_user_said_last_counts_as_code() -> None:
    turns = [
        {"role": "user", "content": CODE},
        {"role": "assistant", "content": CODE},
        {"role": "user", "content": "Thanks"},
    ]
    assert not glance.code({"messages": turns})


def test_a_text_made_to_be_slow_to_search_is_searched_quickly() -> None:
    start = time.thread_time()  # of the processor, whatever else runs
    for text in ("\n" * 100_000, " " * 100_000, "\t\n" * 50_000, "import a." * 20_000):
        glance.code({"messages": [{"role": "user", "content": text}]})
    assert time.thread_time() - start < 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *(
            "messages",
            "input",
            "contents",
            "system",
            "instructions",
            "systemInstruction",
            "tools",
            "n",
            "model",
            "user",
        ),
        *("max_tokens", "role", "content", "parts", "text", "type", "format", "reasoning", "thinking", "metadata"),
        *("generationConfig", "response_format", "thinkingConfig", "functionDeclarations", "inlineData"),
    ]
)
INNER = st.recursive(JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
BODIES = st.dictionaries(KEYS, INNER)


@given(BODIES)
def test_no_body_is_too_strange_to_look_at(body) -> None:
    request = glance.request(body)
    assert request.choices >= 1
    assert request.input_bound > 0
    Facts.of(Request("m"), body, {}, tenant=TENANT, feature="f")


def test_a_body_that_cannot_be_written_as_json_still_has_a_size() -> None:
    assert glance.request({"model": "\ud800"}).input_bound > 0
