"""Chat templates: render messages as the text that a model was trained to continue, in Jinja with transformers' conventions."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError, meta, nodes
from jinja2.environment import Template as JinjaTemplate

from llmcore.errors import Error
from llmcore.generate.chat import messages as plain_messages
from llmcore.generate.chat.marks import END, UNMARKED, Marks
from llmcore.generate.chat.sandbox import BUDGET, GENERATION, Environment, Refused
from llmcore.generate.chat.tools import documents_given, tools_given, variables_given

DEFAULT, WITH_TOOLS = "default", "tool_use"  # names of templates that are taken unasked
_OURS = ("messages", "tools", "documents", "add_generation_prompt")


class ChatOptions(NamedTuple):
    """What a conversation is rendered with beside its messages. tools: what the model may call: schemas, Python functions
    with types and a docstring, or JSON. documents: what it may quote. chat_template: the name of one of the model's
    templates, or a template. chat_template_kwargs: variables of the template, such as {"enable_thinking": False}."""

    tools: Any = None
    documents: Any = None
    chat_template: str | None = None
    chat_template_kwargs: Any = None


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
        one = len(self.sources) == 1
        self._templates = {n: Template(s, name if one else f"{name}: {n:.100}") for n, s in self.sources.items()}

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

    def chosen(self, chosen: str | None = None, tools: bool = False) -> Template:
        """Return one of the templates: that with the chosen name, or the chosen Jinja source; else, as transformers does,
        "tool_use" where there are tools, else "default". ValueError names the templates if there is no such one."""
        names = ", ".join(f"{n:.100}" for n in sorted(self.sources))
        if chosen is not None:
            if not isinstance(chosen, str):
                raise Error("chat", expected="chat_template a name or a template", got=f"{chosen!r:.100}")
            if chosen not in self._templates and "{" not in chosen:
                raise Error("chat", self.name, expected=f"chat_template one of {names}", got=f"{chosen!r:.100}")
            if chosen not in self._templates:
                if self._given is None or self._given.source != chosen:
                    self._given = Template(chosen, "chat_template")
                return self._given
        elif tools and WITH_TOOLS in self.sources:
            chosen = WITH_TOOLS
        elif DEFAULT in self.sources:
            chosen = DEFAULT
        else:
            raise Error("chat", self.name, expected=f"chat_template one of {names}: none of them is the default")
        return self._templates[chosen]

    _given: Template | None = None  # the last one that was given as a source

    def variables(self) -> dict[str, list[str]]:
        """Return the names of the templates, each with the variables that it reads, but for those that are always there."""
        return {name: template.own_variables(self.tokens) for name, template in self._templates.items()}

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **options: Any) -> str:
        """Render `messages` ({"role", "content", ...}), followed by the beginning of the model's answer unless
        add_generation_prompt is False. options: those of `ChatOptions`.

        ValueError, in one line, if the template refuses the messages, fails or exceeds its budget.
        """
        return self.marked(UNMARKED, messages, add_generation_prompt, ChatOptions(**options))[0]

    def marked(
        self,
        marks: Marks,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        options: ChatOptions,
        continued: str | None = None,
        generation: bool = False,
    ) -> tuple[str, Marks]:
        """Render messages with the marks of a tokenizer, to be encoded by the marks that are returned. continued: the key of
        the last message (such as "content") that is still to be continued: the text ends there. generation: put BEGINS
        and ENDS around what the template marks as the model's."""
        template = self.chosen(options.chat_template, options.tools is not None)
        said = plain_messages.conversation(messages, marks.clean, template.asks_for_null_content)
        template.check_calls(said)
        tools = tools_given(options.tools, marks.clean, template.unwraps_functions)
        documents = documents_given(options.documents, marks.clean)
        variables = variables_given(options.chat_template_kwargs, marks.clean)
        template.check_reads({"tools": tools, "documents": documents}, variables, self.tokens)
        last = None if continued is None else _open_end(said, continued)
        tokens = {name: marks.token(text) for name, text in self.tokens.items()}
        context = {**tokens, **variables, "messages": said, "tools": tools, "documents": documents}
        context |= {"add_generation_prompt": add_generation_prompt, GENERATION: generation}
        try:
            text, marks = template.render(marks, context)
        except Error:
            silent = [message for message in said if "content" not in message]
            if not silent:
                raise
            for message in silent:  # calls of tools, as a rule; many a template adds their content to other text
                message["content"] = ""
            text, marks = template.render(marks, context)
        return (text if last is None else _up_to_end(text, last, template.name)), marks

    def __repr__(self) -> str:
        return f"ChatTemplate({self.source[:60]!r}{'...' if len(self.source) > 60 else ''})"


