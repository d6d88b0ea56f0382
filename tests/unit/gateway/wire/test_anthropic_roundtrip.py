import base64
import contextlib
import copy
from dataclasses import replace

import orjson
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.dialogue import (
    Ask,
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
from backstay.gateway.wire.anthropic import WIRE
from backstay.gateway.wire.anthropic.thoughts import without_foreign_thoughts
from backstay.kernel.errors import BadRequest
from unit.gateway.wire.anthropic_requests import CACHE, FULL, PIXEL, SCHEMA, written

_text = st.text(st.sampled_from("aZ0 ü{\n"), min_size=1, max_size=6).filter(str.strip)
_cache = st.sampled_from([None, None, {"type": "ephemeral"}, CACHE])
_json = st.recursive(
    st.sampled_from([None, True, False, 0, 7, -1, 2**53, 1.5, "", "x", "text", "user", "base64"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "content"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_name = st.text(st.sampled_from("abcXYZ019_-"), min_size=1, max_size=8)
_texts = st.builds(Text, _text, _cache)
_media = (
    st.builds(Media, st.just("image"), st.sampled_from(["image/png", "image/webp"]), st.just(PIXEL), cache=_cache)
    | st.builds(Media, st.just("image"), url=st.just("https://a.test/x"), cache=_cache)
    | st.builds(
        Media,
        st.just("document"),
        st.just("text/plain"),
        _text.map(lambda text: base64.b64encode(text.encode()).decode()),
        name=st.none() | _name,
        cache=_cache,
    )
    | st.builds(Media, st.just("document"), st.just("application/pdf"), st.just("JVBERi0="), name=st.none() | _name)
)
_results = st.builds(
    ToolResult,
    _name,
    st.lists(_texts | _media, max_size=2).map(tuple),
    error=st.booleans(),
    cache=_cache,
)
_thoughts = st.builds(Thinking, _text, _name, origin=st.just("anthropic")) | st.builds(
    Thinking, st.just(""), _name, st.just(True), origin=st.just("anthropic")
)
_calls = st.builds(
    ToolCall,
    _name,
    _name,
    st.dictionaries(_name, _json, max_size=2).map(lambda given: orjson.dumps(given).decode()),
    cache=_cache,
)
_user = st.tuples(st.lists(_results, max_size=2), st.lists(_texts | _media, min_size=1, max_size=3)).map(
    lambda parts: Turn("user", (*parts[0], *parts[1]))
)
_assistant = st.tuples(
    st.lists(_thoughts, max_size=2), st.lists(_texts, min_size=1, max_size=2), st.lists(_calls, max_size=2)
).map(lambda parts: Turn("assistant", (*parts[0], *parts[1], *parts[2])))
_turns = st.tuples(st.lists(st.tuples(_user, _assistant), max_size=2), _user).map(
    lambda pairs: (*(turn for pair in pairs[0] for turn in pair), pairs[1])
)
_tools = st.lists(
    st.builds(
        Tool,
        _name,
        st.none() | _text,
        st.sampled_from([SCHEMA, {"type": "object", "x": 1}]),
        st.sampled_from([None, False]),
        _cache,
    )
    | st.builds(Tool, _name, _text, st.just(SCHEMA), st.just(True)),
    max_size=2,
).map(tuple)


@st.composite
def _asks(draw):
    tools = draw(_tools)
    reasoning = draw(st.sampled_from([None, Reasoning(budget=2000), Reasoning("none", 0)]))
    quiet = reasoning is None or reasoning.budget == 0
    modes = [None, ToolChoice("auto"), ToolChoice("none")]
    if quiet:
        modes += [ToolChoice("any"), ToolChoice("tool", "f")]
    choice = draw(st.sampled_from(modes)) if tools else None
    can_run = choice is not None and choice.mode != "none"
    return Ask(
        # Of another maker, so that every kind of sampling is taken.
        model="some-model",
        turns=draw(_turns),
        system=draw(st.lists(_texts, max_size=2).map(tuple)),
        tools=tools,
        tool_choice=choice,
        parallel_tools=draw(st.sampled_from([None, True, False])) if can_run else None,
        max_tokens=draw(st.integers(2001, 9000)),
        temperature=draw(st.sampled_from([None, 0.0, 0.5, 1.0])) if quiet else None,
        top_p=draw(st.sampled_from([None, 0.5, 1.0])) if quiet else None,
        top_k=draw(st.sampled_from([None, 0, 40])) if quiet else None,
        stop=draw(st.lists(_text, max_size=2).map(tuple)),
        output=draw(st.sampled_from([None, Output(SCHEMA)])),
        reasoning=reasoning,
        user=draw(st.none() | _name),
        stream=draw(st.booleans()),
    )


@given(_asks())
def test_nothing_is_lost_that_this_format_can_say(ask):
    if ask.reasoning is not None and ask.reasoning.budget and _resumes(ask):
        # After calls without thoughts there can be none; see the tests of thinking.
        ask = replace(ask, reasoning=None)
    body = written(ask)
    again = WIRE.read(orjson.loads(orjson.dumps(body)))
    assert again == ask
    assert written(again) == body
    WIRE.check(body)


def _resumes(ask):
    return isinstance(ask.turns[-1].parts[0], ToolResult)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))


_PLACES = [path for path in _places(FULL) if path]
_GONE = object()
_FIELDS = [*sorted(FULL.keys() - {"messages"}), "temperature", "top_p", "top_k", "container"]


@given(st.lists(st.tuples(st.sampled_from(_PLACES), _json | st.just(_GONE)), min_size=1, max_size=3))
def test_a_damaged_request_is_read_or_refused_by_name(damages):
    body = copy.deepcopy(FULL)
    for path, value in damages:
        holder = body
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for step in path[:-1]:
                holder = holder[step]
            if value is _GONE:
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
    check_hostile(body)


@given(
    st.fixed_dictionaries(
        {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": _json}), max_size=2) | _json},
        optional=dict.fromkeys(
            [*sorted(FULL.keys() - {"messages"}), "temperature", "top_p", "top_k", "container"], _json
        ),
    )
)
def test_any_object_is_read_or_refused_by_name(body):
    check_hostile(body)


def test_depth_breaks_nothing():
    deep = {}
    for _ in range(900):
        deep = {"a": deep}
    ask = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    call = {"type": "tool_use", "id": "a", "name": "f", "input": deep}
    for body in (
        ask | {"tools": [{"name": "f", "input_schema": deep, "strict": True}]},
        ask | {"output_config": {"format": {"type": "json_schema", "schema": deep}}},
        ask | {"messages": [{"role": "assistant", "content": [call]}]},
    ):
        check_hostile(body)


def check_hostile(body):
    without_foreign_thoughts(body)
    for use in (WIRE.check, WIRE.count, lambda body: written(WIRE.read(body))):
        try:
            use(body)
        except BadRequest as error:
            assert error.errors[0].field  # noqa: PT017 -- most bodies are read
