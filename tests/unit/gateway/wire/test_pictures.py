"""Pictures in answers: every format that has a place for them shows them, the others say that there was one."""

import orjson
import pytest
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from backstay.gateway.dialogue import Ask, Media, MediaDelta, Request, Text, ToolCall, ToolResult, Turn
from backstay.gateway.models import Usage
from backstay.gateway.passage import Passage
from backstay.gateway.transcript import deltas_of
from backstay.gateway.wire import ANTHROPIC, CHAT, GEMINI, RESPONSES, Quirks

PNG = Media("image", "image/png", data="AAAA")
WEBP = Media("image", "image/webp", data="BBBB")
SOUND = Media("audio", "audio/wav", data="CCCC")
NOTE = "[The model answered with a picture (image/png) here, which this format cannot carry.]"
NOTE_OF_SOUND = "[The model answered with sound (audio/wav) here, which this format cannot carry.]"
REQUEST = Request("m", True)


def _part(media: Media) -> dict:
    return {"inlineData": {"mimeType": media.type, "data": media.data}}


def answered(*media: Media) -> dict:
    """A whole answer of Gemini's: a text, and these."""
    parts = [{"text": "Here."}, *map(_part, media)]
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": 3,
            "candidatesTokenCount": 1292,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        },
        "responseId": "r1",
        "modelVersion": "m",
    }


def written(surface, *media: Media) -> dict:
    return surface.write_answer(GEMINI.read_answer(answered(*media)), REQUEST)


def streamed(surface, *media: Media) -> list[dict]:
    """The events for a client of `surface` when Gemini streams a text and these."""
    passage = Passage(surface, GEMINI, REQUEST)
    events = []
    whole = answered(*media)
    for part in whole["candidates"][0]["content"]["parts"]:
        event = {**whole, "candidates": [{"content": {"role": "model", "parts": [part]}}]}
        events += passage.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    last = {**whole, "candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}
    events += passage.feed(b"data: " + orjson.dumps(last) + b"\n\n")
    return [chunk.body for chunk in [*events, *passage.ending(Usage(3, 1292))] if chunk.body]


def test_a_chat_client_gets_them_as_openrouter_and_litellm_give_them():
    body = written(CHAT, PNG, WEBP)
    message = body["choices"][0]["message"]
    assert message["content"] == "Here."
    assert message["images"] == [
        {"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "index": 1, "image_url": {"url": "data:image/webp;base64,BBBB"}},
    ]
    assert ChatCompletion.model_validate(body).choices[0].message.model_extra["images"] == message["images"]
    chunks = [ChatCompletionChunk.model_validate(event) for event in streamed(CHAT, PNG, WEBP)]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert [image for delta in deltas for image in delta.model_extra.get("images", ())] == message["images"]
    assert "".join(delta.content or "" for delta in deltas) == "Here."


def test_a_responses_client_gets_them_as_items():
    body = written(RESPONSES, PNG, WEBP)
    found = Response.model_validate(body)
    assert [item.type for item in found.output] == ["message", "image_generation_call", "image_generation_call"]
    assert [item.result for item in found.output[1:]] == ["AAAA", "BBBB"]
    assert [item["output_format"] for item in body["output"][1:]] == ["png", "webp"]
    events = streamed(RESPONSES, PNG)
    assert [event["type"] for event in events if event.get("output_index") == 1] == [
        "response.output_item.added",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
        "response.image_generation_call.completed",
        "response.output_item.done",
    ]
    assert events[-1]["response"]["output"][1]["result"] == "AAAA"


def test_a_gemini_client_gets_them_as_they_came():
    said = RESPONSES.read_answer(written(RESPONSES, PNG))
    assert said.parts == (Text("Here."), PNG)
    body = GEMINI.write_answer(said)
    parts = GenerateContentResponse.model_validate(body).candidates[0].content.parts
    assert parts[1].inline_data.mime_type == "image/png"
    events = GEMINI.writer(REQUEST).feed(deltas_of(said))
    assert [event["candidates"][0]["content"]["parts"] for event in events] == [[{"text": "Here."}], [_part(PNG)]]


@pytest.mark.parametrize(("media", "note"), [(PNG, NOTE), (SOUND, NOTE_OF_SOUND)])
def test_an_anthropic_client_is_told_that_there_was_one(media, note):
    assert [block["text"] for block in written(ANTHROPIC, media)["content"]] == ["Here.", note]
    texts = [event["delta"]["text"] for event in streamed(ANTHROPIC, media) if event["type"] == "content_block_delta"]
    assert texts == ["Here.", note]


def test_sound_is_told_of_where_it_has_no_place():
    assert written(CHAT, SOUND)["choices"][0]["message"]["content"] == "Here." + NOTE_OF_SOUND
    deltas = [choice["delta"] for event in streamed(CHAT, SOUND) for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Here." + NOTE_OF_SOUND
    for body in (written(RESPONSES, SOUND), streamed(RESPONSES, SOUND)[-1]["response"]):
        assert [part["text"] for part in body["output"][0]["content"]] == ["Here.", NOTE_OF_SOUND]


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, GEMINI], ids=lambda wire: wire.name)
def test_a_stream_with_them_is_read_into_what_was_written(wire):
    """Other gateways give pictures as well, and a kept answer is given again."""
    said = GEMINI.read_answer(answered(PNG, WEBP))
    passage = Passage(wire, wire, REQUEST)
    writer = wire.writer(REQUEST)
    for event in [*writer.feed(deltas_of(said)), *writer.end(Usage(3, 1292))]:
        passage.feed(wire.frame(event))
    assert [part for part in passage.talk.said().parts if isinstance(part, Media)] == [PNG, WEBP]
    assert wire.read_answer(wire.write_answer(said, REQUEST)).parts == said.parts


def test_a_client_may_send_them_back():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "draw"},
            {"role": "assistant", "content": "Here.", "images": [image, 7, {"image_url": 7}]},
            {"role": "user", "content": "larger"},
        ],
    }
    big = Media("image", "image/png", data="A" * 1_000_000)
    assert CHAT.read(body).turns[1].parts == (Text("Here."), big)
    assert CHAT.check(body).input_bound < 50_000
    item = {"type": "image_generation_call", "id": "ig_1", "result": "AAAA", "output_format": "webp"}
    ask = RESPONSES.read({"model": "m", "input": [{"role": "user", "content": "draw"}, item]})
    assert ask.turns[1].parts == (Media("image", "image/webp", data="AAAA"),)
    parts = GEMINI.write(ask, Quirks())["contents"][1]["parts"]
    assert parts == [{"inlineData": {"mimeType": "image/webp", "data": "AAAA"}}]


