import base64
import copy
from dataclasses import replace

import orjson
import pytest

from backstay.gateway.dialogue import (
    Ask,
    Media,
    Output,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from backstay.gateway.wire.anthropic import WIRE
from backstay.gateway.wire.anthropic.thoughts import without_foreign_thoughts
from backstay.kernel.errors import BadRequest
from unit.gateway.wire.anthropic_requests import CACHE, FULL, PIXEL, SCHEMA, written


def ask_of(*turns, **rest):
    return Ask(model=rest.pop("model", "claude-haiku-4-5"), turns=turns, **rest)


def said(role, *parts):
    return Turn(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


USER = said("user", "Hello")


def test_a_request_with_everything_comes_out_as_it_went_in():
    assert written(WIRE.read(FULL)) == FULL


def test_what_a_request_with_everything_says():
    ask = WIRE.read(FULL)
    assert ask.system == (Text("Be kind.", CACHE), Text("Be brief."))
    first, second, third = ask.turns
    assert first.parts[1:4] == (
        Media("image", "image/png", PIXEL, cache=CACHE),
        Media("image", url="https://pictures.test/a.jpg"),
        Media("image", file="file_1"),
    )
    assert first.parts[6] == Media("document", "text/plain", base64.b64encode("Grüße".encode()).decode(), name="Letter")
    assert second.parts[:2] == (
        Thinking("Let me see.", "EqQBCg==", origin="anthropic"),
        Thinking("", "EmwKAh==", redacted=True, origin="anthropic"),
    )
    assert second.parts[3] == ToolCall("toolu_1", "weather", '{"city":"Bern","n":[1,2.5,null]}', cache=CACHE)
    assert third.parts[0] == ToolResult("toolu_1", (Text("12 °C"),), cache=CACHE)
    assert third.parts[1].error
    assert ask.tools[0] == Tool("weather", "Weather of a city", SCHEMA, True, CACHE)
    assert (ask.tool_choice, ask.parallel_tools) == (ToolChoice("auto"), False)
    assert ask.output == Output(SCHEMA)
    assert (ask.max_tokens, ask.stop, ask.user, ask.stream) == (16_000, ("###", "END"), "u-1", True)


def test_instructions_in_the_middle_keep_their_rank():
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}
    ask = WIRE.read(body | {"system": "first"})
    assert ask.system == (Text("first"), Text("b"))
    assert ask.turns == (said("user", "a"),)


def test_sources_and_contexts_of_documents_become_text():
    content = [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "context": "why"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "y"}]}, "title": "T"},
        {"type": "search_result", "title": "A", "source": "https://a.test", "content": [{"type": "text", "text": "z"}]},
    ]
    parts = WIRE.read({"model": "m", "messages": [{"role": "user", "content": content}]}).turns[0].parts
    assert [part.text for part in parts if isinstance(part, Text)] == ["why", "T", "y", "A\nhttps://a.test", "z"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools[0].type"),
        ({"mcp_servers": [{"url": "https://mcp.test"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [3]}, "stop_sequences[0]"),
        ({"metadata": {"user_id": 4}}, "metadata.user_id"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(change, field):
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]} | change
    with pytest.raises(BadRequest) as caught:
        WIRE.read(body)
    assert caught.value.errors[0].field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"system": 4}, "system"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"metadata": 4}, "metadata"),
        ({"thinking": True}, "thinking"),
    ],
)
def test_the_surface_asks_for_what_anthropic_asks_for(change, field):
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]} | change
    with pytest.raises(BadRequest) as caught:
        WIRE.check(body)
    assert caught.value.errors[0].field == field


def test_a_checked_request_says_what_routing_and_budgets_need():
    request = WIRE.check(FULL, size=100_000)
    assert (request.model, request.stream, request.max_tokens) == ("claude-sonnet-4-6", True, 16_000)
    assert (request.turns, request.tools, request.media) == (3, 2, 6)
    assert (request.reasoning, request.user, request.metadata) == (True, "u-1", {"user_id": "u-1"})
    assert WIRE.check({"model": "m", "max_tokens": 0, "messages": FULL["messages"]}).max_tokens == 0


