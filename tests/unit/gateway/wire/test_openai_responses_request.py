from dataclasses import dataclass, replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import (
    Ask,
    Media,
    Output,
    Reasoning,
    Refusal,
    Said,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from backstay.gateway.wire.responses import OpenAIResponses
from backstay.kernel.errors import BadRequest

wire = OpenAIResponses()


@dataclass(frozen=True)
class Plain:
    max_tokens_field: str = "max_completion_tokens"
    developer_role: bool = True
    default_max_tokens: int = 4096


def asked(**fields):
    return {"model": "gpt-5.2", "input": "Hi", **fields}


def fault(call, *args):
    """The field that a refusal names."""
    with pytest.raises(BadRequest) as caught:
        call(*args)
    return caught.value.errors[0].field


def test_a_text_is_one_turn_of_the_user():
    ask = wire.read(asked(instructions="Be kind.", stream=True, temperature=0.5, top_p=1, max_output_tokens=99))
    assert ask == Ask(
        "gpt-5.2",
        (Turn("user", (Text("Hi"),)),),
        system=(Text("Be kind."),),
        max_tokens=99,
        temperature=0.5,
        top_p=1,
        stream=True,
    )


def test_a_conversation_with_tools_and_thoughts_is_read_into_turns():
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    ask = wire.read(
        asked(
            input=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}, picture]},
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
                    "encrypted_content": "gAAA",
                },
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Wait.", "annotations": []}],
                },
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"in":"Rome"}', "id": "f1"},
                {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
                {"role": "user", "content": "So?"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                {"role": "user", "content": "One."},
                {"role": "user", "content": "Two."},
                {"role": "system", "content": "Now be long."},
            ]
        )
    )
    assert ask.system == (Text("Be brief."), Text("Now be long."))
    assert ask.turns == (
        Turn("user", (Text("Weather?"), Media("image", "image/png", "AAAA", detail="low"))),
        Turn(
            "assistant",
            (
                Thinking("a\n\nb", "gAAA", origin="openai-responses", id="rs_1"),
                Text("Wait."),
                ToolCall("c1", "weather", '{"in":"Rome"}'),
                ToolCall("c2", "time", "{}"),
            ),
        ),
        Turn(
            "user",
            (ToolResult("c1", (Text("sunny"),), "weather"), ToolResult("c2", (Text("noon"),), "time"), Text("So?")),
        ),
        Turn("assistant", (Refusal("No."),)),
        Turn("user", (Text("One."),)),
        Turn("user", (Text("Two."),)),
    )


def test_pictures_and_files_are_read_from_data_urls_addresses_and_ids():
    parts = [
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
        {"type": "input_file", "filename": "a.csv", "file_data": "YSxi"},
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
        {"type": "input_file", "file_id": "file-2"},
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
        {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}},
    ]
    assert wire.read(asked(input=[{"role": "user", "content": parts}])).turns[0].parts == (
        Media("image", url="https://example.org/a.png"),
        Media("image", file="file-1"),
        Media("document", "application/pdf", "JVBE", name="a.pdf"),
        Media("document", "text/csv", "YSxi", name="a.csv"),
        Media("document", url="https://example.org/a.pdf"),
        Media("document", file="file-2"),
        Media("audio", "audio/wav", "UklG"),
        Text("x", {"type": "ephemeral", "ttl": "1h"}),
    )


