"""Values that fit a JSON schema, made of the words and numbers of a question: the same ones every time."""

import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SAMPLES = {
    "date": "2024-02-29",
    "date-time": "2024-02-29T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_DEEP, _DEEPEST = 4, 32  # below the first only what is required, below the second nothing
_MOST_VALUES, _MOST_ITEMS = 1_000, 16


def fill(schema: Any, question: str) -> Any:
    """What `schema` asks for. Texts are the question, numbers are those in it, in their order, kept within the schema's
    bounds; a `pattern` is not looked at.
    """
    return _Filling(schema, question).value(schema, 0)


class _Filling:
    def __init__(self, root: Any, question: str) -> None:
        self._root, self._question = root, question
        self._numbers = iter(_NUMBER.findall(question))
        self._left = _MOST_VALUES  # a schema that refers to itself many times over has no end

    def value(self, given: Any, depth: int) -> Any:
        rule = self._plain(given)
        if self._left < 0 or depth > _DEEPEST:
            return None
        if "const" in rule:
            return rule["const"]
        if isinstance(rule.get("enum"), list) and rule["enum"]:
            asked = self._question.lower()
            return next((v for v in rule["enum"] if str(v).lower() in asked), rule["enum"][0])
        kind = rule.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object" or (kind is None and "properties" in rule):
            return self._object(rule, depth)
        if kind == "array":
            return self._array(rule, depth)
        if kind in ("integer", "number"):
            return self._number(rule, whole=kind == "integer")
        if kind in ("boolean", "null"):
            return True if kind == "boolean" else None
        return self._text(rule)

    def _plain(self, given: Any, nested: int = 0) -> Mapping[str, Any]:
        """The rule behind references and alternatives."""
        self._left -= 1
        rule: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        for _ in range(_MOST_ITEMS):
            if self._left < 0 or nested > _DEEP:
                break
            if isinstance(rule.get("$ref"), str):
                rule = self._found(rule["$ref"])
            elif isinstance(parts := rule.get("allOf"), list):
                own = {key: value for key, value in rule.items() if key != "allOf"}
                rule = _merged(own, [self._plain(part, nested + 1) for part in parts])
            elif isinstance(ways := rule.get("anyOf") or rule.get("oneOf"), list):
                objects = [way for way in ways if isinstance(way, Mapping)]
                rule = next((way for way in objects if way.get("type") != "null"), {})
            else:
                return rule
        return {}

    def _found(self, reference: str) -> Mapping[str, Any]:
        place = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                place = place.get(step) if isinstance(place, Mapping) else None
        return place if isinstance(place, Mapping) else {}

    def _object(self, rule: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = rule.get("properties"), rule.get("required")
        needed = required if isinstance(required, list) else []
        return {
            name: self.value(inner, depth + 1)
            for name, inner in (properties.items() if isinstance(properties, Mapping) else ())
            if depth < _DEEP or name in needed
        }

    def _array(self, rule: Mapping[str, Any], depth: int) -> list[Any]:
        least = rule.get("minItems")
        count = least if isinstance(least, int) else 0
        if "items" in rule and depth < _DEEP:
            count = max(count, 1)
        return [self.value(rule.get("items"), depth + 1) for _ in range(min(count, _MOST_ITEMS))]

    def _number(self, rule: Mapping[str, Any], *, whole: bool) -> float:
        number = float(next(self._numbers, "1"))
        step = 1 if whole else 0.5
        bounds = (
            ("minimum", max, 0.0),
            ("exclusiveMinimum", max, step),
            ("maximum", min, 0.0),
            ("exclusiveMaximum", min, -step),
        )
        for name, chosen, beyond in bounds:
            if isinstance(bound := rule.get(name), int | float):
                number = chosen(number, bound + beyond)
        return int(number) if whole else number

    def _text(self, rule: Mapping[str, Any]) -> str:
        sample = _SAMPLES.get(str(rule.get("format")), self._question)
        least, most = rule.get("minLength"), rule.get("maxLength")
        if isinstance(least, int) and 0 < least <= _MOST_VALUES:
            sample = sample.ljust(least, ".")
        return sample[:most] if isinstance(most, int) and most >= 0 else sample


def _merged(rule: dict[str, Any], parts: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    for part in parts:
        for name, value in part.items():
            old = rule.get(name)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                rule[name] = {**old, **value}
            elif isinstance(old, list) and isinstance(value, list):
                rule[name] = [*old, *value]
            else:
                rule[name] = value
    return rule
