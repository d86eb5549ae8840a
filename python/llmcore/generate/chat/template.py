"""Chat templates: render messages as the text that a model was trained to continue, in Jinja with transformers' conventions.

A template comes with a model file, from anywhere. It runs in Jinja's immutable sandbox, which keeps it away from Python's
internals, and on a budget: every iteration of a loop, every call of a macro and every character that it produces costs, so
that a template which loops forever or fills the memory is stopped and named.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcore.errors import Error

BUDGET = 50_000_000  # total of characters produced and loop iterations
LARGEST = 4_000_000  # characters of one string, elements of one list
_STEP = 500  # the cost of an iteration or a call, on top of the characters in it
_OVERSPENT = "more loops or text than a chat needs"


DEFAULT, WITH_TOOLS = "default", "tool_use"  # names of templates that are taken unasked


class ChatTemplate:
    """The chat template of a model, or several with names. `sources`: their texts by name; a single one is named "default".
    `name`: what errors call them. `tokens`: variables of the templates that are tokens, such as bos_token and eos_token."""

    def __init__(
        self,
        source: str | Mapping[str, str],
        name: str = "chat_template",
        bos_token: str = "",
        eos_token: str = "",
        tokens: Mapping[str, str] | None = None,
    ):
        """ValueError if a template is not valid Jinja."""
        self.sources = dict(source) if isinstance(source, Mapping) else {DEFAULT: source}
        self.name = name
        self.tokens = {"bos_token": bos_token, "eos_token": eos_token, **(tokens or {})}
        self._templates = {}
        for own, text in self.sources.items():
            label = name if len(self.sources) == 1 else f"{name}: {own:.100}"
            if not isinstance(text, str):
                raise Error("chat", label, expected="a template as a string", got=type(text).__name__)
            try:
                self._templates[own] = _Environment().from_string(text)
            except (TemplateError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
                raise Error("chat", label, expected=f"a Jinja template, got: {_line(error)}") from None

    @property
    def source(self) -> str:
        """The text of the default template, or of the first if there is no default."""
        return self.sources.get(DEFAULT) or next(iter(self.sources.values()))

    @property
    def bos_token(self) -> str:
        return self.tokens["bos_token"]

    @property
    def eos_token(self) -> str:
        return self.tokens["eos_token"]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **context: Any,
    ) -> str:
        """Render `messages` ({"role", "content", ...}), followed by the beginning of the model's answer unless
        add_generation_prompt is False. context: further variables for the template.

        ValueError, in one line, if the template refuses the messages, fails or exceeds its budget.
        """
        template = self._templates[self._choice(tools is not None)]
        environment = template.environment
        assert isinstance(environment, _Environment)
        environment.left = BUDGET
        context = {"documents": None, **self.tokens, **context, "messages": list(messages), "tools": tools}
        try:
            return template.render(context, add_generation_prompt=add_generation_prompt)
        except _Refused as error:
            raise Error("chat", f"{self.name}: the template refuses: {_line(error)}") from None
        except RecursionError:
            raise Error("chat", self.name, expected="a template that ends", got="endless recursion") from None
        except Exception as error:  # a foreign program may raise anything
            raise Error("chat", f"{self.name}: the template fails: {_line(error)}") from None

    def _choice(self, tools: bool) -> str:
        """Return the name of the template to take, as transformers does: "tool_use" with tools, else the default one."""
        if tools and WITH_TOOLS in self.sources:
            return WITH_TOOLS
        if DEFAULT in self.sources:
            return DEFAULT
        names = ", ".join(f"{n:.100}" for n in sorted(self.sources))
        raise Error("chat", self.name, expected=f"chat_template= one of {names}: none of them is the default")

    def __repr__(self) -> str:
        return f"ChatTemplate({self.source[:60]!r}{'...' if len(self.source) > 60 else ''})"


class _Refused(TemplateError):
    """Raised by a template's raise_exception(...): it does not accept these messages."""