def test_tools_choices_formats_and_reasoning_are_read():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask = wire.read(
        asked(
            tools=[{"type": "function", "name": "add", "description": "Adds.", "parameters": schema, "strict": True}],
            tool_choice={"type": "function", "name": "add"},
            parallel_tool_calls=False,
            text={
                "format": {"type": "json_schema", "name": "sum", "schema": schema, "strict": True},
                "verbosity": "low",
            },
            reasoning={"effort": "high", "summary": "auto"},
            safety_identifier="u1",
        )
    )
    assert ask.tools == (Tool("add", "Adds.", schema, strict=True),)
    assert ask.tool_choice == ToolChoice("tool", "add")
    assert ask.parallel_tools is False
    assert ask.output == Output(schema, "sum", strict=True)
    assert ask.reasoning == Reasoning("high", shown=True)
    assert ask.user == "u1"
    assert wire.read(asked(tool_choice="required")).tool_choice == ToolChoice("any")
    assert wire.read(asked(text={"format": {"type": "json_object"}})).output == Output()
    assert wire.read(asked(text={"format": {"type": "text"}})).output is None
    assert wire.read(asked(reasoning={"effort": "max"})).reasoning == Reasoning("xhigh")
    assert wire.read(asked(reasoning={"effort": None})).reasoning is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"moderation": {"model": "m", "policy": {"input": {"mode": "block"}}}}, "moderation.policy"),
        ({"tools": [{"type": "web_search"}], "max_tool_calls": 3}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a"}, {"type": "mcp", "server_label": "x"}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "a"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "input[0].type"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"}]}, "input[0].type"),
    ],
)
def test_what_only_openai_can_do_passes_there_and_is_refused_by_name_elsewhere(fields, named):
    body = asked(**fields)
    assert wire.check(body).model == "gpt-5.2"
    assert wire.native(body, body["model"]) == body
    assert fault(wire.read, body) == named
    with pytest.raises(BadRequest, match="cannot be translated"):
        wire.read(body)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"tools": {}}, "tools"),
        ({"reasoning": "high"}, "reasoning"),
        ({"metadata": []}, "metadata"),
        ({"user": 7}, "user"),
    ],
)
def test_every_wrong_field_that_the_gateway_relies_on_is_named_at_the_door(fields, named):
    assert fault(wire.check, asked(**fields)) == named


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"instructions": []}, "instructions"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "parameters": []}]}, "tools[0].parameters"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].file_data"),
        ({"input": [{"role": "system", "content": [{"type": "refusal", "refusal": "x"}]}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "a", "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input[0].output"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary[0].text"),
        (
            {"input": [{"type": "reasoning", "encrypted_content": "backstay-sealed:AAAA"}]},
            "input[0].encrypted_content",
        ),
        ({"input": [{"type": 7}]}, "input[0].type"),
    ],
)
def test_every_wrong_field_is_named_when_it_is_translated(fields, named):
    assert fault(wire.read, asked(**fields)) == named


def test_the_error_body_has_the_shape_that_clients_read():
    with pytest.raises(BadRequest) as caught:
        wire.check({"model": "m"})
    error = orjson.loads(wire.error_body(caught.value))["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "input", "bad_request")
    assert "`input` is wrong" in error["message"]


def test_the_door_counts_what_routing_and_budgets_need():
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 10**6}
    body = asked(
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "y" * 1000}, picture]},
            {"type": "function_call_output", "call_id": "c", "output": [picture]},
        ],
        tools=[{"type": "function", "name": "a"}],
        reasoning={"effort": "low"},
        metadata={"feature": "x"},
        max_output_tokens=50,
        user="u",
    )
    found = wire.check(body)
    assert (found.turns, found.tools, found.media, found.reasoning) == (2, 1, 2, True)
    assert (found.max_tokens, found.user, found.metadata, found.stream) == (50, "u", {"feature": "x"}, False)
    assert 2 * 8192 + 1000 <= found.input_bound < 2 * 8192 + 2000
    assert wire.check(asked(input="x" * 1000)).input_bound >= 1000
    assert wire.check(asked(input="x" * 1000), size=5000).input_bound == 5000


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}, "input": None},
        {"prompt": {"id": "pmpt_1"}, "input": None},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"id": "msg_1"}]},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_what_the_provider_adds_by_itself_is_reserved_for(fields):
    assert wire.check(asked(**fields)).input_bound >= 400_000
    assert wire.check(asked(tools=[{"type": "function", "name": "a"}])).input_bound < 1000


def written(ask, quirks=None):
    return wire.write(ask, quirks or Plain())


def simple(**fields):
    return Ask("gpt-5.2", (Turn("user", (Text("Hi"),)),), **fields)


def test_a_written_request_asks_for_nothing_to_be_kept():
    assert written(simple(system=(Text("Be kind."), Text("Be brief.")))) == {
        "model": "gpt-5.2",
        "instructions": "Be kind.\n\nBe brief.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "store": False,
    }


@pytest.mark.parametrize(("asked_for", "sent"), [(1, 16), (15, 16), (16, 16), (17, 17)])
def test_openai_is_never_asked_for_fewer_tokens_than_it_takes(asked_for, sent):
    assert written(simple(max_tokens=asked_for))["max_output_tokens"] == sent


def test_instructions_alone_become_a_message():
    ask = Ask("m", (), system=(Text("Say hi."),))
    assert written(ask)["input"] == [{"type": "message", "role": "developer", "content": "Say hi."}]
    assert written(ask, Plain(developer_role=False))["input"][0]["role"] == "system"


def test_a_function_that_says_nothing_about_strict_stays_lax():
    body = written(simple(tools=(Tool("now"), Tool("add", "Adds.", {"type": "object"}, strict=True))))
    nothing = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "name": "now", "parameters": nothing, "strict": False},
        {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True, "description": "Adds."},
    ]


