import base64
import math
import struct
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.sim import Simulator
from backstay.gateway.sim.embedding import embed
from backstay.gateway.sim.filling import fill
from backstay.gateway.sim.options import BadOptions, Fault, SimOptions


def test_the_grammar():
    options = SimOptions.parse("sim:echo?tokens=200&itl=20ms&ttft=1.5s&price=0.10&usage=none&fault=status:429:2s")
    assert options == SimOptions(
        "echo", 200, 1.5, 0.02, False, Decimal("0.10"), 256, Fault("status", status=429, retry_after=2.0)
    )
    assert SimOptions.parse("echo").model == "sim:echo"
    assert SimOptions.parse("echo?tokens=5&itl=1s", "tokens=7&fault=flap:1%2F3") == SimOptions(
        "echo", tokens=7, itl=1.0, fault=Fault("flap", status=503, down=1, of=3)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nobody",
        "echo?tokens",
        "echo?tokens=-1",
        "echo?tokens=x",
        "echo?tokens=999999",
        "echo?colour=red",
        "echo?itl=5",
        "echo?itl=9999s",
        "echo?price=NaN",
        "echo?price=-1",
        "echo?price=1e9",
        "echo?usage=all",
        "echo?fault=",
        "echo?fault=cut",
        "echo?fault=cut:x",
        "echo?fault=status:200",
        "echo?fault=error:1:200",
        "echo?fault=bare",
        "echo?fault=flap:2/1",
        "echo?fault=reset:1",
        "dev-hash?dims=0",
        "echo?tokens=²",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(wrong):
    with pytest.raises(BadOptions):
        SimOptions.parse(wrong)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        SimOptions.parse(text, text)
        SimOptions.parse(f"echo?{text}")
    except BadOptions:
        pass


@given(st.text())
def test_vectors_have_length_one_and_never_change(text):
    vector = embed(text, 64)
    assert math.isclose(sum(value * value for value in vector), 1.0, rel_tol=1e-9)
    assert vector == embed(text, 64)


def test_texts_that_share_words_are_nearer():
    def near(a, b):
        return sum(x * y for x, y in zip(embed(a, 256), embed(b, 256), strict=True))

    asked = "how do I rotate an API key"
    assert near(asked, "Rotating API keys is done with one command") > near(asked, "The weather in Oslo is mild") + 0.2


async def ask(body, path="chat/completions", simulator=None):
    answer = await (simulator or Simulator()).answer(path, orjson.dumps(body))
    return answer.status, b"".join([chunk async for chunk in answer.chunks])


async def content(model, *messages, **more):
    status, raw = await ask({"model": model, "messages": list(messages), **more})
    assert status == 200, raw
    return orjson.loads(raw)["choices"][0]["message"]["content"]


async def test_extract_answers_from_the_context_with_its_marks():
    context = (
        "Answer from these sources.\n\n[1] Backstay runs on one Postgres. The queue lives there too.\n\n"
        "[2] Keys are rotated with `backstay keys rotate`. Old keys stay valid for a day.\n\n"
        "[3] Vectors are stored in half precision."
    )
    answer = await content(
        "sim:extract", {"role": "system", "content": context}, {"role": "user", "content": "How are keys rotated?"}
    )
    assert "Keys are rotated with `backstay keys rotate`. [2]" in answer
    assert "[3]" not in answer


async def test_extract_finds_the_question_at_the_end_of_one_message():
    both = "Context: The mast is held by a backstay. Sails are made of cloth.\n\nQuestion: what holds the mast?"
    assert "held by a backstay" in await content("sim:extract", {"role": "user", "content": both})


async def test_extract_says_when_it_finds_nothing():
    answer = await content("sim:extract", {"role": "user", "content": "why?"})
    assert answer == "The given context says nothing about this."


async def test_script_plays_a_step_a_turn():
    script = {
        "role": "system",
        "content": '{"script": [{"tool": "look", "arguments": {"at": 1}}, {"content": "done"}]}',
    }
    status, raw = await ask({"model": "sim:script", "messages": [script]})
    call = orjson.loads(raw)["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (status, call) == (200, {"name": "look", "arguments": '{"at":1}'})
    assert await content("sim:script", script, {"role": "assistant", "content": ""}) == "done"


async def test_the_number_of_tokens_is_exact_and_the_limit_holds():
    message = {"role": "user", "content": "a b c"}
    assert await content("sim:echo?tokens=5", message) == "a b c a b"
    assert await content("sim:echo", message, max_tokens=2) == "a b"


async def test_the_same_request_gives_the_same_bytes():
    body = {"model": "sim:echo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert await ask(body) == await ask(body)


async def test_packed_vectors_are_the_plain_ones():
    body = {"model": "sim:dev-hash", "input": ["a cat"]}
    plain = orjson.loads((await ask(body, "embeddings"))[1])["data"][0]["embedding"]
    packed = orjson.loads((await ask(body | {"encoding_format": "base64"}, "embeddings"))[1])["data"][0]["embedding"]
    assert list(struct.unpack("<256f", base64.b64decode(packed))) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("input", [5, None, [], [None], [[]], {"a": 1}, [1, 2, 3]])
async def test_odd_inputs_never_break_it(input):
    status, _ = await ask({"model": "sim:dev-hash", "input": input}, "embeddings")
    assert status in (200, 400)


TOOLS = [
    {"type": "function", "function": {"name": "look_up", "description": "Looks a word up.", "parameters": {}}},
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}},
        },
    },
]


