import pytest

from backstay.gateway.wire.anthropic.schema import strict
from backstay.kernel.errors import BadRequest


def test_objects_are_closed_wherever_they_stand():
    person = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    closed = person | {"additionalProperties": False}
    schema = {
        "type": "object",
        "properties": {"all": {"type": "array", "items": person}, "one": {"anyOf": [person, {"type": "null"}]}},
        "$defs": {"Person": person},
        "additionalProperties": True,
    }
    assert strict(schema, "s") == {
        "type": "object",
        "properties": {"all": {"type": "array", "items": closed}, "one": {"anyOf": [closed, {"type": "null"}]}},
        "$defs": {"Person": closed},
        "additionalProperties": False,
    }


def test_what_cannot_be_held_to_is_said_in_the_description():
    assert strict({"type": "integer", "minimum": 1, "maximum": 5, "description": "Stars."}, "s") == {
        "type": "integer",
        "description": "Stars.\nMust hold: minimum: 1, maximum: 5",
    }
    assert strict({"type": "string", "format": "phone"}, "s") == {
        "type": "string",
        "description": 'Must hold: format: "phone"',
    }
    assert strict({"type": "array", "minItems": 3}, "s")["description"] == "Must hold: minItems: 3"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "date-time", "pattern": "^a"},
        {"type": "array", "minItems": 1, "items": {"type": "number"}},
        {"enum": ["a", 1, None], "title": "T", "default": "a"},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"type": ["object", "null"], "properties": {"a": {"const": 1}}, "additionalProperties": False},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}},
    ],
)
def test_what_can_be_held_to_stays_as_it_is(schema):
    assert strict(schema, "s") == schema


def test_alternatives_and_references_are_put_as_anthropic_reads_them():
    assert strict({"oneOf": [{"type": "string"}]}, "s") == {"anyOf": [{"type": "string"}]}
    assert strict({"$ref": "#/$defs/A", "description": "x"}, "s") == {"$ref": "#/$defs/A"}


@pytest.mark.parametrize("schema", [{"type": "object"}, {"type": "object", "additionalProperties": {"type": "string"}}])
def test_an_object_open_to_any_property_is_refused(schema):
    with pytest.raises(BadRequest) as caught:
        strict({"type": "array", "items": schema}, "output.schema")
    assert caught.value.errors[0].field == "output.schema"


def test_the_schema_given_is_left_as_it_was():
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
    strict(schema, "s")
    assert schema == {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
