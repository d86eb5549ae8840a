"""Messages in every form that people send them in, and what a chat is given beside them."""

import dataclasses
import json

import numpy as np
import pytest

from llmcore import Tokenizer, models
from llmcore.generate import LanguageModel
from llmcore.generate.chat.messages import conversation
from llmcore.generate.chat.template import ChatTemplate
from support.chat_templates import CONTROL, TEMPLATES

pytestmark = pytest.mark.host

HI = [{"role": "user", "content": "hi"}]
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def rendered(source, messages=HI, add_generation_prompt=False, **options):
    return ChatTemplate(source, "x").render(messages, add_generation_prompt, **options)


def text(kind, **fields):
    return {"type": kind, "text": "b", **fields}


@pytest.mark.parametrize(
    ("content", "joined", "looped"),
    [
        ("a", "a", "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", "a|b"),
        (["a", text("input_text"), text("output_text", image_url=None)], "abb", "a|b|b"),
        ([{"text": "a"}], "a", None),
        (({"type": "text", "text": ""},), "", ""),
        ([], "", ""),
    ],
)
def test_content_is_text_or_parts(content, joined, looped):
    said = [{"role": "user", "content": content}]
    for source in ("{{ m.content }}", "{{ m['content'] + '' }}", "{{ '' ~ m.content }}", "{{ m.content | trim }}",
                   "{{ m.content.strip() }}", "{{ m.content | string }}"):  # fmt: skip
        assert rendered("{% for m in messages %}" + source + "{% endfor %}", said) == joined
    assert rendered("{{ 'b' in messages[0].content }}", said) == str("b" in joined)
    loop = "{% for p in messages[0].content if p.type == 'text' %}{{ p.text }}{{ '|' if not loop.last }}{% endfor %}"
    if looped is not None:
        assert rendered(loop, said) == looped  # a text is a part, too, for a template that knows nothing else


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, r"messages\[0\]: expected content as a text, got 3"),
        ([3], r"messages\[0\]: content\[0\]: expected .*text.*, got 3"),
        ([{"type": "text"}], r"messages\[0\]: content\[0\]: expected text as a text, got None"),
        ([{"type": "text", "text": 3}], r"content\[0\]: expected text as a text, got 3"),
        (
            ["a", {"type": "image", "url": "u"}],
            r"content\[1\]: expected text: this model reads nothing else, got 'image'",
        ),
        ([{"type": "image_url", "image_url": {"url": "u"}}], "got 'image_url'"),
        ([{"image_url": {"url": "u"}}], "got 'image_url'"),
        ([{"type": "input_audio", "input_audio": {}}], "got 'input_audio'"),
        ([{"type": "thinking", "thinking": "t"}], r"content\[0\]: expected a part that is text, got 'thinking'"),
        (np.array([1]), r"messages\[0\]: expected content as a text"),
        ([{"type": "text", "text": "a", "n": np.int64(3)}], r"messages\[0\]: expected .*JSON, got numpy.int64"),
    ],
)
def test_content_that_is_refused(content, message):
    with pytest.raises(ValueError, match=message) as error:
        rendered("{{ messages[0].content }}", [{"role": "user", "content": content}])
    assert "\n" not in str(error.value)


def test_tools_may_give_objects_back():
    said = [{"role": "tool", "content": {"°C": 3}}]
    for source in ("{{ m.content }}", "{{ '' + m.content }}", "{{ '' ~ m.content }}", "{{ m.content | tojson }}"):
        assert rendered("{% for m in messages %}" + source + "{% endfor %}", said) == '{"°C": 3}'
    assert rendered("{{ messages[0].content is mapping }}{{ messages[0].content['°C'] }}", said) == "True3"
    with pytest.raises(ValueError, match=r"messages\[0\]: expected content as a text, got {'a': 1}"):
        rendered("", [{"role": "user", "content": {"a": 1}}])


def test_null_is_absent():
    said = [{"role": "assistant", "content": None, "tool_calls": None, "name": None, "x": [None]}]
    assert rendered("{{ messages[0] | tojson }}{{ messages[0].content }}", said) == '{"role": "assistant", "x": [null]}'
    # but where a template tells messages without content by it (DeepSeek-R1)
    asks = "{% if messages[0]['content'] is none %}{{ messages[0].tool_calls[0].function.name }}{% endif %}"
    assert rendered(asks, [CALL]) == rendered(asks, [{**CALL, "content": None}]) == "f"


