"""Two requests are the same exactly when they ask the same."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backstay.gateway.answers import Question, Surface
from backstay.gateway.answers.question import LEFT_OUT
from backstay.kernel.errors import Invalid

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
# What a client can send: the text of JSON has neither NaN nor infinity, and lone surrogates are refused before.
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
BODIES = st.dictionaries(st.text(min_size=1), JSON, max_size=6)
CHAT = {
    "model": "openai:gpt-5-mini",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}],
    "temperature": 0.5,
}


def chat(**changes: Any) -> Question:
    return Question(Surface.CHAT, "smart", {**CHAT, **changes})


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += paths(item, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@given(BODIES)
def test_the_order_of_keys_does_not_matter(body: dict[str, Any]) -> None:
    assert Question(Surface.CHAT, "m", body).whole() == Question(Surface.CHAT, "m", reordered(body)).whole()


@given(BODIES, st.data())
def test_any_changed_value_matters(body: dict[str, Any], data: st.DataObject) -> None:
    found = [path for path in paths(body) if path[0] not in LEFT_OUT]
    assume(found)
    path, new = data.draw(st.sampled_from(found)), data.draw(JSON)
    other = changed(body, path, new)
    same = orjson.dumps(body, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    assert (Question(Surface.CHAT, "m", body).whole() == Question(Surface.CHAT, "m", other).whole()) is same


@given(BODIES, st.text(min_size=1), JSON)
def test_a_field_more_matters_unless_it_is_left_out(body: dict[str, Any], name: str, value: Any) -> None:
    assume(name not in body)
    more = Question(Surface.CHAT, "m", {**body, name: value})
    assert (more.whole() == Question(Surface.CHAT, "m", body).whole()) is (name in LEFT_OUT)


@given(BODIES)
def test_reading_it_from_text_changes_nothing(body: dict[str, Any]) -> None:
    spaced = orjson.loads(json.dumps(body, indent=2, ensure_ascii=True))
    assert Question(Surface.CHAT, "m", body).whole() == Question(Surface.CHAT, "m", spaced).whole()


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_does_not_change_an_answer_is_left_out(name: str) -> None:
    assert chat(**{name: "anything"}).whole() == chat().whole()


def test_only_at_the_top_is_it_left_out() -> None:
    turn = {"role": "user", "content": "Hello"}
    assert chat(messages=[{**turn, "user": "a"}]).whole() != chat(messages=[{**turn, "user": "b"}]).whole()


def test_surface_model_and_the_providers_headers_matter() -> None:
    forms = {
        chat().whole(),
        Question(Surface.MESSAGES, "smart", CHAT).whole(),
        Question(Surface.CHAT, "cheap", CHAT).whole(),
        Question(Surface.CHAT, "smart", CHAT, {"anthropic-beta": "a"}).whole(),
        Question(Surface.CHAT, "smart", CHAT, {"anthropic-beta": "b"}).whole(),
        Question(Surface.CHAT, "smart", {**CHAT, "headers": {"anthropic-beta": "a"}}).whole(),
    }
    assert len(forms) == 6


@pytest.mark.parametrize("value", [2**64, {1: 2}, object()])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        chat(extra=value).whole()


@pytest.mark.parametrize("name", ["store", "background", "previous_response_id", "conversation"])
def test_a_request_that_rests_on_what_the_provider_holds_is_not_repeatable(name: str) -> None:
    assert not chat(**{name: "x"}).repeatable
    assert chat(**{name: None}).repeatable
    assert chat(**{name: False}).repeatable


class TestParted:
    @pytest.mark.parametrize(
        ("surface", "place", "turns", "words"),
        [
            (Surface.CHAT, "messages", [{"role": "user", "content": "Why?"}], "Why?"),
            (Surface.CHAT, "messages", [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}], "Why?"),
            (Surface.MESSAGES, "messages", [{"role": "user", "content": "Why?"}], "Why?"),
            (
                Surface.MESSAGES,
                "messages",
                [{"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "text", "text": "B"}]}],
                "Why?\nB",
            ),
            (Surface.RESPONSES, "input", "Why?", "Why?"),
            (
                Surface.RESPONSES,
                "input",
                [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}],
                "Why?",
            ),
            (Surface.GENERATE, "contents", [{"role": "user", "parts": [{"text": "Why?"}]}], "Why?"),
            (Surface.GENERATE, "contents", [{"parts": [{"text": "Why?"}]}], "Why?"),
        ],
    )
    def test_the_last_user_turns_words_are_taken_out_of_every_format(
        self, surface: Surface, place: str, turns: Any, words: str
    ) -> None:
        parted = Question(surface, "m", {place: turns, "other": 1}).parted()
        assert parted is not None
        rest, found = parted
        assert found == words
        assert b"Why?" not in rest
        other = json.loads(json.dumps(turns).replace("Why?", "How?"))
        assert Question(surface, "m", {place: other, "other": 1}).parted() == (rest, words.replace("Why?", "How?"))
        changed = Question(surface, "m", {place: turns, "other": 2}).parted()
        assert changed is not None
        assert changed[0] != rest

    def test_everything_before_and_after_that_turn_stays_in_the_rest(self) -> None:
        def rest(*turns: tuple[str, str]) -> bytes:
            parted = chat(messages=[{"role": role, "content": content} for role, content in turns]).parted()
            assert parted is not None
            return parted[0]

        first = rest(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"))
        assert first == rest(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "another"))
        assert first != rest(("system", "T"), ("user", "A"), ("assistant", "B"), ("user", "C"))
        assert first != rest(("system", "S"), ("user", "X"), ("assistant", "B"), ("user", "C"))
        assert first != rest(("system", "S"), ("user", "A"), ("assistant", "X"), ("user", "C"))
        assert first != rest(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "{"))
        assert first != rest(("user", "A"), ("assistant", "B"), ("user", "C"))

    def test_what_stands_beside_the_words_stays_in_the_rest(self) -> None:
        part = {"type": "text", "text": "Why?"}
        marked = {**part, "cache_control": {"type": "ephemeral"}}
        rests = set()
        for content in ([part], [marked], [part, part], "Why?"):
            parted = chat(messages=[{"role": "user", "content": content}]).parted()
            assert parted is not None
            rests.add(parted[0])
        assert len(rests) == 4

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "  \n ",
            "x" * 8001,
            None,
            [],
            [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}],
            [{"type": "text", "text": "What is this?"}, {"type": "image", "source": {}}],
            [{"type": "tool_result", "tool_use_id": "t", "content": "4"}],
            [{"type": "text", "text": 4}],
            ["Why?"],
        ],
    )
    def test_a_turn_that_is_more_than_words_or_less_has_no_neighbours(self, content: Any) -> None:
        assert chat(messages=[{"role": "user", "content": content}]).parted() is None

    @pytest.mark.parametrize("turns", [None, [], [{"role": "system", "content": "S"}], {"role": "user"}, [1, None], ""])
    def test_a_request_without_such_a_turn_has_none_either(self, turns: Any) -> None:
        assert chat(messages=turns).parted() is None

    def test_an_embedding_is_good_for_its_own_text_only(self) -> None:
        assert Question(Surface.EMBEDDINGS, "m", {"input": "Why?"}).parted() is None

    @given(BODIES, JSON)
    def test_nothing_that_a_client_can_send_breaks_it(self, body: dict[str, Any], turns: Any) -> None:
        for surface, place in (
            (Surface.CHAT, "messages"),
            (Surface.RESPONSES, "input"),
            (Surface.GENERATE, "contents"),
        ):
            question = Question(surface, "m", {**body, place: turns})
            question.parted()
            question.whole()
