"""What a Gemini model is asked, written from no one's words."""

from dataclasses import replace

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
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from backstay.gateway.wire.gemini import FOREIGN_SIGNATURE, Gemini, pack_id
from backstay.kernel.errors import BadRequest

gemini = Gemini()
OLD, NEW = "gemini-2.5-flash", "gemini-3-flash-preview"
HELLO = Turn("user", (Text("hello"),))
PIXEL = "iVBORw0KGgo="


def written(*turns, model=OLD, **more):
    return gemini.write(Ask(model, turns or (HELLO,), **more))


def fault(*turns, **more):
    with pytest.raises(BadRequest) as caught:
        written(*turns, **more)
    return caught.value.errors[0].field


def test_a_request_is_written_in_googles_names():
    assert written(
        HELLO,
        model=NEW,
        system=(Text("be kind"), Text("")),
        max_tokens=9,
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        stop=("END",),
        seed=1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        choices=2,
        output=Output({"type": "object"}),
        user="somebody",
        stream=True,
        parallel_tools=False,
    ) == {
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
        "systemInstruction": {"parts": [{"text": "be kind"}]},
        "generationConfig": {
            "maxOutputTokens": 9,
            "temperature": 0.0,
            "topP": 0.5,
            "topK": 3,
            "stopSequences": ["END"],
            "seed": 1,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "candidateCount": 2,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
    }


def test_a_bare_request_says_nothing_more_than_its_contents():
    assert written() == {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("any"), {"mode": "ANY"}),
        (ToolChoice("tool", "f"), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_the_choice_of_functions_is_written(choice, calling):
    body = written(tools=(Tool("f"),), tool_choice=choice)
    assert body["toolConfig"] == {"functionCallingConfig": calling}
    assert "toolConfig" not in written(tool_choice=choice)


def test_schemas_go_as_json_schema_without_what_gemini_does_not_know():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "kind": {"const": "cat", "title": "Kind"},
            "const": {"type": "string", "pattern": "a+"},
            "pet": {"$ref": "#/definitions/Pet", "description": "gone"},
            "all": {"allOf": [{"$ref": "#/$defs/Toy"}], "default": None},
        },
        "additionalProperties": False,
        "definitions": {"Pet": {"type": "object", "properties": {"legs": {"type": ["integer", "null"]}}}},
        "$defs": {"Toy": {"anyOf": [{"const": 4}, {"const": True}]}},
    }
    expected = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat"], "title": "Kind"},
            "const": {"type": "string", "pattern": "a+"},
            "pet": {"$ref": "#/$defs/Pet"},
            "all": {"$ref": "#/$defs/Toy"},
        },
        "additionalProperties": False,
        "$defs": {
            "Pet": {"type": "object", "properties": {"legs": {"type": ["integer", "null"]}}},
            "Toy": {"anyOf": [{"enum": [4]}, {"const": True}]},
        },
    }
    before = orjson.dumps(schema)
    body = written(tools=(Tool("f", "does", schema, strict=True),), output=Output(schema, "name", True))
    declared = {"name": "f", "description": "does", "parametersJsonSchema": expected}
    assert body["tools"] == [{"functionDeclarations": [declared]}]
    assert body["generationConfig"]["responseJsonSchema"] == expected
    assert orjson.dumps(schema) == before