def test_calls_without_content_are_answers_of_no_text():
    joins = "{% for m in messages %}{{ m.role + m.content }}{{ m.tool_calls[0].function.name }}{% endfor %}"
    assert rendered(joins, [CALL]) == rendered(joins, [{**CALL, "content": None}]) == "assistantf"
    with pytest.raises(ValueError, match=r"x: the template fails: 'dict object' has no attribute 'name'"):
        rendered("{{ '' + messages[0].name }}{{ tool_calls }}", [CALL])


@dataclasses.dataclass
class Said:
    role: str
    content: object
    tool_calls: object = None


class Model:
    """As Pydantic's are."""

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self):
        return self.fields


def test_messages_may_be_objects():
    call = Model(id="1", function=Model(name="f", arguments="{}"))
    given = [Said("user", [Model(type="text", text="a")]), Model(role="assistant", content=None, tool_calls=[call])]
    assert conversation(given) == conversation(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        ]
    )


CALLS = [
    ("{{ a | tojson }}", '{"a": 1}', '{"a": 1}'),
    ("{% for k, v in a.items() %}{{ k }}={{ v }}{% endfor %}", "a=1", "a=1"),
    ("{% for k, v in a | items %}{{ k }}={{ v }}{% endfor %}", "a=1", "a=1"),
    ("{{ a if a is string else a | tojson }}", '{"a": 1}', '{"a":1}'),
    ("{{ '' + a }}", None, '{"a":1}'),
    ("{{ '' ~ a }}", "{'a': 1}", '{"a":1}'),
    ("{{ a }}", "{'a': 1}", '{"a":1}'),
    ("{{ a is mapping }}{{ a.a }}", "True1", "True1"),
]


@pytest.mark.parametrize(("source", "of_object", "of_text"), CALLS)
def test_arguments_of_calls_are_objects_and_their_text(source, of_object, of_text):
    source = "{% set a = messages[0].tool_calls[0].function.arguments %}" + source
    for arguments, right in (({"a": 1}, of_object), ('{"a":1}', of_text)):
        call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}
        if right is not None:
            assert rendered(source, [call]) == right
    call["tool_calls"][0]["function"]["arguments"] = "no JSON"
    assert rendered("{{ messages[0].tool_calls[0].function.arguments }}", [call]) == "no JSON"


def test_calls_keep_what_they_have():
    said = conversation(
        [{**CALL, "tool_calls": [{"id": "1", "type": None, "function": {"name": "f", "strict": None}}]}]
    )
    assert said[0]["tool_calls"] == [{"id": "1", "function": {"name": "f"}}]
    assert conversation([{**CALL, "tool_calls": [{"name": "f", "arguments": {}}]}])[0]["tool_calls"][0]["name"] == "f"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ("f", "expected tool_calls as a list, got 'f'"),
        ([3], r"tool_calls\[0\]: expected .*, got 3"),
        ([{"function": "f"}], r"tool_calls\[0\]: expected function as an object, got 'f'"),
        ([{"id": "1"}], r"tool_calls\[0\]: expected the name of a function, got None"),
    ],
)
def test_calls_that_are_refused(calls, message):
    with pytest.raises(ValueError, match=rf"\[chat\] messages\[0\]: {message}"):
        conversation([{"role": "assistant", "tool_calls": calls}])


def test_reasoning_has_all_of_its_names():
    for name in ("reasoning_content", "thinking", "reasoning"):
        message = conversation([{"role": "assistant", "content": "a", name: "t"}])[0]
        assert (message["thinking"], message["reasoning_content"]) == ("t", "t")


def test_other_keys_are_passed_on_and_nothing_is_changed():
    given = [{"role": "user", "content": "a", "name": "Ann", "x": {"y": [1, 2.5, True, None]}}]
    before = json.dumps(given)
    assert conversation(given) == json.loads(before)
    rendered("{% for m in messages %}{{ m.x.y }}{% endfor %}", given)
    assert json.dumps(given) == before


@pytest.mark.parametrize("value", [np.zeros(2), {1}, b"x", object(), {3: 4}])
def test_what_json_does_not_have_is_refused(value):
    with pytest.raises(TypeError, match=r"\[chat\] messages\[1\]: expected (texts as keys|texts, numbers)"):
        conversation([*HI, {"role": "user", "content": "a", "x": [value]}])


