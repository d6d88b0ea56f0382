from uuid import uuid4

import pytest

from backstay.agents.models import Question, Source, stream_of
from backstay.agents.prompt import flowing, request
from backstay.gateway.sim.answers import Conversation, reply


def source(number, text):
    return Source(number=number, document=f"d{number}", chunk=uuid4(), text=text, score=1.0)


def test_the_simulator_finds_the_sentence_and_cites_its_source():
    asked = Question(question="When does the\nlease run out?", collection="c", model="sim:extract")
    sources = [
        source(1, "Bananas are yellow.\n\nThey grow in the south."),
        source(2, "When a worker is silent its lease runs\nout after 15 seconds.\n\nThen it is rescued."),
    ]
    said = reply("extract", Conversation(request(asked, sources)["messages"])).text
    assert "its lease runs out after 15 seconds. [2]" in said


def test_without_sources_the_model_is_told_so():
    asked = Question(question="Why?", collection="c", model="sim:extract")
    assert "There are no sources." in request(asked, [])["messages"][1]["content"]


@pytest.mark.parametrize(
    ("text", "flows"),
    [
        ("One\ntwo.\n\nThree", "One two.\nThree"),
        ("# Title\nBody\ngoes on", "# Title\nBody goes on"),
        ("- a that\n  goes on\n- b\n\n1. one\n2. two", "- a that goes on\n- b\n1. one\n2. two"),
        ("| a | b |\n| c | d |\nafter", "| a | b |\n| c | d |\nafter"),
        ("See\n```py\nx = 1\n\n  y\n```\nafter\nthat", "See\n```py\nx = 1\n\n  y\n```\nafter that"),
        ("*emphasis* at the\n*start*", "*emphasis* at the *start*"),
    ],
)
def test_sentences_flow_and_structure_stays(text, flows):
    assert flowing(text) == flows


def test_the_stream_follows_from_the_run():
    run = uuid4()
    assert stream_of(run) == stream_of(run) != stream_of(uuid4())
