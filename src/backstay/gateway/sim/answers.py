"""What the simulator says: text, JSON, or tool calls."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from .filling import fill

_TOKENS = re.compile(r"\s*\S+")
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[^\s])|\n+")
_WORDS = re.compile(r"\w+")
_MARK = re.compile(r"^\s*(\[[^\]\s]{1,40}\])")
_QUOTED = re.compile(r"""(?<!\w)(['"`])([A-Za-z_]\w{0,40})\1""")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from has have how i in is it its of on or that the this to was "
        "what when where which who why will with you your",
    )
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is put on the wire. Tool calls are (name, arguments as JSON)."""

    text: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Conversation:
    """The parts of a request that the simulator looks at."""

    messages: list[Mapping[str, Any]]
    tools: list[Mapping[str, Any]] = field(default_factory=list)
    tool_choice: Any = None
    response_format: Any = None

    @property
    def functions(self) -> list[Mapping[str, Any]]:
        """The tools that may be called; the one that must be, where the request names it."""
        found = [tool["function"] for tool in self.tools if isinstance(tool.get("function"), Mapping)]
        named = self.tool_choice.get("function") if isinstance(self.tool_choice, Mapping) else None
        must = named.get("name") if isinstance(named, Mapping) else None
        return [one for one in found if isinstance(one.get("name"), str) and must in (None, one["name"])]

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, Mapping)

    @property
    def wants_json(self) -> bool:
        given = self.response_format
        return isinstance(given, Mapping) and given.get("type") in ("json_object", "json_schema")

    @property
    def schema(self) -> Any:
        """The JSON schema that the answer must fit; None when any will do."""
        given = self.response_format.get("json_schema") if self.wants_json else None
        return given.get("schema") if isinstance(given, Mapping) else None

    @property
    def last(self) -> Mapping[str, Any]:
        return self.messages[-1]

    @property
    def question(self) -> str:
        return next((text(m) for m in reversed(self.messages) if m.get("role") == "user"), "")


def pieces(answer: str) -> list[str]:
    """The tokens of a text, as the simulator counts them: words with the white space before them."""
    return _TOKENS.findall(answer)


def text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def reply(behaviour: str, talk: Conversation) -> Reply:
    return {"echo": _echo, "extract": _extract, "tools": _tools, "json": _json, "script": _script}[behaviour](talk)


def _echo(talk: Conversation) -> Reply:
    return Reply(talk.question or text(talk.last))


def _extract(talk: Conversation) -> Reply:
    """Sentences of the context that share the rarest words with the question, in the order of the context."""
    question = talk.question
    context = [text(message) for message in talk.messages if message.get("role") != "assistant"]
    asked = question
    if "\n" in question.strip():
        # Context and question came in one message: the question is its last paragraph.
        asked = question.strip().rsplit("\n", 1)[1]
    context = [part.replace(asked, " ") for part in context]
    sentences = [found for part in context for found in _sentences(part)]
    wanted = _stems(asked)
    spread = {stem: sum(stem in stems for _, stems in sentences) for stem in wanted}
    scored = [
        (sum(math.log(1 + len(sentences) / spread[stem]) for stem in wanted & stems) / math.sqrt(8 + len(stems)), index)
        for index, (_, stems) in enumerate(sentences)
        if wanted & stems
    ]
    best = sorted(index for _, index in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:3])
    if not best:
        return Reply("The given context says nothing about this.")
    return Reply(" ".join(sentences[index][0] for index in best))


def _sentences(part: str) -> list[tuple[str, frozenset[str]]]:
    """Sentences with their stems. A mark such as [1] at a paragraph's start goes with each of its sentences."""
    found = []
    for paragraph in re.split(r"\n\s*\n", part):
        mark = _MARK.match(paragraph)
        for sentence in _SENTENCES.split(paragraph[mark.end() :] if mark else paragraph):
            sentence = sentence.strip(" \t-*#>")
            stems = _stems(sentence)
            if len(stems) > 2:
                found.append((f"{sentence} {mark[1]}" if mark else sentence, stems))
    return found


def _stems(sentence: str) -> frozenset[str]:
    return frozenset(word[:6] for word in _WORDS.findall(sentence.lower()) if word not in _COMMON)


def _tools(talk: Conversation) -> Reply:
    """Calls the tool whose name and description share most words with the question, the first one when none does."""
    if talk.last.get("role") == "tool" and not talk.must_call:
        return Reply(f"The tool answered: {text(talk.last)}")
    functions = talk.functions
    if functions and talk.tool_choice != "none":
        return _called(functions, talk.question)
    if talk.wants_json:
        return _json(talk)
    return Reply("No tool may be called." if functions else "No tool was offered.")


def _called(functions: list[Mapping[str, Any]], question: str) -> Reply:
    asked = _stems(question)

    def fit(function: Mapping[str, Any]) -> int:
        words = f"{function['name']} {function.get('description', '')}".replace("_", " ")
        return len(asked & _stems(words))

    chosen = max(functions, key=fit)
    arguments = fill(chosen.get("parameters") or {"type": "object"}, question)
    return Reply(tool_calls=((chosen["name"], orjson.dumps(arguments).decode()),), finish_reason="tool_calls")


def _json(talk: Conversation) -> Reply:
    """JSON of the schema that was asked for. Without one: an object with the names that stand in quotes in the
    question. A tool that must be called gets it as its arguments.
    """
    if talk.must_call and talk.functions:
        return _called(talk.functions, talk.question)
    schema = talk.schema
    if schema is None:
        names = [name for _, name in _QUOTED.findall(talk.question)] or ["answer"]
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return Reply(orjson.dumps(fill(schema, talk.question)).decode())


def _script(talk: Conversation) -> Reply:
    """The step that belongs to this turn, counted by the assistant's messages so far; the last one stays.

    The first system message holds `{"script": [{"content": "…"}, {"tool": "name", "arguments": {…}}, …]}`; a step
    with several calls is `{"calls": [{"tool": …, "arguments": …}, …]}`.
    """
    turn = sum(message.get("role") == "assistant" for message in talk.messages)
    try:
        steps = orjson.loads(text(talk.messages[0]))["script"]
        step = steps[min(turn, len(steps) - 1)]
        if "tool" in step or "calls" in step:
            asked = step.get("calls", [step])
            calls = tuple((str(call["tool"]), _as_json(call.get("arguments", {}))) for call in asked)
            return Reply(tool_calls=calls, finish_reason="tool_calls")
        return Reply(str(step["content"]), finish_reason=str(step.get("finish_reason", "stop")))
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return Reply('The first message must be {"script": [{"content": "…"}, {"tool": "…", "arguments": {…}}]}.')


def _as_json(arguments: Any) -> str:
    """A text is sent as it is: models write arguments that are no JSON, too."""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
