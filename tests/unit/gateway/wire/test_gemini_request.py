"""What a Gemini client asks: checked, and read into no one's words."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.gateway.dialogue import (
    Media,
    Output,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from backstay.gateway.wire.gemini import Gemini, count_request, seal
from backstay.kernel.errors import BadRequest

gemini = Gemini()
HELLO = {"role": "user", "parts": [{"text": "hello"}]}
PIXEL = "iVBORw0KGgo="


def ask(**fields):
    return gemini.read({"model": "m", "contents": [HELLO], **fields})


def conversation(*contents):
    return gemini.read({"model": "m", "contents": list(contents)}).turns


def fault(call, body):
    with pytest.raises(BadRequest) as caught:
        call(body)
    return caught.value.errors[0].field


def test_a_request_is_read_whole():
    body = {
        "model": "gemini-3-flash",
        "stream": True,
        "contents": [HELLO],
        "systemInstruction": {"parts": [{"text": "be kind"}, {"text": "be brief"}]},
        "generationConfig": {
            "maxOutputTokens": 256,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "stopSequences": ["END"],
            "seed": 7,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "candidateCount": 2,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True},
        },
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    }
    found = gemini.read(body)
    assert found.turns == (Turn("user", (Text("hello"),)),)
    assert found.system == (Text("be kind"), Text("be brief"))
    assert (found.model, found.stream, found.choices) == ("gemini-3-flash", True, 2)
    assert (found.max_tokens, found.temperature, found.top_p, found.top_k) == (256, 0.5, 0.9, 40)
    assert (found.stop, found.seed) == (("END",), 7)
    assert (found.presence_penalty, found.frequency_penalty) == (0.1, 0.2)
    assert found.output == Output({"type": "object"})
    assert found.reasoning == Reasoning("high", None, True)


def test_both_styles_of_names_say_the_same():
    camel = {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {"maxOutputTokens": 5, "thinkingConfig": {"thinkingBudget": 9, "includeThoughts": False}},
        "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "contents": [
            {"parts": [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]},
            {
                "role": "model",
                "parts": [{"functionCall": {"name": "f", "args": {"aB": 1}}, "thoughtSignature": "c2ln"}],
            },
            {"parts": [{"functionResponse": {"name": "f", "response": {"output": "x"}}}]},
        ],
    }
    snake = {
        "system_instruction": {"parts": [{"text": "s"}]},
        "generation_config": {
            "max_output_tokens": 5,
            "thinking_config": {"thinking_budget": 9, "include_thoughts": False},
        },
        "tools": [{"function_declarations": [{"name": "f", "parameters_json_schema": {"type": "object"}}]}],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
        "contents": [
            {"parts": [{"inline_data": {"mime_type": "image/png", "data": PIXEL}}]},
            {
                "role": "model",
                "parts": [{"function_call": {"name": "f", "args": {"aB": 1}}, "thought_signature": "c2ln"}],
            },
            {"parts": [{"function_response": {"name": "f", "response": {"output": "x"}}}]},
        ],
    }
    assert ask(**camel) == ask(**snake)
    assert ask(**camel).max_tokens == 5
    first, second = (gemini.check({"model": "m", **body}, size=1000) for body in (camel, snake))
    assert first == second
    assert (first.max_tokens, first.media, first.tools, first.turns, first.reasoning) == (5, 1, 1, 3, True)


@pytest.mark.parametrize(
    ("twice", "field"),
    [
        ({"generationConfig": {}, "generation_config": {"maxOutputTokens": 9}}, "generationConfig"),
        ({"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 1, "candidate_count": 9}}, "generationConfig.candidateCount"),
    ],
)
def test_a_limit_given_in_both_styles_is_refused_so_that_no_budget_is_passed(twice, field):
    assert fault(gemini.check, {"model": "m", "contents": [HELLO], **twice}) == field


@pytest.mark.parametrize("count", [256, 256.0, "256"])
def test_numbers_are_read_as_google_writes_them(count):
    assert ask(generationConfig={"maxOutputTokens": count}).max_tokens == 256


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": "hello"}, "contents[0]"),
        ({"contents": [7]}, "contents[0]"),
        ({"contents": [HELLO], "model": ""}, "model"),
        ({"contents": [HELLO], "model": "a\nb"}, "model"),
        ({"contents": [HELLO], "stream": "yes"}, "stream"),
        ({"contents": [HELLO], "generationConfig": []}, "generationConfig"),
        ({"contents": [HELLO], "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"contents": [HELLO], "generationConfig": {"maxOutputTokens": True}}, "generationConfig.maxOutputTokens"),
        ({"contents": [HELLO], "generationConfig": {"maxOutputTokens": "x"}}, "generationConfig.maxOutputTokens"),
        ({"contents": [HELLO], "generationConfig": {"candidateCount": 1000}}, "generationConfig.candidateCount"),
        ({"contents": [HELLO], "tools": ["f"]}, "tools[0]"),
        ({"contents": [{"parts": [{"inlineData": 3}]}]}, "contents[0].parts[0].inlineData"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_spent(body, field):
    assert fault(gemini.check, {"model": "m", **body}) == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cachedContent": "cachedContents/x"}, "cachedContent"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"code_execution": {}}]}, "tools[0].code_execution"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {}, "parametersJsonSchema": {}}]}]},
            "tools[0].functionDeclarations[0].parameters",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature"),
        ({"generationConfig": {"stopSequences": [1]}}, "generationConfig.stopSequences"),
        ({"systemInstruction": {"parts": [{"inlineData": {}}]}}, "systemInstruction.parts[0]"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": []}, {"role": "model", "parts": [{"text": ""}]}]}, "contents"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": "a", "inlineData": {}}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"inlineData": {"data": PIXEL}}]}]}, "contents[0].parts[0].inlineData"),
        ({"contents": [{"parts": [{"fileData": {}}]}]}, "contents[0].parts[0].fileData.fileUri"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents[0].parts[0].executableCode"),
        ({"contents": [{"parts": [{"functionCall": {"name": "f"}}]}]}, "contents[0].parts[0].functionCall"),
        (
            {"contents": [{"role": "model", "parts": [{"functionResponse": {"name": "f"}}]}]},
            "contents[0].parts[0].functionResponse",
        ),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
            "contents[0].parts[0].functionResponse",
        ),
    ],
)
def test_what_no_other_provider_can_be_asked_is_refused_by_name(fields, field):
    assert fault(gemini.read, {"model": "m", "contents": [HELLO], **fields}) == field


def test_what_is_googles_own_passes_the_check_as_it_goes_on_untouched():
    body = {"contents": [HELLO], "tools": [{"googleSearch": {}}, {"codeExecution": {}}], "cachedContent": "c/1"}
    assert gemini.check({"model": "m", **body}).tools == 2


def test_the_bound_counts_bytes_but_not_those_of_pictures():
    picture = {"inlineData": {"mimeType": "image/png", "data": "A" * 10**6}}
    body = {"model": "m", "contents": [{"parts": [{"text": "y" * 1000}, picture]}]}
    for size in (None, len(orjson.dumps(body))):
        found = gemini.check(body, size).input_bound
        assert 8192 + 1000 <= found < 8192 + 2000
    # A longer sound has more tokens, and a text in base64 is text.
    for kind, least, most in (("audio/wav", 10**6 // 16, 10**5), ("text/plain", 10**6, 2 * 10**6)):
        part = {"inlineData": {"mimeType": kind, "data": "A" * 10**6}}
        assert least < gemini.check({"model": "m", "contents": [{"parts": [part]}]}).input_bound < most


def test_labels_are_the_tags_of_a_request():
    assert gemini.check({"model": "m", "contents": [HELLO], "labels": {"feature": "x"}}).metadata == {"feature": "x"}


def test_responses_find_their_calls_by_id_or_else_by_name_and_order():
    def called(name, id=None):
        return {"functionCall": {"name": name, "args": {"q": name}} | ({"id": id} if id else {})}

    def answered(name, text, id=None):
        return {"functionResponse": {"name": name, "response": {"output": text}} | ({"id": id} if id else {})}

    calls, results = conversation(
        {"role": "model", "parts": [called("a"), called("b"), called("a"), called("a", "mine")]},
        {
            "role": "function",
            "parts": [answered("a", "4", "mine"), answered("a", "1"), answered("b", "2"), answered("a", "3")],
        },
    )
    ids = [call.id for call in calls.parts]
    assert len(set(ids)) == 4
    assert ids[3] == "mine"
    assert {part.call: part.parts[0].text for part in results.parts} == dict(zip(ids, "1234", strict=True))
    assert results.role == "user"


def test_made_ids_stay_the_same_as_a_conversation_grows():
    first = {"role": "model", "parts": [{"functionCall": {"name": "a"}}]}
    answer = {"parts": [{"functionResponse": {"name": "a", "response": {}}}]}
    short, long = conversation(HELLO, first, answer), conversation(HELLO, first, answer, first, answer)
    assert long[: len(short)] == short
    assert long[1].parts[0].id != long[3].parts[0].id


def test_an_id_that_a_client_repeats_still_names_one_call():
    call = {"role": "model", "parts": [{"functionCall": {"name": "a", "id": "x"}}]}
    answer = {"parts": [{"functionResponse": {"name": "a", "id": "x", "response": {"output": "r"}}}]}
    turns = conversation(call, answer, call, answer)
    assert [turns[1].parts[0].call, turns[3].parts[0].call] == [turns[0].parts[0].id, turns[2].parts[0].id]
    assert turns[0].parts[0].id != turns[2].parts[0].id


@pytest.mark.parametrize(
    ("response", "text", "error"),
    [
        ({"output": "sunny"}, "sunny", False),
        ({"output": {"c": 21}}, '{"c":21}', False),
        ({"error": "no such city"}, "no such city", True),
        ({"c": 21, "error": None}, '{"c":21,"error":null}', False),
        ({}, "{}", False),
    ],
)
def test_a_function_response_is_read_as_google_defines_it(response, text, error):
    called = {"role": "model", "parts": [{"functionCall": {"name": "f", "id": "1"}}]}
    turns = conversation(called, {"parts": [{"functionResponse": {"name": "f", "response": response}}]})
    assert turns[1].parts == (ToolResult("1", (Text(text),), "f", error),)


def test_a_response_with_a_picture_keeps_it():
    inline = {"inlineData": {"mimeType": "image/png", "data": PIXEL, "displayName": "p.png"}}
    called = {"role": "model", "parts": [{"functionCall": {"name": "f", "id": "1"}}]}
    response = {"functionResponse": {"name": "f", "response": {"output": "see"}, "parts": [inline]}}
    turns = conversation(called, {"parts": [response]})
    assert turns[1].parts[0].parts == (Text("see"), Media("image", "image/png", PIXEL, name="p.png"))


def test_signatures_stay_with_their_part():
    (turn,) = conversation(
        {
            "role": "model",
            "parts": [
                {"text": "hmm", "thought": True, "thoughtSignature": "dGhvdWdodA=="},
                {"text": "Let me look.", "thoughtSignature": "dGV4dA=="},
                {"functionCall": {"name": "f", "id": "1", "args": {}}, "thoughtSignature": "Y2FsbA=="},
            ],
        }
    )
    assert turn.parts == (
        Thinking("hmm", "dGhvdWdodA==", origin="gemini"),
        Text("Let me look."),
        Thinking("", "dGV4dA==", origin="gemini"),
        ToolCall("1", "f", "{}", "Y2FsbA=="),
    )


def test_the_pieces_of_a_stream_that_a_client_kept_are_one_turn_again():
    sealed = seal("opaque", "anthropic", False)
    pieces = [
        {"text": "I ", "thought": True},
        {"text": "think", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": sealed},
        {"text": "Hel"},
        {"text": "lo"},
        {"text": ""},
    ]
    turns = conversation(HELLO, *({"role": "model", "parts": [piece]} for piece in pieces))
    assert turns[1] == Turn("assistant", (Thinking("I think", "opaque", origin="anthropic"), Text("Hello")))


def test_thoughts_that_were_signed_apart_stay_apart():
    thoughts = [
        {"text": "a", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "b", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": seal("hidden", "anthropic", True)},
    ]
    (turn,) = conversation({"role": "model", "parts": thoughts})
    assert turn.parts == (
        Thinking("a", "c2ln", origin="gemini"),
        Thinking("b", origin="gemini"),
        Thinking("", "hidden", True, "anthropic"),
    )


def test_media_are_read_with_their_kind_and_place():
    (turn,) = conversation(
        {
            "parts": [
                {"inlineData": {"mimeType": "audio/wav", "data": PIXEL}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/a.pdf"}},
                {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
            ]
        }
    )
    assert turn.parts == (
        Media("audio", "audio/wav", data=PIXEL),
        Media("document", "application/pdf", url="https://example.com/a.pdf"),
        Media("document", None, file="https://generativelanguage.googleapis.com/v1beta/files/abc"),
    )


@pytest.mark.parametrize(
    ("calling", "choice", "names"),
    [
        ({"mode": "AUTO"}, ToolChoice("auto"), "fgh"),
        ({}, ToolChoice("auto"), "fgh"),
        ({"mode": "NONE"}, ToolChoice("none"), "fgh"),
        ({"mode": "any"}, ToolChoice("any"), "fgh"),
        ({"mode": "ANY", "allowedFunctionNames": ["g"]}, ToolChoice("tool", "g"), "fgh"),
        ({"mode": "ANY", "allowedFunctionNames": ["g", "h"]}, ToolChoice("any"), "gh"),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["h"]}, ToolChoice("auto"), "h"),
    ],
)
def test_the_choice_of_functions_is_read(calling, choice, names):
    declared = [{"name": name} for name in "fgh"]
    found = ask(tools=[{"functionDeclarations": declared}], toolConfig={"functionCallingConfig": calling})
    assert found.tool_choice == choice
    assert "".join(tool.name for tool in found.tools) == names
    assert all(tool.strict is (True if calling.get("mode") == "VALIDATED" else None) for tool in found.tools)


def test_googles_own_schemas_become_json_schema():
    parameters = {
        "type": "OBJECT",
        "properties": {
            "city": {
                "type": "STRING",
                "description": "where",
                "nullable": True,
                "enum": ["Rom", "Ulm"],
                "format": "enum",
            },
            "days": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1", "max_items": 7},
            "type": {"any_of": [{"type": "STRING"}, {"ref": "#/defs/Pet"}]},
        },
        "required": ["city"],
        "propertyOrdering": ["city", "days"],
        "defs": {"Pet": {"type": "OBJECT", "properties": {"nullable": {"type": "BOOLEAN"}}}},
    }
    found = ask(tools=[{"functionDeclarations": [{"name": "f", "description": "d", "parameters": parameters}]}])
    assert found.tools == (
        Tool(
            "f",
            "d",
            {
                "type": "object",
                "properties": {
                    "city": {"type": ["string", "null"], "description": "where", "enum": ["Rom", "Ulm", None]},
                    "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 7},
                    "type": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Pet"}]},
                },
                "required": ["city"],
                "$defs": {"Pet": {"type": "object", "properties": {"nullable": {"type": "boolean"}}}},
            },
        ),
    )
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "STRING"}}
    assert ask(generationConfig=config).output == Output({"type": "string"})
    assert ask(generationConfig={"responseMimeType": "application/json"}).output == Output()
    assert ask(generationConfig={"responseSchema": {"type": "STRING"}}).output is None


@pytest.mark.parametrize(
    ("config", "reasoning"),
    [
        ({"thinkingBudget": -1}, Reasoning()),
        ({"thinkingBudget": 0}, Reasoning(budget=0)),
        ({"thinkingBudget": 2048, "includeThoughts": True}, Reasoning(None, 2048, True)),
        ({"thinkingLevel": "MINIMAL"}, Reasoning("minimal")),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, Reasoning()),
    ],
)
def test_the_wish_to_think_is_read(config, reasoning):
    assert ask(generationConfig={"thinkingConfig": config}).reasoning == reasoning


@pytest.mark.parametrize("depth", [100, 300, 500])
def test_deep_nesting_is_refused_and_breaks_nothing(depth):
    schema, args = {"type": "STRING"}, {}
    for _ in range(depth):
        schema, args = {"type": "OBJECT", "properties": {"a": schema}}, {"a": args}
    tools = [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]
    assert fault(gemini.read, {"model": "m", "contents": [HELLO], "tools": tools}).startswith("tools[0].")
    called = [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": args}}]}]
    if depth < 200:
        assert gemini.read({"model": "m", "contents": called}).turns[0].parts[0].arguments.count("a") == depth
    else:
        field = fault(gemini.read, {"model": "m", "contents": called})
        assert field == "contents[0].parts[0].functionCall.args"
        assert fault(gemini.check, {"model": "m", "contents": called}) == "body"


# fmt: off
_NAMES = [
    "contents", "parts", "role", "text", "thought", "thoughtSignature", "inlineData", "mimeType",
    "data", "fileData", "fileUri", "functionCall", "name", "args", "id", "functionResponse", "response",
    "output", "error", "executableCode", "systemInstruction", "tools", "functionDeclarations",
    "parameters", "parametersJsonSchema", "type", "properties", "items", "anyOf", "enum", "nullable",
    "minItems", "toolConfig", "functionCallingConfig", "mode", "allowedFunctionNames",
    "generationConfig", "maxOutputTokens", "temperature", "topK", "stopSequences", "candidateCount",
    "responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities", "thinkingConfig",
    "thinkingBudget", "thinkingLevel", "includeThoughts", "cachedContent", "labels", "model", "stream",
    "googleSearch", "requests", "content", "taskType", "title", "outputDimensionality",
    "generateContentRequest",
]
# fmt: on
_SNAKE = ["".join("_" + letter.lower() if letter.isupper() else letter for letter in name) for name in _NAMES]
_leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "f", "user", "model", "ANY", "STRING", "image/png", "application/json", "low", "12"])
)
_json = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_NAMES + _SNAKE) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
_part = st.dictionaries(st.sampled_from(_NAMES[3:19] + _SNAKE[3:19]), _json, max_size=2)
_content = st.fixed_dictionaries({"parts": st.lists(_part | _json, max_size=3)}, optional={"role": _leaf})
_body = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "models/m"]) | _leaf, "contents": st.lists(_content | _json, max_size=3) | _json},
    optional={name: _json for name in dict.fromkeys(_NAMES + _SNAKE) if name not in ("model", "contents")},
)


@settings(max_examples=300)
@given(_body)
def test_any_object_is_understood_or_refused_by_the_name_of_a_field(body):
    named = []
    for call in (gemini.check, gemini.read, gemini.check_embed, gemini.read_embed, count_request):
        try:
            found = call(body)
            if call == gemini.read:
                gemini.write(found)
        except BadRequest as error:
            named.append(error.errors[0])
    assert all(found.field and found.message for found in named)