def test_a_choice_among_no_tools_is_not_sent():
    assert written(simple(tool_choice=ToolChoice("auto"), parallel_tools=True)).keys() == {"model", "input", "store"}


@pytest.mark.parametrize(
    ("reasoning", "sent"),
    [
        (Reasoning("minimal"), {"effort": "minimal"}),
        (Reasoning("high", shown=True), {"effort": "high", "summary": "auto"}),
        (Reasoning(budget=1024), {"effort": "low"}),
        (Reasoning(budget=8000, shown=True), {"effort": "medium", "summary": "auto"}),
        (Reasoning(budget=32_000), {"effort": "high"}),
        (Reasoning(shown=True), {"summary": "auto"}),
    ],
)
def test_thinking_is_asked_for_with_what_lets_it_come_back(reasoning, sent):
    body = written(simple(reasoning=reasoning))
    assert (body["reasoning"], body["include"]) == (sent, ["reasoning.encrypted_content"])


@pytest.mark.parametrize("reasoning", [None, Reasoning(budget=0), Reasoning(shown=False)])
def test_models_that_do_not_think_are_not_asked_for_thoughts(reasoning):
    assert written(simple(reasoning=reasoning)).keys() == {"model", "input", "store"}
    assert "include" not in written(simple(reasoning=Reasoning("none")))