class _Environment(ImmutableSandboxedEnvironment):
    """The environment of one template: `left` is the rest of its budget."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.left = BUDGET
        self.filters["tojson"] = _to_json  # without the HTML escapes of Jinja's own
        self.filters = {name: self._charging(f) for name, f in self.filters.items()}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    # ---- costs ----

    def charge(self, cost: int) -> str:
        """Take a cost off the budget; also called in every loop's and macro's body (see _parse), where it outputs nothing."""
        self.left -= cost
        if self.left < 0:
            raise SecurityError(_OVERSPENT)
        return ""

    def _charge_for(self, value: Any) -> Any:
        """Charge for a string or a list; returns it."""
        if isinstance(value, (str, bytes, list, tuple)):
            if len(value) > LARGEST:
                raise SecurityError(_OVERSPENT)
            self.charge(len(value))
        return value

    def _check_arguments(self, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Refuse huge numbers, which may be a width or a count."""
        for value in (*args, *named.values()):
            if isinstance(value, int) and abs(value) > LARGEST:
                raise SecurityError(_OVERSPENT)

    def _charging(self, function: Any) -> Any:
        def paid(*args: Any, **named: Any) -> Any:
            self._check_arguments(args, named)
            values = [a for a in args if isinstance(a, (str, list, tuple))]
            name = getattr(function, "__name__", "")
            if name == "do_replace" and len(values) > 2:
                self._check_replace(values[0], values[1], values[2])
            if name == "do_format" and values:
                self._check_format(str(values[0]))
            if name == "do_join" and values and isinstance(values[0], (list, tuple)):
                self._check_join(values[1] if len(values) > 1 else "", values[0])
            return self._charge_for(function(*args, **named))

        for attribute in ("jinja_pass_arg", "__name__"):  # whether it takes the context or environment first
            if hasattr(function, attribute):
                setattr(paid, attribute, getattr(function, attribute))
        return paid

    def _check_replace(self, text: Any, old: Any, new: Any) -> None:
        if str(text).count(str(old)) * len(str(new)) > LARGEST:
            raise SecurityError(_OVERSPENT)

    def _check_join(self, separator: Any, items: Sequence[Any]) -> None:
        if sum(len(i) for i in items if isinstance(i, str)) + len(str(separator)) * len(items) > LARGEST:
            raise SecurityError(_OVERSPENT)

    def _check_format(self, form: str) -> None:
        if any(len(digits) > 4 for digits in re.findall(r"\d+", form)) or "*" in form:
            raise SecurityError(_OVERSPENT)

    # ---- operations that produce values ----

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (not isinstance(right, (int, float)) or abs(right) > 64 or abs(left) > 1 << 64):
            raise SecurityError(_OVERSPENT)
        if operator == "*":
            for many, count in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and isinstance(count, int) and len(many) * count > LARGEST:
                    raise SecurityError(_OVERSPENT)
            if all(isinstance(v, int) and v.bit_length() > 4096 for v in (left, right)):
                raise SecurityError(_OVERSPENT)
        if operator == "%" and isinstance(left, str):
            self._check_format(left)
        return self._charge_for(super().call_binop(context, operator, left, right))

    def concatenate(self, *values: Any) -> str:
        """Evaluate the ~ operator."""
        texts = [str(v) for v in values]
        self.charge(sum(map(len, texts)))
        return self._charge_for("".join(texts))

    def call(self, context: Any, obj: Any, /, *args: Any, **named: Any) -> Any:  # type: ignore[override]
        self._check_arguments(args, named)
        method = getattr(obj, "__wrapped__", obj)  # the sandbox has its own str.format
        bound, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(bound, str):
            if name == "replace" and len(args) > 1:
                self._check_replace(bound, args[0], args[1])
            if name == "join" and args and isinstance(args[0], (list, tuple)):
                self._check_join(bound, args[0])
            if name in ("format", "format_map"):
                self._check_format(bound)
        return self._charge_for(super().call(context, obj, *args, **named))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template into a tree whose bodies charge for each iteration, and in which ~ is a call that charges."""
        tree = super()._parse(source, name, filename)
        for body_of in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            assert isinstance(body_of, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))
            text = sum(len(data.data) for data in body_of.find_all(nodes.TemplateData))
            pay = nodes.Call(nodes.EnvironmentAttribute("charge"), [nodes.Const(_STEP + text)], [], None, None)
            body_of.body.insert(0, nodes.ExprStmt(pay, lineno=body_of.lineno))
        return _Concatenations().visit(tree)


class _Concatenations:
    """Turns every `a ~ b` of a tree into a call of `concatenate`."""

    def visit(self, node: Any) -> Any:
        for name, value in node.iter_fields():
            if isinstance(value, list):
                value[:] = [self.visit(v) if isinstance(v, nodes.Node) else v for v in value]
            elif isinstance(value, nodes.Node):
                setattr(node, name, self.visit(value))
        if isinstance(node, nodes.Concat):
            called = nodes.EnvironmentAttribute("concatenate")
            return nodes.Call(called, node.nodes, [], None, None, lineno=node.lineno, environment=node.environment)
        return node


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks the model's own text; it is rendered like anything else."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