async def called(model, question, **more):
    status, raw = await ask(
        {"model": model, "messages": [{"role": "user", "content": question}], "tools": TOOLS, **more}
    )
    assert status == 200, raw
    calls = orjson.loads(raw)["choices"][0]["message"].get("tool_calls", [])
    return [(call["function"]["name"], orjson.loads(call["function"]["arguments"])) for call in calls]


async def test_tools_calls_the_tool_that_fits_unless_it_is_told_which():
    assert await called("sim:tools", "Add the numbers 3 and 4.5") == [("add", {"a": 3, "b": 4.5})]
    named = {"type": "function", "function": {"name": "look_up"}}
    assert await called("sim:tools", "Add the numbers 3 and 4.5", tool_choice=named) == [("look_up", {})]
    assert await called("sim:tools", "Add the numbers 3 and 4.5", tool_choice="none") == []


async def test_tools_reports_a_result_unless_it_must_call_again():
    talk = [{"role": "user", "content": "Add 1 and 2"}, {"role": "tool", "tool_call_id": "c", "content": "3"}]
    assert await content("sim:tools", *talk, tools=TOOLS) == "The tool answered: 3"
    assert await content("sim:tools", *talk, tools=TOOLS, tool_choice="required") is None


PERSON = {
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 5}, "within": {"$ref": "#/$defs/Place"}},
            "required": ["city"],
        }
    },
    "type": "object",
    "properties": {
        "name": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "age": {"type": ["integer", "null"], "minimum": 18, "exclusiveMaximum": 21},
        "role": {"enum": ["clerk", "sailor"]},
        "kind": {"const": "person"},
        "born": {"type": "string", "format": "date"},
        "home": {"allOf": [{"$ref": "#/$defs/Place"}]},
        "scores": {"type": "array", "items": {"type": "number"}, "minItems": 2},
        "alive": {"type": "boolean"},
    },
    "required": ["name"],
}


async def test_json_fills_the_schema_that_is_asked_for():
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    question = {"role": "user", "content": "A sailor, 99 years old, scored 7 and 8."}
    found = orjson.loads(await content("sim:json", question, response_format=form))
    home = found.pop("home")
    assert found == {
        "name": question["content"],
        "age": 20,
        "role": "sailor",
        "kind": "person",
        "born": "2024-02-29",
        "scores": [7.0, 8.0],
        "alive": True,
    }
    assert home["city"] == "A sai"
    assert orjson.loads(await content("sim:tools", question, response_format=form))["age"] == 20


async def test_json_without_a_schema_has_the_names_in_quotes():
    question = {"role": "user", "content": "It's a joke with 'setup' and \"punchline\" as keys"}
    found = orjson.loads(await content("sim:json", question, response_format={"type": "json_object"}))
    assert found == dict.fromkeys(("setup", "punchline"), question["content"])
    assert orjson.loads(await content("sim:json", {"role": "user", "content": "hi"})) == {"answer": "hi"}


async def test_json_gives_its_answer_to_the_tool_that_must_be_called():
    assert await called("sim:json", "3 and 4", tool_choice="required") == [("look_up", {})]
    named = {"type": "function", "function": {"name": "add"}}
    assert await called("sim:json", "3 and 4", tool_choice=named) == [("add", {"a": 3, "b": 4.0})]
    assert await called("sim:json", "3 and 4") == []


WORDS = "$defs $ref allOf anyOf enum format items maxLength maximum minItems minLength properties required type"
SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([{"$ref": "#"}, {"$ref": "#/$defs/type"}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS.split()), inner, min_size=1, max_size=4)
    ),
)


@given(SCHEMAS, st.text())
def test_any_schema_is_filled_with_something_that_is_json(schema, question):
    question = question.encode("utf-8", "replace").decode()
    assert orjson.dumps(fill(schema, question)) == orjson.dumps(fill(schema, question))


@pytest.mark.parametrize(
    "endless",
    [
        {"allOf": [{"$ref": "#"}] * 20},
        {"properties": {str(n): {"$ref": "#"} for n in range(20)}, "required": [str(n) for n in range(20)]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 10**9},
    ],
)
def test_a_schema_without_an_end_is_left_at_some_point(endless):
    assert len(orjson.dumps(fill(endless, "3"))) < 100_000


async def test_thoughts_come_first_and_count():
    message = {"role": "user", "content": "a b"}
    _, raw = await ask({"model": "sim:echo?think=3", "messages": [message]})
    answer = orjson.loads(raw)
    assert answer["choices"][0]["message"]["reasoning_content"] == "a b a"
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    _, raw = await ask({"model": "sim:echo?think=1", "messages": [message], "stream": True})
    assert raw.index(b'"reasoning_content":"a"') < raw.index(b'"content":"a"')