def test_only_own_thoughts_go_back():
    thoughts = (
        Thinking("mine", "gAAA", origin="openai-responses", id="rs_1"),
        Thinking("theirs", "EqoB", origin="anthropic"),
        Thinking("", "EqoC", redacted=True, origin="anthropic"),
        Thinking("nobody's"),
        Thinking("unsigned", origin="openai-responses", id="rs_2"),
    )
    body = written(Ask("m", (Turn("assistant", (*thoughts, Text("Hi"))),)))
    summary = [{"type": "summary_text", "text": "mine"}]
    assert body["input"][0] == {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "gAAA"}
    assert [item["type"] for item in body["input"]] == ["reasoning", "message"]
    assert body["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize(("ask", "named"), [(simple(stop=("\n",)), "stop"), (simple(choices=2), "n")])
def test_what_would_change_the_answer_is_refused_when_it_cannot_be_said(ask, named):
    assert fault(written, ask) == named


@pytest.mark.parametrize(
    "turn",
    [
        Turn("user", (Media("audio", "audio/wav", "UklG"),)),
        Turn("user", (Media("video", url="https://example.org/a.mp4"),)),
        Turn("user", (ToolResult("c", (Media("audio", "audio/wav", "UklG"),)),)),
    ],
)
def test_media_that_the_format_has_no_place_for_are_refused(turn):
    with pytest.raises(BadRequest, match=r"takes no (audio|video)"):
        written(Ask("m", (turn,)))


def test_a_foreign_seal_is_not_relayed_to_openai():
    said = wire.write_answer(_said(Thinking("Hm", "EqoB", origin="anthropic"), Text("Hi")))
    thought, message = said["output"]
    own = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    body = asked(input=[own, thought, message])
    assert wire.native(body, body["model"]) == asked(input=[own, message])
    assert body["input"] == [own, thought, message]
    assert wire.native(asked(input=[own]), body["model"]) == asked(input=[own])


def _said(*parts):
    return Said("msg_1", "claude", parts, None)


# What this format can say, in the shape in which it reads it back.
_words = st.text(min_size=1, max_size=8)
_text = st.builds(Text, _words)
_media = st.one_of(
    st.builds(Media, st.just("image"), st.just("image/png"), st.just("AAAA"), detail=st.sampled_from([None, "low"])),
    st.builds(Media, st.just("image"), url=st.just("https://example.org/a.png")),
    st.builds(Media, st.just("image"), file=st.just("file-1")),
    st.builds(Media, st.just("document"), st.just("application/pdf"), st.just("JVBE"), name=st.just("a.pdf")),
    st.builds(Media, st.just("document"), url=st.just("https://example.org/a.pdf")),
    st.builds(Media, st.just("document"), file=st.just("file-2")),
)
_own = st.builds(
    Thinking, st.text(max_size=8), _words, origin=st.just("openai-responses"), id=st.none() | st.just("rs_1")
).filter(lambda thought: not thought.signature.startswith("backstay-sealed:"))
_call = st.builds(ToolCall, _words, _words, st.just('{"a":1}'))
_result = st.builds(ToolResult, st.just("unknown-call"), st.lists(_text | _media, max_size=2).map(tuple))
_assistant = st.lists(_text | _own | _call | st.builds(Refusal, _words), min_size=1, max_size=4)
_user = st.tuples(st.lists(_result, max_size=2), st.lists(_text | _media, max_size=3)).filter(any)
_turns = st.lists(st.tuples(_user, _assistant), min_size=1, max_size=3).map(
    lambda pairs: tuple(
        turn for user, said in pairs for turn in (Turn("user", (*user[0], *user[1])), Turn("assistant", tuple(said)))
    )
)
_schema = st.just({"type": "object", "properties": {"a": {"type": "string"}}})
_asks = st.builds(
    Ask,
    st.just("gpt-5.2"),
    _turns,
    system=st.lists(_text, max_size=1).map(tuple),
    tools=st.lists(st.builds(Tool, _words, st.none() | _words, _schema, st.booleans()), min_size=1, max_size=2).map(
        tuple
    ),
    tool_choice=st.none()
    | st.builds(ToolChoice, st.sampled_from(["auto", "none", "any"]))
    | st.builds(ToolChoice, st.just("tool"), _words),
    parallel_tools=st.none() | st.booleans(),
    max_tokens=st.none() | st.integers(16, 10**6),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    output=st.none() | st.just(Output()) | st.builds(Output, _schema, _words, st.none() | st.booleans()),
    reasoning=st.none()
    | st.builds(
        Reasoning,
        st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        shown=st.none() | st.just(True),
    ),
    user=st.none() | _words,
    stream=st.booleans(),
)


@given(_asks)
def test_what_is_written_is_read_again(ask):
    body = orjson.loads(orjson.dumps(written(ask)))
    wire.check(body)
    # Two neighbouring results of one id cannot be told apart by their names, which are read from the calls.
    assert wire.read(body) == replace(ask, turns=tuple(_named(ask.turns)))


def _named(turns):
    names = {part.id: part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}
    for turn in turns:
        yield Turn(
            turn.role,
            tuple(
                replace(part, name=names.get(part.call)) if isinstance(part, ToolResult) else part
                for part in turn.parts
            ),
        )


@given(_asks)
def test_foreign_thoughts_come_back_through_a_client_as_they_were(ask):
    foreign = (
        Thinking("Hm, so.", "EqoBCkgIARABGAIiQ", origin="anthropic"),
        Thinking("", "EmwKAhgBEgy3va3pzix", redacted=True, origin="anthropic"),
        ToolCall("g1", "now", "{}", signature="CiQBVKhc7"),
    )
    output = wire.write_answer(_said(*foreign))["output"]
    body = written(ask)
    body["input"] += orjson.loads(orjson.dumps(output))
    assert wire.read(body).turns[-1].parts[-3:] == foreign


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_keys = ["text", "refusal", "image_url", "file_id", "file_data", "input_audio", "detail", "prompt_cache_breakpoint"]
_part = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio"])
        | _json
    },
    optional=dict.fromkeys(_keys, _json | st.just("data:image/png;base64,AA")),
)
_contents = st.lists(_part, max_size=3) | _json
_item = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", "function_call", "function_call_output"]) | _json,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | _json,
        "content": _contents,
        "output": _contents,
        "encrypted_content": _json | st.text(max_size=9).map("backstay-sealed:".__add__),
        **dict.fromkeys(["summary", "call_id", "name", "arguments", "id"], _json),
    },
)
_known = {
    "model": st.just("m") | _json,
    "input": st.just("Hi") | st.lists(_item, max_size=4) | _json,
    "text": _json | st.fixed_dictionaries({"format": _json | st.fixed_dictionaries({"type": _json, "schema": _json})}),
    "tools": _json | st.lists(st.fixed_dictionaries({"type": st.just("function") | _json, "name": _json}), max_size=2),
}
_others = ["instructions", "stream", "stream_options", "max_output_tokens", "temperature", "top_p", "tool_choice"]
_others += ["parallel_tool_calls", "reasoning", "user", "safety_identifier", "metadata", "prompt", "background"]
_others += ["previous_response_id", "conversation", "moderation"]


@given(st.fixed_dictionaries({}, optional=_known | dict.fromkeys(_others, _json)))
def test_any_object_is_read_or_refused_by_the_name_of_a_field(body):
    for read in (wire.check, wire.read):
        refused = None
        try:
            found = read(body)
        except BadRequest as error:
            refused = error
        if refused is None:
            assert found.model == body["model"]
        else:
            assert refused.errors[0].field.partition(".")[0].partition("[")[0] in {*_known, *_others}


@given(st.fixed_dictionaries({"input": st.lists(_item, max_size=4) | _json}))
def test_making_a_request_native_never_fails(body):
    assert wire.native(body, "m").keys() == {*body, "model"}