def test_the_bound_counts_bytes_but_not_those_of_pictures():
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 10**6}}
    for content in ([picture], [{"type": "tool_result", "tool_use_id": "t", "content": [picture]}]):
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [*content, text(1000)]}]}
        assert 1000 + 8192 <= WIRE.check(body).input_bound < 12_000
    paper = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 10**6}}
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [paper]}]}
    assert 100_000 < WIRE.check(body).input_bound < 200_000
    plain = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x" * 1000}]}
    assert WIRE.check(plain).input_bound >= 1000


def text(length):
    return {"type": "text", "text": "y" * length}


def test_an_estimate_takes_four_bytes_for_a_token_and_1600_for_a_picture():
    body = {"model": "m", "messages": [{"role": "user", "content": [text(4000)]}]}
    assert 1000 <= WIRE.count(body)["input_tokens"] < 1020
    body["messages"][0]["content"].append({"type": "image", "source": {"type": "url", "url": "https://a.test"}})
    assert 2600 <= WIRE.count(body)["input_tokens"] < 2620
    more = body | {"tools": [{"name": "f", "input_schema": {"type": "object"}, "description": "z" * 400}]}
    assert WIRE.count(more)["input_tokens"] >= WIRE.count(body)["input_tokens"] + 100
    with pytest.raises(BadRequest):
        WIRE.count({"model": "m"})


@pytest.mark.parametrize(
    "signature",
    ["", None, "backstay:no json", "backstay:[1]", 'backstay:["anthropic","forged",false,null]', "backstay:{}"],
)
def test_a_thought_without_a_signature_that_we_know_is_nobody_s(signature):
    block = {"type": "thinking", "thinking": "x", "signature": signature}
    ask = WIRE.read({"model": "m", "messages": [{"role": "assistant", "content": [block]}]})
    assert ask.turns[0].parts == (Thinking("x"),)


# Writing


def test_turns_of_the_same_role_become_one_and_results_come_first():
    body = written(
        ask_of(
            USER,
            said("assistant", "I look."),
            said("assistant", ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "f", "")),
            said("user", "meanwhile"),
            said("user", ToolResult("a", (Text("1"),))),
            said("user", ToolResult("b", ())),
        )
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in body["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    assert body["messages"][1]["content"][1]["input"] == {"x": 1}
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "text", "text": "meanwhile"},
    ]


def test_own_thoughts_lead_the_turn_and_those_of_others_are_left_out():
    own = Thinking("mine", "sig", origin="anthropic")
    other = Thinking("theirs", "enc", origin="openai-responses")
    unsigned = Thinking("nobody's", origin="anthropic")
    body = written(ask_of(USER, said("assistant", "so", other, own, unsigned), USER))
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "sig"},
        {"type": "text", "text": "so"},
    ]
    among = said("assistant", own, "so", replace(own, text="again"), ToolCall("a", "f", "{}"))
    body = written(ask_of(USER, among, said("user", ToolResult("a", ()))))
    assert [block["type"] for block in body["messages"][1]["content"]] == ["thinking", "text", "thinking", "tool_use"]


def test_empty_texts_and_turns_are_left_out():
    body = written(ask_of(USER, said("assistant", ""), said("user", " \n", "b"), system=(Text(""),)))
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "b"}]}
    ]
    assert "system" not in body


def test_instructions_alone_are_said_by_the_user():
    body = written(ask_of(system=(Text("Tell a joke."),)))
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Tell a joke."}]}]
    assert "system" not in body
    with pytest.raises(BadRequest):
        written(ask_of(said("user", " ")))


def test_an_answer_that_the_request_begins_ends_without_white_space_and_holds_no_thoughts():
    body = written(ask_of(USER, said("assistant", Thinking("t", "s", origin="anthropic"), 'The "best" is \n')))
    assert body["messages"][-1]["content"] == [{"type": "text", "text": 'The "best" is'}]


def test_arguments_that_are_no_object_are_kept_where_the_model_sees_them():
    calls = [ToolCall("a", "f", text) for text in ('{"x": ', "[1]", "7", '{"x": ' * 300 + "1" + "}" * 300)]
    body = written(ask_of(USER, said("assistant", *calls), USER))
    assert [block["input"] for block in body["messages"][1]["content"]] == [
        {"invalid_json": call.arguments} for call in calls
    ]
    orjson.dumps(body)