def test_deep_and_circular_messages():
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match=r"messages\[0\]: expected at most 64 levels"):
        conversation([{"role": "user", "content": "a", "x": loop}])


# ---- beside messages ----


def test_tools_documents_and_variables():
    assert rendered("{{ tools[0].function.name }}", tools=[TOOL]) == "add"
    assert rendered("{{ tools[0].function.name }}", tools=[TOOL["function"]]) == "add"
    assert rendered("{{ tools[0].name }}", tools=[TOOL["function"]]) == "add"  # it knows no functions
    assert rendered("{{ tools[0].function.name }}", tools=json.dumps([TOOL])) == "add"
    assert rendered("{{ tools[0].function.name }}", tools=[json.dumps(TOOL)]) == "add"
    assert rendered("{{ tools[0].type }}function", tools=[{"type": "web_search", "name": "n"}]) == "web_searchfunction"
    assert rendered("{{ documents[0].title }}", documents=[{"title": "t", "text": ""}]) == "t"
    switch = "{{ enable_thinking is defined and enable_thinking is false }}"
    assert rendered(switch) == "False"
    assert rendered(switch, chat_template_kwargs={"enable_thinking": False}) == "True"
    assert rendered(switch, chat_template_kwargs='{"enable_thinking": false}') == "True"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tools": {"name": "f"}}, TypeError, "expected tools as a list, got .*f"),
        ({"tools": 3}, TypeError, "expected tools as a list, got 3"),
        ({"tools": "[1"}, ValueError, "tools: expected JSON"),
        ({"tools": [3]}, TypeError, r"tools\[0\]: expected a function or its schema, got 3"),
        ({"tools": [TOOL, {"x": b""}]}, TypeError, r"tools\[1\]: expected texts, numbers"),
        ({"documents": {"title": "t"}}, TypeError, "expected documents as a list"),
        ({"documents": ["t"]}, TypeError, r"documents\[0\]: expected an object such as .*title"),
        ({"chat_template_kwargs": [1]}, TypeError, r"expected chat_template_kwargs as an object, got \[1\]"),
        ({"chat_template_kwargs": {"messages": []}}, ValueError, "expected chat_template_kwargs without messages"),
        ({"chat_template_kwargs": {"eos_token": ""}}, ValueError, "expected chat_template_kwargs without eos_token"),
        (
            {"chat_template_kwargs": {"thinking": 1}},
            ValueError,
            "x: expected chat_template_kwargs among n, got 'thinking'",
        ),
        ({"chat_template": "rag"}, ValueError, "x: expected chat_template one of default, got 'rag'"),
        ({"chat_template": 3}, ValueError, "expected chat_template a name or a template, got 3"),
        ({"chat_template": "{% if"}, ValueError, "chat_template: expected a Jinja template"),
    ],
)
def test_options_that_are_refused(options, error, message):
    with pytest.raises(error, match=rf"\[chat\] {message}") as found:
        rendered("{{ tools }}{{ documents }}{{ n }}", **options)
    assert "\n" not in str(found.value)


def test_what_a_template_never_reads_is_refused():
    for given in ({"tools": [TOOL]}, {"documents": [{"text": ""}]}):
        (name,) = given
        with pytest.raises(ValueError, match=rf"\[chat\] x: expected no {name}: the template does not use them, got 1"):
            rendered("{{ messages[0].content }}", **given)
        assert rendered("{{ messages[0].content }}", **{name: []}) == "hi"
    with pytest.raises(ValueError, match=r"x: messages\[1\]: expected no tool_calls: the template does not use them"):
        rendered("{{ messages[0].content }}", [*HI, CALL])
    with pytest.raises(ValueError, match="among none: it has no variables"):
        rendered("{{ messages[0].content }}", chat_template_kwargs={"a": 1})


def test_a_template_that_is_given():
    template = ChatTemplate({"default": "d", "rag": "r{{ documents | length }}"})
    assert template.render(HI, chat_template="rag", documents=[{"text": ""}]) == "r1"
    assert template.render(HI, chat_template="{{ messages[0].content }}!") == "hi!"
    assert template.variables() == {"default": [], "rag": ["documents"]}


# ---- the last message continued ----

