"""What is stored of a step, without a database."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter

from backstay.workflows import NotStorable
from backstay.workflows.encoding import adapter_of, decode, encode, hash_of, name_of, wants_key


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    tags: set[str]


class Thing(BaseModel):
    at: datetime
    price: Decimal
    points: list[Point]


class Client:
    """An object that is no data."""

    def call(self, *, idempotency_key: str) -> int:
        return 1


THING = Thing(at=datetime(2026, 1, 1, tzinfo=UTC), price=Decimal("1.10"), points=[Point(1, {"a", "b", "c", "d"})])


def test_the_output_comes_back_as_the_annotated_type() -> None:
    def made() -> Thing: ...  # type: ignore[empty-body]

    adapter = adapter_of(made)
    assert decode(adapter, encode(adapter, THING, "made"), "made") == THING


def test_without_an_annotation_it_comes_back_as_plain_json() -> None:
    adapter = adapter_of(lambda: (1, 2))
    assert decode(adapter, encode(adapter, (1, "x"), "it"), "it") == [1, "x"]


@pytest.mark.parametrize("value", ["seven", object(), {"a": "b"}])
def test_another_type_than_the_annotation_says_is_refused(value: object) -> None:
    def number() -> int: ...  # type: ignore[empty-body]

    with pytest.raises(NotStorable):
        encode(adapter_of(number), value, "number")


def test_a_nul_is_refused_and_its_escape_is_not() -> None:
    def text() -> str: ...  # type: ignore[empty-body]

    with pytest.raises(NotStorable, match="NUL"):
        encode(adapter_of(text), "a\0b", "text")
    assert encode(adapter_of(text), "a\\u0000b", "text")


@pytest.mark.parametrize(
    "other",
    [(1, "a"), (2, "b"), ("1", "a", None), (Point(1, {"a"}),), (Point(1, {"b"}),), (Colour.RED,), (b"x",), (2**70,)],
)
def test_other_arguments_have_another_hash(other: tuple[Any, ...]) -> None:
    assert hash_of(other) == hash_of(other)
    assert hash_of(other) != hash_of((THING,))
    assert hash_of(other) != hash_of(())


def test_objects_that_are_no_data_count_by_their_type() -> None:
    assert hash_of((Client(),)) == hash_of((Client(),))
    assert hash_of((Client(),)) != hash_of((object(),))


def test_dictionaries_and_sets_hash_alike_in_any_order_and_any_process() -> None:
    assert hash_of(({"a": 1, "b": 2},)) == hash_of(({"b": 2, "a": 1},))
    program = (
        "from backstay.workflows.encoding import hash_of; print(hash_of(({'b', 'a', 'c'}, {'x': {'z', 'y'}})).hex())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_data_hashes_by_its_value() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert hash_of((UUID(int=1), Decimal("1.0"), moment)) == hash_of((UUID(int=1), Decimal("1.0"), moment))
    assert hash_of((UUID(int=1),)) != hash_of((UUID(int=2),))


def test_names_and_keys_are_found_through_methods_and_partials() -> None:
    client = Client()
    assert name_of(client.call) == name_of(functools.partial(client.call)) == "Client.call"
    assert wants_key(client.call)
    assert not wants_key(len)


class Login(BaseModel):
    name: str
    passwords: list[SecretStr]


def test_a_secret_is_refused_and_not_named_and_what_only_looks_masked_is_stored() -> None:
    with pytest.raises(NotStorable, match="secret") as refused:
        encode(TypeAdapter(Login), Login(name="ada", passwords=[SecretStr("hunter2")]), "step login")
    assert "hunter2" not in str(refused.value)
    assert encode(TypeAdapter(str), "**********", "step mask") == '"**********"'
