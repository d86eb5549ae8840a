"""Tools and documents that a chat template is given: checked, and schemas made of Python functions."""

from __future__ import annotations

import contextlib
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from llmcore.errors import ArgumentTypeError, Error
from llmcore.generate.chat.messages import Clean, plain

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_TYPES = {**_SCALARS, list: "array", tuple: "array", dict: "object"}
_SECTION = re.compile(r"\s*(Args|Returns|Raises):\s*\Z")
_ARGUMENT = re.compile(r"(\s*)(\w+)(?:[ \t]*\([^()]*\))?:\s*(.*)")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*\Z", re.IGNORECASE)


def tools_given(tools: Any, clean: Clean = str, wrapped: bool = True) -> list[dict[str, Any]] | None:
    """Return tools as a template gets them: objects, functions' schemas, or a JSON text of a list. wrapped: a tool that is a
    function alone, {"name": ..., "parameters": ...}, becomes {"type": "function", "function": ...}.

    TypeError or ValueError, in one line, for anything else."""
    if tools is None:
        return None
    found = []
    for i, tool in enumerate(_list(tools, "tools")):
        if callable(tool) and not isinstance(tool, (Mapping, str)):
            tool = function_schema(tool)
        tool = _from_json(tool, f"tools[{i}]") if isinstance(tool, str) else tool
        if not isinstance(tool, Mapping):
            raise ArgumentTypeError("chat", f"tools[{i}]", expected="a function or its schema", got=f"{tool!r:.100}")
        tool = plain(tool, f"tools[{i}]", clean)
        if wrapped and "name" in tool and "function" not in tool and tool.get("type", "function") == "function":
            tool = {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        found.append(tool)
    return found


def documents_given(documents: Any, clean: Clean = str) -> list[dict[str, Any]] | None:
    """Return documents as a template gets them: objects such as {"title": ..., "text": ...}, or a JSON text of a list."""
    if documents is None:
        return None
    found = []
    for i, document in enumerate(_list(documents, "documents")):
        if not isinstance(document, Mapping):
            expected = 'an object such as {"title": ..., "text": ...}'
            raise ArgumentTypeError("chat", f"documents[{i}]", expected=expected, got=f"{document!r:.100}")
        found.append(plain(document, f"documents[{i}]", clean))
    return found


def variables_given(variables: Any, clean: Clean = str) -> dict[str, Any]:
    """Return chat_template_kwargs as a template gets them."""
    name = "chat_template_kwargs"
    variables = _from_json(variables, name) if isinstance(variables, str) else variables
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise ArgumentTypeError("chat", expected=f"{name} as an object", got=f"{variables!r:.100}")
    return plain(variables, name, clean)


def _list(given: Any, name: str) -> Sequence[Any]:
    given = _from_json(given, name) if isinstance(given, str) else given
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Sequence):
        raise ArgumentTypeError("chat", expected=f"{name} as a list", got=f"{given!r:.100}")
    return given


def _from_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error("chat", name, expected="JSON", got=f"{text!r:.100}: {error}") from None


# ---- schemas of functions ----


def function_schema(function: Callable) -> dict[str, Any]:
    """Return the schema of a function: names, types and defaults are those of its signature, descriptions those of its
    docstring in Google's style. "(choices: [...])" at the end of an argument's description lists its values.

    ValueError, in one line, for a function without docstring, types, or descriptions of all arguments."""
    name = getattr(function, "__name__", type(function).__name__)
    where = f"tool {name}"
    doc = inspect.getdoc(function)
    if not doc or not doc.strip():
        raise Error("chat", where, expected="a docstring", got="none")
    about, described, returned = _described(doc)
    parameters, result = _signature(function, where)
    required = [p for p, (_, needed) in parameters.items() if needed]
    properties = {}
    for parameter, (schema, _) in parameters.items():
        if parameter not in described:
            raise Error(
                "chat", where, expected=f"a description of {parameter} under Args: in its docstring", got="none"
            )
        text = described[parameter]
        choices = _CHOICES.search(text)
        if choices:
            values = _from_json(choices[1], f"{where}: choices of {parameter}")
            if not isinstance(values, list):
                raise Error("chat", where, expected=f"a list of choices of {parameter}", got=f"{values!r:.100}")
            schema["enum"] = [v.strip() if isinstance(v, str) else v for v in values]
            text = text[: choices.start()].strip()
        properties[parameter] = {**schema, "description": text}
    whole: dict[str, Any] = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    made = {"name": name, "description": about, "parameters": whole}
    if result is not None:
        made["return"] = result | ({} if returned is None else {"description": returned})
    return {"type": "function", "function": made}