def test_pictures_are_output_and_counted_as_such():
    assert GEMINI.usage_of(answered(PNG)) == Usage(3, 1292, output_image_tokens=1290)
    passage = Passage(CHAT, GEMINI, REQUEST)
    event = {"candidates": [{"content": {"parts": [_part(PNG)]}}]}
    assert passage.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    assert passage.begun
    assert MediaDelta(0, PNG) in GEMINI.reader().feed(orjson.dumps(event))


CALL = ToolCall("t1", "look", "{}")
SHOWN = Ask(
    "m",
    (
        Turn("user", (Text("draw"),)),
        Turn("assistant", (Text("Here."), PNG, SOUND, CALL)),
        Turn("user", (Text("brighter"), ToolResult("t1", (Text("seen"),)))),
    ),
)
BASE64 = "data:image/png;base64,AAAA"
TOLD = "[image, shown in the next message]"


def test_a_picture_of_the_models_is_shown_by_the_user_in_a_chat():
    drawn, result, shown = CHAT.write(SHOWN, Quirks())["messages"][1:]
    assert drawn["content"] == f"Here.{TOLD}[audio, shown in the next message]"
    assert result["role"] == "tool"
    sound = {"type": "input_audio", "input_audio": {"data": "CCCC", "format": "wav"}}
    picture = {"type": "image_url", "image_url": {"url": BASE64}}
    assert shown == {"role": "user", "content": [picture, sound, {"type": "text", "text": "brighter"}]}


def test_a_picture_of_the_models_is_shown_by_the_user_to_anthropic():
    drawn, shown = ANTHROPIC.write(SHOWN, Quirks())["messages"][1:]
    assert [block.get("text") for block in drawn["content"]] == ["Here.", TOLD, NOTE_OF_SOUND, None]
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert [block["type"] for block in shown["content"]] == ["tool_result", "image", "text"]
    assert shown["content"][1] == {"type": "image", "source": source}


def test_a_picture_of_the_models_is_shown_by_the_user_to_responses():
    _, drawn, call, result, shown = RESPONSES.write(SHOWN, Quirks())["input"]
    assert [part["text"] for part in drawn["content"]] == ["Here.", TOLD, NOTE_OF_SOUND]
    assert (call["type"], result["type"]) == ("function_call", "function_call_output")
    assert [part["type"] for part in shown["content"]] == ["input_image", "input_text"]
    assert shown["content"][0]["image_url"] == BASE64


def test_a_picture_that_no_user_answered_is_shown_at_the_end():
    last = Ask("m", (Turn("user", (Text("draw"),)), Turn("assistant", (PNG,))))
    messages = CHAT.write(last, Quirks())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == TOLD


def test_gemini_gets_a_picture_of_the_models_where_it_was():
    drawn = GEMINI.write(SHOWN, Quirks())["contents"][1]
    assert [next(iter(part)) for part in drawn["parts"]] == ["text", "inlineData", "inlineData", "functionCall"]
