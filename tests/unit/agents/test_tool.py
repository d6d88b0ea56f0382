import asyncio
import threading
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field

from backstay.agents import Tool, ToolContext, ToolError
from backstay.agents.signature import BadArguments
from backstay.agents.toolbox import Toolbox
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal

ORDER = UUID("0189f7e2-0000-7000-8000-000000000001")
CONTEXT = ToolContext(Principal.system(uuid4(), "test"), uuid4(), "run:1")


class Address(BaseModel):
    street: str
    city: str = "Paris"


async def refund(
    order: UUID,
    amount: Annotated[Decimal, Field(gt=0)],
    reason: Literal["late", "broken"] = "late",
    day: date = date(2026, 1, 2),
    to: Address | None = None,
    *,
    idempotency_key: str,
    context: ToolContext,
) -> dict[str, object]:
    """Pay an order back.

    Money leaves at once.

    Args:
        order: Which order.
        amount (Decimal): How much, in EUR,
            tax included.
        reason: Why.

    Returns:
        What was done.
    """
    return {"order": order, "amount": amount, "reason": reason, "day": day, "to": to, "key": idempotency_key}


def test_the_model_sees_name_words_and_types_of_the_signature_and_nothing_of_what_we_fill_in():
    tool = Tool(refund)
    assert tool.name == "refund"
    assert tool.description == "Pay an order back.\n\nMoney leaves at once."
    assert tool.schema["required"] == ["order", "amount"]
    assert tool.schema["additionalProperties"] is False
    properties = tool.schema["properties"]
    assert list(properties) == ["order", "amount", "reason", "day", "to"]
    assert properties["order"] == {"description": "Which order.", "format": "uuid", "type": "string"}
    assert properties["amount"]["description"] == "How much, in EUR, tax included."
    assert properties["reason"] == {
        "default": "late",
        "description": "Why.",
        "enum": ["late", "broken"],
        "type": "string",
    }
    assert properties["day"]["default"] == "2026-01-02"


async def test_arguments_arrive_as_values_of_the_annotated_types_and_the_result_as_json():
    order = uuid4()
    given = f'{{"order": "{order}", "amount": "4.20", "to": {{"street": "Rue 1"}}}}'
    assert await Tool(refund).call(CONTEXT, given) == (
        f'{{"order":"{order}","amount":"4.20","reason":"late","day":"2026-01-02",'
        '"to":{"street":"Rue 1","city":"Paris"},"key":"run:1"}'
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("not json", "arguments"),
        ("[]", "arguments"),
        ('{"order": "x", "amount": 1}', "- order: Input should be a valid UUID"),
        ('{"amount": 1}', "- order: Field required"),
        (f'{{"order": "{ORDER}", "amount": 0}}', "- amount: Input should be greater than 0"),
        (f'{{"order": "{ORDER}", "amount": 1, "reason": "mood"}}', "- reason: Input should be 'late' or 'broken'"),
        (f'{{"order": "{ORDER}", "amount": 1, "sudo": true}}', "- sudo: Extra inputs are not permitted"),
        (f'{{"order": "{ORDER}", "amount": 1, "idempotency_key": "mine"}}', "- idempotency_key: Extra inputs"),
        (f'{{"order": "{ORDER}", "amount": 1, "context": {{}}}}', "- context: Extra inputs"),
        (f'{{"order": "{ORDER}", "amount": true}}', "- amount: "),
    ],
)
async def test_bad_arguments_never_reach_the_function(given, told):
    tool = Tool(refund)
    with pytest.raises(BadArguments) as caught:
        tool.check(given)
    assert told in str(caught.value)
    with pytest.raises(BadArguments):
        await tool.call(CONTEXT, given)


def test_a_number_in_quotes_is_not_taken_for_a_number():
    def add(a: int) -> int:
        return a

    with pytest.raises(BadArguments, match="a: Input should be a valid integer"):
        Tool(add).check('{"a": "5"}')


def test_a_thousand_faults_are_told_as_five():
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    with pytest.raises(BadArguments) as caught:
        Tool(add).check('{"numbers": [' + ",".join(['"x"'] * 1000) + "]}")
    assert str(caught.value).count("\n") == 6
    assert "and 995 more" in str(caught.value)


async def test_a_plain_function_runs_beside_the_loop_and_a_parameter_may_have_any_name():
    def where(schema: str, copy: bool = True, json: int = 1) -> str:
        return f"{schema} {copy} {json} {threading.current_thread() is threading.main_thread()}"

    assert await Tool(where).call(CONTEXT, '{"schema": "s"}') == "s True 1 False"


async def test_a_default_of_the_function_is_its_own_and_not_shared():
    def collect(more: list[int] | None = None, into: object = object) -> int:
        return len(more or [])

    assert await Tool(collect).call(CONTEXT, "") == "0"


async def test_a_large_result_is_cut_and_says_so():
    def much() -> str:
        return "x" * 1000

    told = await Tool(much, max_result=10).call(CONTEXT, "{}")
    assert told == "x" * 10 + "\n[cut: the first 10 of 1000 characters]"


async def test_a_result_without_json_form_is_an_error_that_names_the_tool():
    async def odd() -> object:
        return asyncio.Lock()

    with pytest.raises(ToolError, match="the tool odd returned a Lock"):
        await Tool(odd).call(CONTEXT, "{}")


async def test_nul_in_a_result_does_not_reach_the_database():
    def nul() -> dict[str, str]:
        return {"a": "b\x00c"}

    assert "\\u0000" not in await Tool(nul).call(CONTEXT, "{}")


def bare(a) -> str: ...
def star(*a: int) -> str: ...
def keywords(**a: int) -> str: ...
def positional(a: int, /) -> str: ...
def lost(a: "Nowhere") -> str: ...  # noqa: F821
def odd(a: asyncio.Lock) -> str: ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (bare, "annotate its parameter `a`"),
        (star, "has no name that a model could use"),
        (keywords, "has no name that a model could use"),
        (positional, "has no name that a model could use"),
        (lost, "Import the types that it names at run time"),
        (odd, "a parameter's type has no schema"),
        (lambda: "", "is no name for a tool"),
    ],
)
def test_a_function_that_cannot_be_a_tool_says_why(function, told):
    with pytest.raises(ConfigurationError, match=told):
        Tool(function)


def test_a_name_stands_for_one_tool():
    box = Toolbox()

    @box.tool
    def look(at: str) -> str:
        """Look."""
        return at

    assert look(at="here") == "here"
    with pytest.raises(ConfigurationError, match="a tool is called look already"):
        box.tool(look.function)
    other = box.tool(look.function, name="look_again")
    assert [tool.name for tool in box.all_of([look, other, len_of])] == ["look", "look_again", "len_of"]
    with pytest.raises(ConfigurationError, match="two tools of the agent are called look"):
        box.all_of([look, look])
    with pytest.raises(ConfigurationError, match="is no tool"):
        box.all_of(["look"])


def len_of(text: str) -> int:
    return len(text)
