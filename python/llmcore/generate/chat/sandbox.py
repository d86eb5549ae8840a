"""Where chat templates run: Jinja's immutable sandbox, which keeps them away from Python's internals, on a budget.

A template comes with a model file, from anywhere. Every iteration of a loop, every call of a macro and every character that
it produces costs, so that a template which loops forever or fills the memory is stopped.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcore.generate.chat.literals import OWN, Literals, own_call
from llmcore.generate.chat.marks import BEGINS, ENDS, UNMARKED, Marks
from llmcore.generate.chat.messages import Arguments, Parts

BUDGET = 50_000_000  # total of characters produced and loop iterations
LARGEST = 4_000_000  # characters of one string, elements of one list
GENERATION = OWN + "generation"  # a variable and a filter that no template can name
_STEP = 500  # the cost of an iteration or a call, on top of the characters in it
_OVERSPENT = "more loops or text than a chat needs"
_CASES = ("upper", "lower", "capitalize", "title", "swapcase", "casefold")
_UNMARKED = ("e", "escape", "forceescape", "striptags", "urlencode", "urlize", "xmlattr")
# Methods of a text whose first argument is looked for in it.
_LOOKING = (
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "rsplit", "partition", "rpartition"),
    *("removeprefix", "removesuffix", "strip", "lstrip", "rstrip"),
)
_TELLING = ("startswith", "endswith", "find", "rfind", "index", "rindex", "count")  # nothing of the text comes back


class Refused(TemplateError):
    """Raised by a template's raise_exception(...): it does not accept these messages."""


class Environment(ImmutableSandboxedEnvironment):
    """The environment of one template: `left` is the rest of its budget. marks: the tokenizer's, for whose control tokens
    the template's literals get twins."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, marks: Marks = UNMARKED) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.left, self.marks = BUDGET, marks
        self.filters["tojson"] = self._to_json  # without the HTML escapes of Jinja's own
        for name in _CASES:
            if name in self.filters:
                self.filters[name] = marks.keeping(self.filters[name])
        self.filters = {name: self._charging(name, f) for name, f in self.filters.items()}
        self.tests = {name: self._settling(f) for name, f in self.tests.items()}
        self.tests["string"] = lambda value: isinstance(value, (str, Arguments))
        for name in ("charge", "concatenate", "settled", "parts"):
            self.filters[OWN + name] = _own(getattr(self, name))
        self.filters[GENERATION] = _generation
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    # ---- costs ----

    def charge(self, cost: int) -> str:
        """Take a cost off the budget; also called in every loop's and macro's body (see `compiled`), where it outputs nothing."""
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

    def _charging(self, filter: str, function: Any) -> Any:
        first = (
            1 if hasattr(function, "jinja_pass_arg") else 0
        )  # it takes the context or the environment before the value

        def paid(*args: Any, **named: Any) -> Any:
            self._check_arguments(args, named)
            values = [a for a in args if isinstance(a, (str, list, tuple))]
            if filter in ("replace", "trim") and len(args) > first + 1:
                args = (*args[: first + 1], self.marks.settled(args[first + 1]), *args[first + 2 :])
            if filter in _UNMARKED:
                args = tuple(map(self.marks.plain, args))
            if filter == "replace" and len(values) > 2:
                self._check_replace(values[0], values[1], values[2])
                if len(args) == first + 3 and not named and all(isinstance(a, str) for a in args[first:]):
                    return self._charge_for(self._replaced(*args[first:]))
            if filter == "format" and values:
                self._check_format(str(values[0]))
            if filter == "join" and values and isinstance(values[0], (list, tuple)):
                self._check_join(values[1] if len(values) > 1 else "", values[0])
            found = function(*args, **named)
            return self._charge_for(
                self.marks.clean(found) if filter in _UNMARKED and isinstance(found, str) else found
            )

        for attribute in ("jinja_pass_arg", "__name__"):
            if hasattr(function, attribute):
                setattr(paid, attribute, getattr(function, attribute))
        return paid

    def _settling(self, test: Any) -> Any:
        """Return a test that sees texts as comparisons do."""
        if self.marks is UNMARKED:
            return test

        def settled(*args: Any, **named: Any) -> Any:
            return test(*map(self.marks.settled, args), **named)

        if hasattr(test, "jinja_pass_arg"):
            settled.jinja_pass_arg = test.jinja_pass_arg  # type: ignore[attr-defined]
        return settled

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

    def settled(self, value: Any) -> Any:
        """Evaluate an operand of a comparison."""
        return self.marks.settled(value)

    def parts(self, content: Any) -> Any:
        """Evaluate what a loop over a message's content goes through: a text is one part."""
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            if type(left) is not type(right) and (isinstance(left, str) or isinstance(right, str)):
                left, right = (str(v) if isinstance(v, (Parts, Arguments)) else v for v in (left, right))
            return self._charge_for(left + right)
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
            if name in _CASES:
                obj = self.marks.keeping(getattr(str, name))
                args = (bound, *args)
            elif name in ("replace", "split") and isinstance(args[0] if args else None, str) and not named:
                function = self._replaced if name == "replace" else self._split
                obj, args = function, (bound, *args)
            elif name in _LOOKING and args:
                args = (self._settle(args[0]), *args[1:])
                if name in _TELLING:
                    obj = getattr(self.marks.settled(bound), name)
        return self._charge_for(super().call(context, obj, *args, **named))

    def _replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        found = self.marks.finding(text, old)
        if found is None or not isinstance(count, int):
            return text.replace(self.marks.settled(old), new, count)
        return found.sub(lambda _: new, text, max(count, 0)) if count else text

    def _split(self, text: str, separator: str, most: int = -1) -> list[str]:
        found = self.marks.finding(text, separator)
        if found is None or not isinstance(most, int):
            return text.split(self.marks.settled(separator), most)
        return found.split(text, max(most, 0)) if most else [text]

    def _settle(self, value: Any) -> Any:
        """Return what is looked for: a text, or one of several."""
        return tuple(map(self.marks.settled, value)) if isinstance(value, tuple) else self.marks.settled(value)

    def _to_json(self, value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        text = json.dumps(value, ensure_ascii=False, indent=indent, **options)
        return self.marks.escaped(text) if ensure_ascii else text

    def compiled(self, tree: nodes.Template) -> Template:
        """Compile a parsed template, whose tree is changed: its bodies charge for each iteration, ~ is a call that charges,
        and literals have twins."""
        tree.set_environment(self)
        for body_of in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            assert isinstance(body_of, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))
            text = sum(len(data.data) for data in body_of.find_all(nodes.TemplateData))
            body_of.body.insert(0, nodes.ExprStmt(own_call("charge", [nodes.Const(_STEP + text)], body_of)))
        literals = Literals(self.marks)
        literals.rewrite(tree)
        self.marks = self.marks.with_words(literals.words)
        return self.from_string(tree)


def _own(method: Any) -> Any:
    """Return a method as a filter that is not evaluated when the template is compiled."""

    @pass_context
    def called(context: Any, *args: Any) -> Any:
        return method(*args)

    return called


@pass_context
def _generation(context: Any, begins: bool) -> str:
    """Return what stands for a {% generation %} tag in a rendering that is asked for them."""
    if not context.get(GENERATION):
        return ""
    return BEGINS if begins else ENDS


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks what the model writes."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        tags = (nodes.Filter(nodes.Const(b), GENERATION, [], [], None, None, lineno=line) for b in (True, False))
        begins, ends = (nodes.Output([tag], lineno=line) for tag in tags)
        return nodes.Scope([begins, *body, ends], lineno=line)  # transformers' tag is a scope too


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)