def test_an_id_of_characters_that_anthropic_refuses_is_replaced_alike_in_call_and_result():
    body = written(
        ask_of(
            USER, said("assistant", ToolCall("functions.f:0", "f", "{}")), said("user", ToolResult("functions.f:0", ()))
        )
    )
    call, result = body["messages"][1]["content"][0]["id"], body["messages"][2]["content"][0]["tool_use_id"]
    assert call == result
    assert call.startswith("toolu_")


def test_a_refusal_is_text():
    body = written(ask_of(USER, said("assistant", Refusal("No.")), USER))
    assert body["messages"][1]["content"] == [{"type": "text", "text": "No."}]


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (ask_of(USER, choices=2), "choices"),
        (ask_of(USER, stop=("\n",)), "stop[0]"),
        (ask_of(said("user", Media("audio", "audio/wav", "AAAA"))), "messages"),
        (ask_of(said("user", Media("image", data="AAAA"))), "messages"),
        (ask_of(said("user", Media("image"))), "messages"),
        (ask_of(said("user", Media("document", "application/msword", "AAAA"))), "messages"),
        (ask_of(said("user", Media("document", "text/csv", "no base64"))), "messages"),
        (ask_of(said("user", ToolResult("a", (Media("video", "video/mp4", "AAAA"),)))), "messages"),
        (ask_of(USER, output=Output({"type": "object", "additionalProperties": True})), "output.schema"),
    ],
)
def test_what_anthropic_has_no_word_for_is_refused_by_name(ask, field):
    with pytest.raises(BadRequest) as caught:
        written(ask)
    assert caught.value.errors[0].field == field


def test_plain_documents_of_any_kind_are_given_as_text():
    data = base64.b64encode(b"a;b").decode()
    body = written(ask_of(said("user", Media("document", "text/csv", data, name="t.csv"))))
    assert body["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "a;b"},
            "title": "t.csv",
        }
    ]


def test_json_of_any_shape_is_asked_for_in_words():
    body = written(ask_of(USER, output=Output(), system=(Text("Be kind."),)))
    assert "output_config" not in body
    assert body["system"][0]["text"] == "Be kind."
    assert "JSON" in body["system"][1]["text"]


def test_choices_of_tools_go_with_tools_only():
    tool = Tool("f", parameters={"properties": {"a": {"type": "string"}}})
    body = written(ask_of(USER, tools=(tool,), tool_choice=ToolChoice("tool", "f"), parallel_tools=True))
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}]
    assert body["tool_choice"] == {"type": "tool", "name": "f", "disable_parallel_tool_use": False}
    assert written(ask_of(USER, tools=(Tool("f"),), parallel_tools=False))["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    assert written(ask_of(USER, tools=(Tool("f"),), tool_choice=ToolChoice("none"), parallel_tools=False))[
        "tool_choice"
    ] == {"type": "none"}
    assert "tool_choice" not in written(ask_of(USER, tool_choice=ToolChoice("any")))


def test_a_limit_is_always_named():
    assert written(ask_of(USER), default_max_tokens=999)["max_tokens"] == 999
    assert written(ask_of(USER, max_tokens=7), default_max_tokens=999)["max_tokens"] == 7


def test_foreign_thoughts_are_taken_out_of_a_request_that_is_relayed():
    own = {"type": "thinking", "thinking": "", "signature": "EqQBCg=="}
    foreign = [
        {"type": "thinking", "thinking": "x", "signature": ""},
        {"type": "thinking", "thinking": "x"},
        {"type": "thinking", "thinking": "x", "signature": 'backstay:["gemini","s",false,null]'},
    ]
    clean = {
        "model": "m",
        "odd": 1,
        "messages": [{"role": "assistant", "content": [own, text(1)]}, 7, {"content": "x"}],
    }
    assert without_foreign_thoughts(clean) is clean
    mixed = {
        "model": "m",
        "odd": 1,
        "messages": [{"role": "assistant", "content": foreign}, *clean["messages"]],
    }
    before = copy.deepcopy(mixed)
    assert without_foreign_thoughts(mixed) == clean
    assert mixed == before
    assert without_foreign_thoughts({"messages": "x"}) == {"messages": "x"}
