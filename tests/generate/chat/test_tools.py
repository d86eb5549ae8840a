"""Schemas of Python functions, as transformers' get_json_schema makes them."""

import enum
from typing import Any, Literal, Optional, Union

import pytest

from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.chat.tools import function_schema

pytestmark = pytest.mark.host


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Mixed(enum.Enum):
    ONE = 1
    NONE = None


class Box:
    """A class that JSON knows nothing of."""


def weather(city: str, days: int = 3, unit: Unit = Unit.C) -> str:
    """Say how the weather will be.

    It may be wrong.

    Args:
        city: The city, such as Oslo,
            in the language of the country: any.
        days (int): For how many days (choices: [1, 3, 7])
        unit: Degrees

    Returns:
        A sentence.
    """


def nothing():
    """Do nothing"""


def hints(
    a: Any, b: list[int], c: dict[str, float], d: tuple[int, str], e: Optional[int], f: Union[int, str, None],  # noqa: UP007, UP045
    g: Literal["x", 2, None], h: list[Optional[str]], i: int | list[str], j: dict, k: list, l: tuple, m: Mixed,  # noqa: E741, UP045
    n: bool | float = 0.5, o: list[list[dict[str, Any]]] | None = None, p: None = None,
):  # fmt: skip
    """Take everything.

    Args:
        a: 1
        b: 2
        c: 3
        d: 4
        e: 5
        f: 6
        g: 7
        h: 8
        i: 9
        j: 10
        k: 11
        l: 12
        m: 13
        n: 14
        o: 15
        p: 16
    Raises:
        ValueError: never
    """


def choices(drink: str, sizes: list[str]) -> dict[str, int]:
    """
    Order something.

    Args:
        drink: What to drink (choices: ["tea ", "coffee"])
        sizes:
            How much of it

    Returns:
        What it costs

        in cents
    """


def returns_a_box(a: int) -> Box:
    """Return it.

    Args:
        a: its size
    """


class Tools:
    """Methods are tools as well."""

    def method(self, a: int) -> None:
        """Do it.

        Args:
            a: with this
        """

    @classmethod
    def of_class(cls, a: int) -> None:
        """Do it.

        Args:
            a: with this
        """


FUNCTIONS = [weather, nothing, hints, choices, returns_a_box, Tools().method, Tools.method, Tools.of_class]


@pytest.mark.peers
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__qualname__)
def test_as_transformers(function):
    utils = pytest.importorskip("transformers.utils", reason="transformers is not installed")
    assert function_schema(function) == utils.get_json_schema(function)


def test_schemas():
    """What transformers makes of these, written down."""
    assert function_schema(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Say how the weather will be.\n\nIt may be wrong.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {
                        "type": "string",
                        "description": "The city, such as Oslo, in the language of the country: any.",
                    },
                    "days": {"type": "integer", "enum": [1, 3, 7], "description": "For how many days"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Degrees"},
                },
                "required": ["city"],
            },
            "return": {"type": "string", "description": "A sentence."},
        },
    }
    found = function_schema(hints)["function"]["parameters"]["properties"]
    types = [{k: v for k, v in schema.items() if k != "description"} for schema in found.values()]
    assert types == [
        {},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        {"type": "integer", "nullable": True},
        {"type": ["integer", "string"], "nullable": True},
        {"type": ["string", "integer", "null"], "enum": ["x", 2, None]},
        {"type": "array", "items": {"type": "string", "nullable": True}},
        {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
        {"type": "object"},
        {"type": "array"},
        {"type": "array"},
        {"type": ["integer", "null"], "enum": [1, None]},
        {"type": ["boolean", "number"]},
        {"type": "array", "nullable": True,
         "items": {"type": "array", "items": {"type": "object", "additionalProperties": {}}}},
        {"type": "null"},
    ]  # fmt: skip
    assert "return" not in function_schema(returns_a_box)["function"]
    assert list(function_schema(Tools().method)["function"]["parameters"]["properties"]) == ["a"]


def test_a_template_gets_the_schema():
    template = ChatTemplate("{{ tools[0].function.name }}: {{ tools[0].function.parameters.required | join }}")
    assert template.render([{"role": "user", "content": ""}], tools=[weather]) == "weather: city"


def bare(a: int): ...


def untyped(a):
    """Do it.

    Args:
        a: this
    """


def undescribed(a: int, b: int):
    """Do it.

    Args:
        a: this
    """


def boxed(a: Box):
    """Do it.

    Args:
        a: this
    """


def broken(a: int):
    """Do it.

    Args:
        a: this (choices: [1, )
    """


def endless(a: tuple[int, ...]):
    """Do it.

    Args:
        a: this
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bare, "tool bare: expected a docstring, got none"),
        (untyped, "tool untyped: expected a type of a, got none"),
        (undescribed, "tool undescribed: expected a description of b under Args: in its docstring, got none"),
        (boxed, "tool boxed: a: expected a type that JSON has .*, got <class .*Box"),
        (broken, "tool broken: choices of a: expected JSON"),
        (endless, "tool endless: a: expected a type that JSON has"),
        (len, "tool len: expected"),
    ],
)
def test_functions_that_are_no_tools(function, message):
    with pytest.raises(ValueError, match=rf"\[chat\] {message}") as error:
        function_schema(function)
    assert "\n" not in str(error.value)