def _described(doc: str) -> tuple[str, dict[str, str], str | None]:
    """Return what a docstring says of the function, of its arguments, and of what it returns."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.strip().split("\n"):
        header = _SECTION.match(line)
        if header:
            current = header[1]
            sections.setdefault(current, [])
        else:
            sections[current].append(line)
    arguments: dict[str, list[str]] = {}
    indent, last = "", ""
    for line in sections.get("Args", []):
        found = _ARGUMENT.fullmatch(line)
        # What is indented further than an argument belongs to its description.
        if found and (not arguments or not (found[1].startswith(indent) and len(found[1]) > len(indent))):
            indent, last = found[1], found[2]
            arguments[last] = [found[3]]
        elif last and line.strip():
            arguments[last].append(line)
    joined = {name: " ".join(part.strip() for part in lines if part.strip()) for name, lines in arguments.items()}
    returned = "\n".join(sections["Returns"]).strip() if "Returns" in sections else None
    return "\n".join(sections[""]).strip(), joined, returned


def _signature(function: Callable, where: str) -> tuple[dict[str, tuple[dict, bool]], dict | None]:
    """Return the schema of each parameter with whether it is required, and that of the result, if it has one."""
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function if hasattr(function, "__annotations__") else type(function).__call__)
    except (TypeError, ValueError, NameError) as error:
        raise Error("chat", where, expected="a function with a signature", got=" ".join(str(error).split())) from None
    found = {}
    for i, (name, parameter) in enumerate(signature.parameters.items()):
        if parameter.annotation is parameter.empty:
            if i == 0 and name in ("self", "cls"):
                continue
            raise Error("chat", where, expected=f"a type of {name}", got="none")
        if name in hints:
            found[name] = (_schema(hints[name], f"{where}: {name}"), parameter.default is parameter.empty)
    result = None
    if "return" in hints:
        with contextlib.suppress(ValueError):  # a model writes no results: their type need not have a schema
            result = _schema(hints["return"], where)
    return found, result


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """Return the JSON schema of a type."""
    if hint is Any:
        return {}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of([member.value for member in hint], where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None and isinstance(hint, type) and hint in _TYPES:
        return {"type": _TYPES[hint]}
    if origin in (typing.Union, types.UnionType):
        return _union([_schema(a, where) for a in args if a is not type(None)], type(None) in args)
    if origin is Literal:
        return _one_of(list(args), where)
    if origin is list:
        return {"type": "array", "items": _schema(args[0], where)}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [_schema(a, where) for a in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], where)}
    raise Error("chat", where, expected="a type that JSON has (write the schema by hand)", got=f"{hint!r:.100}")


def _union(schemas: list[dict[str, Any]], nullable: bool) -> dict[str, Any]:
    if len(schemas) == 1:
        found = schemas[0]
    elif all(s.keys() == {"type"} and isinstance(s["type"], str) for s in schemas):
        names = sorted({s["type"] for s in schemas})
        found = {"type": names[0] if len(names) == 1 else names}
    else:
        found = {"anyOf": schemas}
    return {**found, "nullable": True} if nullable else found


def _one_of(values: list[Any], where: str) -> dict[str, Any]:
    if not values or any(type(v) not in _SCALARS for v in values):
        raise Error("chat", where, expected="texts, numbers, booleans or None to choose from", got=f"{values!r:.100}")
    kinds = list(dict.fromkeys(_SCALARS[type(v)] for v in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}