CONTINUED = [
    ("{% for m in messages %}<{{ m.content }}>{% endfor %}", "an answer ", "<hi><an answer "),
    ("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", " an answer ", "<hi><an answer"),
    ("{% for m in messages %}<{{ m.content | tojson(ensure_ascii=true) }}>{% endfor %}", "e", '<"hi"><"e'),
    ("{% for m in messages %}<{% for p in m.content %}{{ p.text }}{% endfor %}>{% endfor %}", [text("text")], "<hi><b"),
    ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "x", "hihixx"),
]


@pytest.mark.parametrize(("source", "content", "right"), CONTINUED)
def test_the_last_message_is_continued(source, content, right):
    tokenizer = Tokenizer.train(iter(["ab" * 9]), 257, special_tokens=["<e>"])
    lm = LanguageModel(
        models.Llama(models.LlamaConfig(257, 64, 32, 1, 2)), tokenizer, chat_template=ChatTemplate(source)
    )
    said = [*HI, {"role": "assistant", "content": content}]
    assert tokenizer.decode(lm.chat_prompt(said, continue_final_message=True)) == right
    assert tokenizer.decode(lm.chat_prompt(said, False, continue_final_message=True)) == right
    if isinstance(content, str):
        assert said[-1]["content"] == content
    with pytest.raises(ValueError, match="expected add_generation_prompt or continue_final_message, got both"):
        lm.chat_prompt(said, True, continue_final_message=True)


@pytest.mark.parametrize(
    ("messages", "source", "message"),
    [
        (
            [CALL],
            "{{ messages[0].tool_calls }}",
            r"messages\[0\]: expected a text as its content, to be continued, got None",
        ),
        ([{"role": "user", "content": []}], "", r"messages\[0\]: expected a text as its content"),
        (HI, "x", "expected a template that writes the last message whole, to be continued"),
        (HI, "{{ messages[0].content | upper }}", "expected a template that writes the last message whole"),
        (HI, "{{ messages[0].content[1:] }}", "expected a template that writes the last message whole"),
    ],
)
def test_nothing_to_continue(messages, source, message):
    tokenizer = Tokenizer.train(iter(["ab" * 9]), 257, special_tokens=["<e>"])
    lm = LanguageModel(
        models.Llama(models.LlamaConfig(257, 64, 32, 1, 2)), tokenizer, chat_template=ChatTemplate(source)
    )
    with pytest.raises(ValueError, match=message):
        lm.chat_prompt(messages, continue_final_message=True)


def test_reasoning_is_continued():
    source = "{% for m in messages %}<{{ m.reasoning_content }}|{{ m.content }}>{% endfor %}"
    tokenizer = Tokenizer.train(iter(["ab" * 9]), 257, special_tokens=["<e>"])
    lm = LanguageModel(
        models.Llama(models.LlamaConfig(257, 64, 32, 1, 2)), tokenizer, chat_template=ChatTemplate(source)
    )
    said = [{"role": "assistant", "content": "", "thinking": "so"}]
    assert tokenizer.decode(lm.chat_prompt(said, continue_final_message="thinking")) == "<so"


def test_a_chat_takes_them_all():
    tokenizer = Tokenizer.train(iter(["the cat sat on the mat\n" * 3]), 256 + len(CONTROL), special_tokens=CONTROL)
    c = models.LlamaConfig(tokenizer.vocab_size, 1024, 32, 1, 2)
    lm = LanguageModel(models.Llama(c, seed=1), tokenizer, chat_template=ChatTemplate(TEMPLATES))
    with pytest.raises(
        ValueError, match=r"expected chat_template one of bars, bracket, .*: none of them is the default"
    ):
        lm.chat(HI)
    options = {"chat_template": "thinking", "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}
    prompt = lm.chat_prompt(HI, **options)
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    answer = lm.chat(HI, 5, temperature=0, **options)
    assert (answer.prompt_tokens, answer.text) == (len(prompt), lm.generate(prompt, 5, temperature=0).text)
    assert "".join(lm.chat_stream(HI, 5, temperature=0, **options)) == answer.text
    with pytest.raises(TypeError, match=r"\[chat\] expected an option .*chat_template_kwargs.*, got 'enable_thinking'"):
        lm.chat(HI, chat_template="thinking", enable_thinking=False)
    bare = LanguageModel(lm.model, tokenizer, [0])
    assert tokenizer.decode(bare.chat_prompt(HI, chat_template="[{{ messages[0].content }}]")) == "[hi]"
    with pytest.raises(ValueError, match="expected a model with a chat template"):
        bare.chat(HI)