class Template:
    """One template. It is compiled for a tokenizer's marks when it is first used with them. `name`: what errors call it."""

    def __init__(self, source: str, name: str):
        """ValueError if it is not valid Jinja."""
        if not isinstance(source, str):
            raise Error("chat", name, expected="a template as a string", got=type(source).__name__)
        self.source, self.name = source, name
        self._compiling = threading.Lock()
        self._compiled: tuple[Marks, JinjaTemplate] | None = None
        self._parsed = self._jinja(lambda: Environment().parse(source))  # until it is compiled, which changes it

    def _jinja(self, work: Any) -> Any:
        try:
            return work()
        except (TemplateError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
            raise Error("chat", self.name, expected=f"a Jinja template, got: {_line(error)}") from None

    def render(self, marks: Marks, context: Mapping[str, Any]) -> tuple[str, Marks]:
        """Return the text, and the marks that encode it."""
        with self._compiling:
            if self._compiled is None or self._compiled[0] is not marks:
                self._compiled = (marks, self._jinja(lambda: Environment(marks).compiled(self._tree())))
                self._parsed = None
            compiled = self._compiled[1]
        environment = compiled.environment
        assert isinstance(environment, Environment)
        environment.left = BUDGET
        try:
            return compiled.render(context), environment.marks
        except Refused as error:
            raise Error("chat", f"{self.name}: the template refuses: {_line(error, marks)}") from None
        except RecursionError:
            raise Error("chat", self.name, expected="a template that ends", got="endless recursion") from None
        except Error:
            raise
        except Exception as error:  # a foreign program may raise anything
            raise Error("chat", f"{self.name}: the template fails: {_line(error, marks)}") from None

    def _tree(self) -> nodes.Template:
        return Environment().parse(self.source) if self._parsed is None else self._parsed

    @cached_property
    def reads(self) -> frozenset[str]:
        """The variables that the template reads."""
        return frozenset(self._jinja(lambda: meta.find_undeclared_variables(self._tree())))

    def own_variables(self, tokens: Mapping[str, str]) -> list[str]:
        """Return the variables that it reads, in alphabetical order, but for those that are always there."""
        always = {"messages", "add_generation_prompt", *tokens, "bos_token", "eos_token", *Environment().globals}
        return sorted(self.reads - always)

    def check_reads(self, given: Mapping[str, Any], variables: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
        """Raise ValueError for what is given and never read, which would be ignored."""
        for name, value in given.items():
            if value and name not in self.reads:
                raise Error("chat", self.name, expected=f"no {name}: the template does not use them", got=len(value))
        for name in variables:
            if name in _OURS or name in tokens:
                raise Error("chat", expected=f"chat_template_kwargs without {name}, which is set otherwise")
            if name not in self.reads:
                known = (
                    ", ".join(n for n in self.own_variables(tokens) if n not in _OURS) or "none: it has no variables"
                )
                raise Error(
                    "chat", self.name, expected=f"chat_template_kwargs among {known:.300}", got=f"{name!r:.100}"
                )

    def check_calls(self, said: Sequence[Mapping[str, Any]]) -> None:
        """Raise ValueError for calls of tools that the template never reads, unless it writes messages whole."""
        if "tool_calls" in self.source or "tojson" in self.source:
            return
        for i, message in enumerate(said):
            if message.get("tool_calls"):
                about = f"{self.name}: messages[{i}]"
                raise Error("chat", about, expected="no tool_calls: the template does not use them", got="some")

    @cached_property
    def asks_for_null_content(self) -> bool:
        """Whether the template tells messages without content by its being none."""
        return bool(re.search(r"content(['\"][\])])?\s+is\s+(not\s+)?none\b", self.source, re.IGNORECASE))

    @cached_property
    def marks_generations(self) -> bool:
        """Whether the template marks what the model writes: {% generation %}."""
        return bool(re.search(r"{%[-+]?\s*generation\s*[-+]?%}", self.source))

    @property
    def unwraps_functions(self) -> bool:
        """Whether the template takes tools to be {"type": "function", "function": ...}."""
        return "function" in self.source


def _open_end(said: list[dict[str, Any]], key: str) -> str:
    """Put the mark of an end after what the last message says, and return that."""
    last, where = said[-1], f"messages[{len(said) - 1}]"
    value, end = last.get(key), f"{END} "  # the space shows whether the template trims
    if isinstance(value, list) and any(isinstance(part.get("text"), str) for part in value):
        part = next(p for p in reversed(value) if isinstance(p.get("text"), str))
        value = part["text"]
        part["text"] += end
    elif isinstance(value, str):
        aliases = [k for k in plain_messages.REASONING if last.get(k) == value] if key != "content" else []
        for name in {key, *aliases}:
            last[name] = value + end
    else:
        raise Error("chat", where, expected=f"a text as its {key}, to be continued", got=f"{value!r:.50}")
    return value


def _up_to_end(text: str, last: str, name: str) -> str:
    """Return a text up to the mark of an end, without what a template that trims would have taken off before it."""
    before, mark, after = text.rpartition(END)
    if not mark or last.strip() not in before:
        raise Error(
            "chat", name, expected="a template that writes the last message whole, to be continued", got="another"
        )
    before = before.replace(f"{END} ", "").replace(END, "")
    return before if after.startswith(" ") else before.rstrip()


def _line(error: BaseException, marks: Marks = UNMARKED) -> str:
    return marks.plain(" ".join(str(error).split()))[:200] or type(error).__name__