@pytest.mark.parametrize("schema", [None, {}, {"type": "object", "properties": {}}, {"type": "object", "required": []}])
def test_a_function_that_takes_nothing_has_no_schema(schema):
    assert written(tools=(Tool("f", None, schema),))["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


def test_a_schema_without_end_is_refused():
    schema = {"type": "string"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    assert fault(tools=(Tool("f", None, {"properties": {"a": schema}}),)) == "parameters of f"


def test_calls_and_results_carry_ids_and_names():
    turns = (
        HELLO,
        Turn(
            "assistant", (Text("Let me look."), ToolCall("c1", "weather", '{"city":"Ulm"}'), ToolCall("c2", "now", ""))
        ),
        Turn("user", (ToolResult("c1", (Text('{"c":21}'),)),)),
        Turn("user", (Text("quick!"), ToolResult("c2", (Text("no clock"),), error=True))),
    )
    assert written(*turns)["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Let me look."},
                {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Ulm"}}},
                {"functionCall": {"id": "c2", "name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "weather", "response": {"c": 21}}},
                {"functionResponse": {"id": "c2", "name": "now", "response": {"error": "no clock"}}},
                {"text": "quick!"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("text", "response"), [("[1]", {"output": "[1]"}), ("", {"output": ""}), ("7", {"output": "7"})]
)
def test_what_is_no_object_stands_under_output(text, response):
    call = Turn("assistant", (ToolCall("c", "f", "{}"),))
    result = Turn("user", (ToolResult("c", (Text(text),)),))
    assert written(call, result)["contents"][1]["parts"][0]["functionResponse"]["response"] == response


def test_a_signature_comes_back_on_its_call_however_it_travelled():
    packed = pack_id("c1", "c2lnbmF0dXJl")
    for call in (ToolCall("c1", "f", "{}", "c2lnbmF0dXJl"), ToolCall(packed, "f", "{}")):
        result = ToolResult(call.id, (Text("done"),))
        contents = written(Turn("assistant", (call,)), Turn("user", (result,)), model=NEW)["contents"]
        part = {"functionCall": {"id": "c1", "name": "f", "args": {}}, "thoughtSignature": "c2lnbmF0dXJl"}
        assert contents[0]["parts"] == [part]
        assert contents[1]["parts"][0]["functionResponse"] == {"id": "c1", "name": "f", "response": {"output": "done"}}


@pytest.mark.parametrize(
    ("model", "signed"),
    [
        (NEW, True),
        ("gemini-3.1-pro-preview", True),
        ("gemini-flash-latest", True),
        ("gemini-12-ultra", True),
        (OLD, False),
        ("gemini-2.0-flash", False),
        ("gemini-1.5-pro", False),
        ("gemma-3-27b-it", False),
    ],
)
def test_the_first_call_of_a_foreign_turn_has_the_placeholder_where_a_signature_is_asked_for(model, signed):
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))
    parts = written(Turn("assistant", calls), HELLO, Turn("assistant", calls[:1]), model=model)["contents"]
    found = [part.get("thoughtSignature") for content in parts for part in content["parts"]]
    placeholder = FOREIGN_SIGNATURE if signed else None
    assert found == [placeholder, None, None, placeholder]


def test_no_placeholder_stands_beside_a_signature():
    calls = (ToolCall("a", "f", "{}", "c2ln"), ToolCall("b", "f", "{}"))
    parts = written(Turn("assistant", calls), model=NEW)["contents"][0]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["c2ln", None]


def test_only_geminis_own_thoughts_go_back_to_it():
    parts = (
        Thinking("foreign", "c2ln", origin="anthropic"),
        Thinking("summary", origin="gemini"),
        Thinking("mine", "bWluZQ==", origin="gemini"),
        Text("answer"),
        Thinking("", "dGV4dA==", origin="gemini"),
        Refusal("no"),
        Thinking("", "YWxvbmU=", origin="gemini"),
        Thinking("", "dHdvLg==", origin="gemini"),
    )
    assert written(HELLO, Turn("assistant", parts))["contents"][1]["parts"] == [
        {"text": "mine", "thought": True, "thoughtSignature": "bWluZQ=="},
        {"text": "answer", "thoughtSignature": "dGV4dA=="},
        {"text": "no", "thoughtSignature": "YWxvbmU="},
        {"text": "", "thoughtSignature": "dHdvLg=="},
    ]


def test_a_turn_with_nothing_to_say_is_left_out():
    silent = Turn("assistant", (Text(""), Thinking("foreign", "c2ln", origin="anthropic")))
    assert [content["role"] for content in written(HELLO, silent, HELLO)["contents"]] == ["user"]
    assert fault(silent) == "contents"


def test_media_are_written_by_value_or_by_place():
    parts = (
        Media("image", "image/png", data=PIXEL, detail="high"),
        Media("image", url=f"data:image/png;base64,{PIXEL}"),
        Media("video", url="https://example.com/v"),
        Media("document", "application/pdf", file="https://generativelanguage.googleapis.com/v1beta/files/a"),
    )
    assert written(Turn("user", parts))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
        {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
        {"fileData": {"fileUri": "https://example.com/v"}},
        {
            "fileData": {
                "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a",
                "mimeType": "application/pdf",
            }
        },
    ]


def test_what_a_function_showed_stands_inside_its_response_where_the_model_reads_it_there():
    call = Turn("assistant", (ToolCall("c", "f", "{}", "c2ln"),))
    picture = Media("image", "image/png", data=PIXEL)
    result = Turn("user", (ToolResult("c", (Text("see"), picture)),))
    inline = {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
    response = {"id": "c", "name": "f", "response": {"output": "see"}}
    new = written(call, result, model=NEW)["contents"][1]["parts"]
    assert new == [{"functionResponse": response | {"parts": [inline]}}]
    assert written(call, result, model=OLD)["contents"][1]["parts"] == [{"functionResponse": response}, inline]


@pytest.mark.parametrize(
    ("turn", "field"),
    [
        (Turn("user", (Media("image", data=PIXEL),)), "image"),
        (Turn("user", (Media("document", file="file-abc"),)), "document"),
        (Turn("user", (ToolResult("c9", (Text("x"),)),)), "result of c9"),
        (Turn("assistant", (ToolCall("c", "f", '{"a":'),)), "arguments of f"),
        (Turn("assistant", (ToolCall("c", "f", "[1]"),)), "arguments of f"),
    ],
)
def test_what_gemini_cannot_be_told_is_refused_by_name(turn, field):
    assert fault(turn) == field


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        (NEW, Reasoning("high", None, True), {"thinkingLevel": "high", "includeThoughts": True}),
        (NEW, Reasoning("xhigh"), {"thinkingLevel": "high"}),
        (NEW, Reasoning("none"), {"thinkingLevel": "minimal"}),
        (NEW, Reasoning(budget=0), {"thinkingLevel": "minimal"}),
        (NEW, Reasoning(budget=1_024), {"thinkingLevel": "low"}),
        (NEW, Reasoning(budget=8_192), {"thinkingLevel": "medium"}),
        (NEW, Reasoning(budget=30_000), {"thinkingLevel": "high"}),
        ("gemini-3.1-pro-preview", Reasoning("minimal"), {"thinkingLevel": "low"}),
        (OLD, Reasoning("low"), {"thinkingBudget": 1_024}),
        (OLD, Reasoning("high"), {"thinkingBudget": 24_576}),
        (OLD, Reasoning("none"), {"thinkingBudget": 0}),
        (OLD, Reasoning(budget=64_000), {"thinkingBudget": 24_576}),
        (OLD, Reasoning(shown=True), {"includeThoughts": True}),
        ("gemini-2.5-pro", Reasoning("none"), {"thinkingBudget": 128}),
        ("gemini-2.5-pro", Reasoning(budget=64_000), {"thinkingBudget": 32_768}),
        ("gemini-2.0-flash", Reasoning("high"), None),
        (NEW, Reasoning(), None),
    ],
)
def test_each_model_is_told_in_its_own_words_how_hard_to_think(model, reasoning, config):
    assert written(model=model, reasoning=reasoning).get("generationConfig", {}).get("thinkingConfig") == config


_word = st.text('abc {}[]"\\\n\u00e9', min_size=1, max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
_args = st.dictionaries(st.text(max_size=4), _json, max_size=3).map(lambda args: orjson.dumps(args).decode())
_base64 = st.sampled_from(["c2ln", "dGV4dA=="])
_media = st.builds(Media, st.just("image"), st.just("image/png"), data=_base64)
_schema = st.sampled_from([None, {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}])


@st.composite
def _turns(draw):
    turns, made = [Turn("user", tuple(draw(st.lists(st.builds(Text, _word) | _media, min_size=1, max_size=3))))], 0
    for _ in range(draw(st.integers(0, 3))):
        parts = []
        if draw(st.booleans()):
            parts.append(Thinking(draw(_word), draw(_base64), origin="gemini"))
        if draw(st.booleans()):
            parts.append(Text(draw(_word)))
            if draw(st.booleans()):
                parts.append(Thinking("", draw(_base64), origin="gemini"))
        calls = []
        for _ in range(draw(st.integers(0 if parts else 1, 3))):
            made += 1
            calls.append(ToolCall(f"c{made}", draw(st.sampled_from("fg")), draw(_args), draw(st.none() | _base64)))
        turns.append(Turn("assistant", (*parts, *calls)))
        results = []
        for call in calls:
            error = draw(st.booleans())
            text = draw(_word.filter(lambda word: not word.strip().startswith("{")))
            results.append(ToolResult(call.id, (Text(text),), call.name, error))
        said = draw(st.lists(st.builds(Text, _word), min_size=0 if results else 1, max_size=1))
        turns.append(Turn("user", (*results, *said)))
    return tuple(turns)


_number = st.none() | st.floats(0, 2, allow_nan=False)
_asks = st.builds(
    Ask,
    model=st.just(OLD),
    turns=_turns(),
    system=st.lists(st.builds(Text, _word), max_size=2).map(tuple),
    tools=st.lists(
        st.builds(Tool, st.sampled_from("fgh"), st.none() | _word, _schema),
        max_size=2,
        unique_by=lambda tool: tool.name,
    ).map(tuple),
    max_tokens=st.none() | st.integers(1, 10_000),
    temperature=_number,
    top_p=_number,
    top_k=st.none() | st.integers(0, 100),
    stop=st.lists(_word, max_size=2).map(tuple),
    seed=st.none() | st.integers(-(2**31), 2**31 - 1),
    presence_penalty=_number,
    frequency_penalty=_number,
    output=st.none() | st.builds(Output, _schema),
    reasoning=st.none() | st.builds(Reasoning, st.none(), st.integers(1, 24_576), st.none() | st.booleans()),
    choices=st.integers(1, 4),
    stream=st.booleans(),
)


@given(
    _asks, st.sampled_from([None, ToolChoice("auto"), ToolChoice("any"), ToolChoice("none"), ToolChoice("tool", "f")])
)
def test_what_was_written_is_read_back_as_it_was(ask, choice):
    ask = replace(ask, tool_choice=choice if ask.tools else None)
    body = orjson.loads(orjson.dumps(gemini.write(ask)))
    assert not {"model", "stream"} & set(body)
    read = gemini.read({**body, "model": ask.model, "stream": ask.stream})
    assert read == ask
    assert gemini.write(read) == body
